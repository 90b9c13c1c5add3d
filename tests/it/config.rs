//! What is shown for a configuration with mistakes: `tests/golden/config/NAME.toml` and what is
//! shown for it, `NAME.expected`. `WALPURGE_BLESS=1` writes the latter anew.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use walpurge::config::{Source, Style, parse, render};
use walpurge::problem::Problem;

const EXAMPLE: &str = include_str!("../../config.toml.example");

/// Everything that is wrong in a configuration, before any command runs.
fn problems_of(name: &str, source: &str) -> Vec<Problem> {
    parse(name, source).err().unwrap_or_default()
}

fn shown(name: &str, text: &str) -> String {
    let problems = problems_of(name, text);
    let source = Source { name: name.to_owned(), text: text.to_owned() };
    render(&source, &problems, Style::Plain)
}

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config");
    let entries = std::fs::read_dir(directory).expect("the directory of the cases");
    let mut cases: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no case was found");
    cases
}

#[test]
fn problems_are_shown_as_expected() {
    let bless = std::env::var_os("WALPURGE_BLESS").is_some();
    let mut failures = Vec::new();
    for case in cases() {
        let text = std::fs::read_to_string(&case).expect("a case");
        let name = case.file_name().expect("a name").to_string_lossy();
        let shown = shown(&name, &text);
        let expected_path = case.with_extension("expected");
        if bless {
            std::fs::write(&expected_path, &shown).expect("the expectation is written");
            continue;
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if shown != expected {
            failures.push(format!("== {name}\n-- expected\n{expected}\n-- shown\n{shown}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn no_case_shows_a_secret() {
    for case in cases() {
        let text = std::fs::read_to_string(&case).expect("a case");
        assert!(!shown("x", &text).contains("hunter2"), "{}", case.display());
    }
}

/// Bytes that mean something in TOML, or that are likely to be cut wrongly.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("\"".to_owned()),
        Just("'".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("\\".to_owned()),
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("[".to_owned()),
        Just("]]".to_owned()),
        Just("{ env = ".to_owned()),
        Just("}".to_owned()),
        Just(" = ".to_owned()),
        Just("token = ".to_owned()),
        Just("://u:é@".to_owned()),
        Just("日\u{200b}\t\u{1b}".to_owned()),
        "[a-z.#,0-9 ]{0,8}",
        ".{0,4}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(pieces in prop::collection::vec(piece(), 0..40)) {
        shown("config.toml", &pieces.concat());
    }

    #[test]
    fn no_change_of_the_example_makes_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..40_usize, piece()), 1..6),
    ) {
        let mut text = EXAMPLE.to_owned();
        for (place, length, piece) in changes {
            let start = floor(&text, place.index(text.len() + 1));
            let end = floor(&text, start + length).max(start);
            text.replace_range(start..end, &piece);
        }
        shown("config.toml", &text);
    }

    #[test]
    fn no_place_of_a_problem_makes_it_panic(
        pieces in prop::collection::vec(piece(), 0..20),
        span in (0..80_usize, 0..80_usize),
        within in prop::option::of((0..80_usize, 0..80_usize)),
    ) {
        let source = Source { name: "config.toml".to_owned(), text: pieces.concat() };
        let mut problem = Problem::new(span.0..span.1, "message", "label").help("help");
        problem.within = within.map(|(start, end)| start..end);
        render(&source, &[problem], Style::Colour);
    }
}

fn floor(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|&place| text.is_char_boundary(place)).unwrap_or(0)
}
