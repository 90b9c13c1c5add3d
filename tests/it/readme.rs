//! The documentation says what the program does: its TOML loads, its example of `explain` is what
//! `explain` prints, its ACL lines are those that are computed, its commands, SQL and log lines are
//! real ones, and its links lead somewhere.

mod commands;
mod messages;
mod places;
mod sql;

use std::path::{Component, Path, PathBuf};
use std::process::Command;

use testkit::TestDir;
use walpurge::action::Verb;
use walpurge::config::{Source, Style, parse, render};
use walpurge::rules::run_tests;
use walpurge::sinks::redis::{Duties, RedisConfig, RedisOptions, TagMode, least_acl};

/// What stands around a block that is rules alone.
const SERVERS: &str = "[postgres]\nurl = \"postgres://walpurge@localhost/shop\"\n\
                       [redis.cache]\nurl = \"redis://localhost:6379/0\"\n";

/// A fenced block of a page.
pub struct Block {
    /// The page and the line of the opening fence.
    pub place: String,
    language: String,
    pub text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Markdown file at the top, in `systemd` and below `docs`.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories =
        vec![(root().to_owned(), 0), (root().join("systemd"), 0), (root().join("docs"), 9)];
    while let Some((directory, depth)) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && depth > 0 {
                directories.push((path, depth - 1));
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    for name in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/security.md",
        "systemd/README.md",
        "docs/decisions/README.md",
    ] {
        assert!(found.contains(&root().join(name)), "{name} was not found");
    }
    found
}

/// Takes a page apart: its fenced blocks, and the lines outside of them.
fn blocks_and_prose(page: &Path) -> (Vec<Block>, Vec<(usize, String)>) {
    let (mut blocks, mut prose) = (Vec::new(), Vec::new());
    let mut open: Option<Block> = None;
    for (at, line) in read(page).lines().enumerate() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(language), None) => {
                let place = format!("{}:{}", page.display(), at + 1);
                open = Some(Block { place, language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => prose.push((at + 1, line.to_owned())),
        }
    }
    assert!(open.is_none(), "{}: a block that does not end", page.display());
    (blocks, prose)
}

pub fn blocks(page: &Path, language: &str) -> Vec<Block> {
    let (blocks, _) = blocks_and_prose(page);
    blocks.into_iter().filter(|block| block.language == language).collect()
}

/// Without problems, and with rules that pass the tests beside them.
#[track_caller]
fn assert_loads(place: &str, text: &str) {
    let loaded = match parse(place, text) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let source = Source { name: place.to_owned(), text: text.to_owned() };
            panic!("{}", render(&source, &problems, Style::Plain));
        }
    };
    for rule in &loaded.config.rules {
        let verdicts = run_tests(rule, loaded.rules.sinks());
        let lines: Vec<_> = verdicts.iter().flatten().flatten().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{place}: a test of a rule fails:\n{}", lines.join("\n"));
    }
}

#[test]
fn every_toml_block_loads() {
    let (mut whole, mut rules) = (0, 0);
    for block in pages().iter().flat_map(|page| blocks(page, "toml")) {
        if block.text.contains("[postgres]") {
            assert_loads(&block.place, &block.text);
            whole += 1;
        } else {
            assert!(block.text.contains("[[rule]]"), "{}: neither all nor a rule", block.place);
            assert_loads(&block.place, &format!("{SERVERS}{}", block.text));
            rules += 1;
        }
    }
    assert!(whole >= 1 && rules >= 5, "found {whole} configurations and {rules} blocks of rules");
}

#[test]
fn every_configuration_that_is_shipped_loads() {
    for name in ["config.toml.example", "docker/config.toml"] {
        assert_loads(name, &read(&root().join(name)));
    }
}

/// The README's only block of a language that starts so.
#[track_caller]
fn only(language: &str, start: &str) -> String {
    let found = blocks(&root().join("README.md"), language);
    let mut found: Vec<Block> =
        found.into_iter().filter(|block| block.text.starts_with(start)).collect();
    assert_eq!(found.len(), 1, "{language} blocks that start with {start:?}");
    found.remove(0).text
}

/// What needs no server of it; the rest is compared by the tests of `check`.
#[test]
fn the_readme_shows_what_check_says_of_the_configuration() {
    let dir = TestDir::new("readme");
    std::fs::write(dir.join("config.toml"), only("toml", "[postgres]")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_walpurge"))
        .args(["check", "--offline", "--config", "config.toml"])
        .current_dir(dir.join("."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let shown = only("text", "\u{2713} rule product");
    assert!(said.contains(shown.lines().next().unwrap()), "{said}");
}

#[test]
fn the_readme_shows_what_explain_prints() {
    let dir = TestDir::new("readme");
    std::fs::write(dir.join("config.toml"), only("toml", "[postgres]")).unwrap();
    std::fs::write(dir.join("changes.json"), only("json", "{\"action\":\"B\"")).unwrap();
    let shown = only("console", "$ walpurge explain");
    let (typed, expected) = shown.split_once('\n').unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_walpurge"))
        .args(typed.split(' ').skip(2))
        .current_dir(dir.join("."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!expected.is_empty());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn the_readme_shows_the_least_rights() {
    let all = [
        Verb::Delete,
        Verb::DeleteMatching,
        Verb::Bump,
        Verb::BumpMatching,
        Verb::Tag,
        Verb::TagMatching,
        Verb::Publish,
    ];
    let config = RedisConfig::new(RedisOptions::new("cache", "redis://localhost:6379/0")).unwrap();
    let line = least_acl(&Duties::of(&all), &config);
    let shown = blocks(&root().join("README.md"), "text");
    assert!(shown.iter().any(|block| block.text.trim_end() == line), "{line}");
}

/// The table of rights by verb.
#[test]
fn the_security_page_shows_the_least_rights_of_each_verb() {
    let text = read(&root().join("docs/security.md"));
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let cases: [(&str, &[Verb], TagMode); 6] = [
        ("delete", &[Verb::Delete], TagMode::Members),
        ("delete_matching", &[Verb::DeleteMatching], TagMode::Members),
        ("bump", &[Verb::Bump, Verb::BumpMatching], TagMode::Members),
        ("tags", &[Verb::Tag, Verb::TagMatching], TagMode::Members),
        ("tags", &[Verb::Tag, Verb::TagMatching], TagMode::Version),
        ("publish", &[Verb::Publish], TagMode::Members),
    ];
    for (verb, verbs, tag_mode) in cases {
        let options =
            RedisOptions { tag_mode, ..RedisOptions::new("cache", "redis://localhost:6379/0") };
        let line = least_acl(&Duties::of(verbs), &RedisConfig::new(options).unwrap());
        let rights = line.strip_prefix("ACL SETUSER walpurge on >PASSWORD ").unwrap();
        let is_shown = |row: &&&str| {
            code_spans(row).first().is_some_and(|name| name == verb)
                && code_spans(&row.replace("\\|", "|")).last().is_some_and(|shown| shown == rights)
        };
        assert!(rows.iter().any(|row| is_shown(&row)), "{verb}: {rights}");
    }
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let mut count = 0;
    for page in pages() {
        for (number, line) in blocks_and_prose(&page).1 {
            for target in links(&line).filter(|target| !target.contains("://")) {
                let (file, heading) = target.split_once('#').unwrap_or((target, ""));
                let file = match file {
                    "" => page.clone(),
                    file => normal(&page.parent().unwrap().join(file)),
                };
                let place = format!("{}:{number}: {target}", page.display());
                assert!(file.starts_with(root()) && file.exists(), "{place}");
                let is_there = heading.is_empty() || headings(&file).iter().any(|h| h == heading);
                assert!(is_there, "{place}: no such heading");
                count += 1;
            }
        }
    }
    assert!(count >= 10, "only {count} links were found");
}

/// What stands between backquotes in a line: one, or several, which may then hold one.
fn code_spans(line: &str) -> Vec<String> {
    let (mut spans, mut rest) = (Vec::new(), line);
    while let Some(start) = rest.find('`') {
        let fence: String = rest[start..].chars().take_while(|&char| char == '`').collect();
        let behind = &rest[start + fence.len()..];
        let Some(end) = behind.find(&fence) else { break };
        spans.push(behind[..end].trim_matches(' ').to_owned());
        rest = &behind[end + fence.len()..];
    }
    spans
}

/// The targets of `[…](target)` in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// The anchors of a page's headings, as code forges make them.
fn headings(page: &Path) -> Vec<String> {
    let anchor = |heading: &str| -> String {
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    let (_, prose) = blocks_and_prose(page);
    let heading = |line: &str| line.starts_with('#').then(|| anchor(line.trim_matches(['#', ' '])));
    prose.iter().filter_map(|(_, line)| heading(line)).collect()
}

/// Without `..`, which a path that does not exist cannot be asked to resolve.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            component => normal.push(component),
        }
    }
    normal
}

/// The functions of every test file, and of the source with the tests beside it.
fn test_functions() -> String {
    let mut text = String::new();
    let mut directories = vec![root().join("tests/it"), root().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => {
                    text.push_str(&read(&path));
                }
                false => {}
            }
        }
    }
    text
}

#[test]
fn each_test_that_a_page_names_is_there() {
    let functions = test_functions();
    let is_name = |word: &str| {
        word.contains("::") && word.bytes().all(|b| b.is_ascii_lowercase() || b"_:".contains(&b))
    };
    for (page, least) in [("docs/delivery.md", 60), ("docs/security.md", 25)] {
        let text = read(&root().join(page));
        let mut count = 0;
        for name in text.split('`').skip(1).step_by(2).filter(|word| is_name(word)) {
            let function = name.rsplit("::").next().unwrap();
            assert!(functions.contains(&format!("fn {function}(")), "{page}: {name} is no test");
            count += 1;
        }
        assert!(count > least, "{page}: {count} names were found");
    }
}
