//! Every command that a document shows: walpurge's own are read by its real command line, targets
//! of make are in the Makefile, and what is run by no test says why.

use std::collections::BTreeSet;

use clap::{CommandFactory, error::ErrorKind};
use walpurge::cli::Cli;

use super::{Block, blocks_and_prose, code_spans, pages, read, root};

/// Programs of others that documents show, and why no test runs these lines.
const OTHERS: [(&str, &str); 27] = [
    ("apt", "changes the machine; scripts/install.sh installs the same packages before the tests"),
    ("apt-get", "as apt"),
    ("cargo", "builds; a test would wait for its own build"),
    ("cat", "shows a file of the reader's"),
    ("cd", "goes into a directory of the reader's"),
    ("cp", "copies a file of the reader's"),
    ("curl", "asks an endpoint of the reader's; tests/it/admin asks the same paths"),
    ("docker", "needs a Docker daemon, which the tests do without"),
    ("dpkg", "changes the machine"),
    ("git", "is about the reader's own clone"),
    ("install", "writes into the machine's directories"),
    ("journalctl", "needs systemd's journal"),
    ("kill", "is about a process of the reader's; tests send the same signals"),
    ("kubectl", "needs a cluster"),
    ("openssl", "makes a secret of the reader's"),
    ("pg_upgrade", "needs two versions of Postgres"),
    ("promtool", "is not in Debian's main packages of every release"),
    ("psql", "reaches the reader's server; blocks of SQL are run by sql_is_run_by_a_real_server"),
    ("redis-cli", "reaches the reader's Redis; tests/it/redis_sink runs the same ACL lines"),
    ("systemctl", "needs a running systemd"),
    ("systemd-analyze", "needs systemd"),
    ("systemd-creds", "needs systemd and the machine's key"),
    ("systemd-run", "needs a running systemd"),
    ("systemd-sysusers", "makes a user"),
    ("tee", "writes into the machine's directories"),
    ("truncate", "changes a file of the reader's"),
    ("umask", "belongs to the shell"),
];

/// What stands before a command and runs it.
const PREFIXES: [&str; 3] = ["sudo", "exec", "time"];

/// The simple commands of a text, each as its words: without comments, redirections and what
/// stands between commands.
fn commands(text: &str) -> Vec<Vec<String>> {
    let (mut found, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None;
    let joined = text.replace("\\\n", " ") + "\n";
    let mut chars = joined.chars().peekable();
    while let Some(char) = chars.next() {
        match (quote, char) {
            (Some(open), char) if char == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (Some(_), char) => word.get_or_insert_default().push(char),
            (None, '#') if word.is_none() => while chars.next_if(|&char| char != '\n').is_some() {},
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, '\n' | ';' | '|' | '&' | '(' | ')') => {
                words.extend(word.take());
                found.extend(Some(std::mem::take(&mut words)).filter(|words| !words.is_empty()));
            }
            (None, char) => word.get_or_insert_default().push(char),
        }
    }
    assert!(quote.is_none(), "a quote that does not end:\n{text}");
    found
}

/// Without what stands before the command: a prompt, `sudo -u NAME`, variables.
fn bare(mut words: &[String]) -> &[String] {
    loop {
        words = match words {
            [first, rest @ ..] if first == "$" || PREFIXES.contains(&first.as_str()) => rest,
            [option, _, rest @ ..] if ["-u", "-g"].contains(&option.as_str()) => rest,
            [first, rest @ ..] if is_variable(first) => rest,
            _ => return words,
        };
    }
}

/// `NAME=value`.
fn is_variable(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

fn subcommands() -> BTreeSet<String> {
    Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// What of the words the command line of walpurge has to understand: from its name on, wherever
/// another program starts it.
fn of_walpurge<'w>(words: &'w [String], known: &BTreeSet<String>) -> Option<&'w [String]> {
    let is_name = |word: &String| word == "walpurge" || word.ends_with("/walpurge");
    if words.first().is_some_and(is_name) {
        return Some(words);
    }
    let starts = |at: usize| {
        let next = words.get(at + 1);
        is_name(&words[at]) && next.is_some_and(|next| known.contains(next))
    };
    (0..words.len()).find(|&at| starts(at)).map(|at| &words[at..])
}

/// Whether there is such a command, with such options and values.
fn understood(words: &[String]) -> Result<(), String> {
    let words = words.iter().take_while(|word| !word.starts_with(['<', '>']));
    match Cli::command().try_get_matches_from(words) {
        Err(error) if !is_shown(error.kind()) => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// `--help` and `--version` count as errors to clap.
fn is_shown(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

fn targets() -> BTreeSet<String> {
    let makefile = read(&root().join("Makefile"));
    let names = makefile.lines().filter_map(|line| line.split_once(": ").or(line.split_once(':')));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// What is wrong with a command of a document.
fn judge(words: &[String], known: &BTreeSet<String>) -> Result<(), String> {
    let words = bare(words);
    if let Some(ours) = of_walpurge(words, known) {
        return understood(ours);
    }
    match words {
        [] => Ok(()),
        [make, rest @ ..] if make == "make" => {
            let targets = targets();
            let asked = rest.iter().filter(|word| !is_variable(word));
            match asked.into_iter().find(|word| !targets.contains(*word)) {
                Some(target) => Err(format!("the Makefile has no target {target}")),
                None => Ok(()),
            }
        }
        [name, ..] if OTHERS.iter().any(|(known, _)| known == name) => Ok(()),
        [name, ..] => Err(format!("{name} is run by no test, and OTHERS does not say why")),
    }
}

/// The commands of a block: all of it, or the lines behind a prompt or a hint.
fn shown(block: &Block) -> Vec<Vec<String>> {
    let lines = block.text.lines().map(str::trim_start);
    let typed: Vec<&str> = match block.language.as_str() {
        "sh" => return commands(&block.text),
        "console" => lines.filter_map(|line| line.strip_prefix("$ ")).collect(),
        "text" => lines
            .filter_map(|line| {
                let told = line.strip_prefix("hint: ").or(line.strip_prefix("\u{2192} "));
                let told = told.filter(|told| told.starts_with("walpurge "));
                line.strip_prefix("$ ").or(told)
            })
            // What stands behind is for the reader.
            .map(|line| line.split([';', ',']).next().unwrap_or_default())
            .collect(),
        _ => return Vec::new(),
    };
    commands(&typed.join("\n"))
}

#[test]
fn every_command_that_is_shown_can_be_typed() {
    let known = subcommands();
    let (mut count, mut wrong) = (0, Vec::new());
    for block in pages().iter().flat_map(|page| blocks_and_prose(page).0) {
        for words in shown(&block) {
            count += 1;
            if let Err(error) = judge(&words, &known) {
                wrong.push(format!("{}: {}\n  {error}", block.place, words.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 40, "only {count} commands were found");
}

/// `walpurge run --dry-run`, or `run --dry-run` alone. What is missing stands elsewhere.
#[test]
fn every_command_that_is_named_can_be_typed() {
    let known = subcommands();
    let (mut count, mut wrong) = (0, Vec::new());
    for page in pages().iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        for (number, line) in blocks_and_prose(page).1 {
            for span in code_spans(&line) {
                let mut words: Vec<String> = span.split(' ').map(str::to_owned).collect();
                let is_option = words.iter().any(|word| word.starts_with("--"));
                match &words[..] {
                    [first, ..] if known.contains(first) && is_option => {
                        words.insert(0, "walpurge".to_owned());
                    }
                    [first, _, ..] if first == "walpurge" || first == "make" => {}
                    _ => continue,
                }
                count += 1;
                let found = match words[0].as_str() {
                    "make" => judge(&words, &known),
                    _ => match Cli::command().try_get_matches_from(&words) {
                        Err(error) if is_unfinished(error.kind()) || is_shown(error.kind()) => {
                            Ok(())
                        }
                        Err(error) => Err(error.to_string()),
                        Ok(_) => Ok(()),
                    },
                };
                if let Err(error) = found {
                    wrong.push(format!("{}:{number}: {span}\n  {error}", page.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 60, "only {count} commands were found");
}

fn is_unfinished(kind: ErrorKind) -> bool {
    use ErrorKind::{
        DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument, MissingSubcommand,
    };
    matches!(
        kind,
        MissingRequiredArgument | MissingSubcommand | DisplayHelpOnMissingArgumentOrSubcommand
    )
}

#[test]
fn what_cannot_be_typed_is_found() {
    let known = subcommands();
    let judged = |text: &str| {
        let commands = commands(text);
        assert_eq!(commands.len(), 1, "{commands:?}");
        judge(&commands[0], &known)
    };
    for right in [
        "walpurge replay --since 30m --dry-run # a comment; with --nonsense",
        "sudo -u walpurge walpurge parked retry --sink cache",
        "docker compose exec walpurge walpurge status --watch",
        "RUST_LOG=x walpurge run \\\n --assume-gap",
        "make torture MINUTES=30 SEED=1",
        "systemctl restart walpurge",
        "walpurge explain changes.json > actions.json",
    ] {
        assert_eq!(judged(right), Ok(()), "{right}");
    }
    for wrong in [
        "walpurge replay --sinze 30m",
        "walpurge replay --since soon",
        "walpurge chekc",
        "sudo walpurge run --dryrun",
        "docker compose exec walpurge walpurge status --wach",
        "make tortur",
        "unheard-of --flag",
    ] {
        assert!(judged(wrong).is_err(), "{wrong}");
    }
    assert_eq!(commands("a 'b; c' | d \"e\" && f # g\n").len(), 3);
}
