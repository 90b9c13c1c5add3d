//! The pages render without a warning, and completions are loaded by a real shell.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "in a test a broken environment should stop it at once and loudly"
)]

use std::path::Path;
use std::process::{Command, Output};

use testkit::TestDir;

fn written() -> TestDir {
    let dir = TestDir::new("manual");
    manual::write_all(dir.path()).unwrap();
    dir
}

#[track_caller]
fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}; run scripts/install.sh"))
}

/// The page as a terminal shows it, without bold and underlined letters, and without hyphenation.
#[track_caller]
fn rendered(page: &Path) -> String {
    let page = page.to_str().unwrap();
    let output = run("groff", &["-man", "-Tutf8", "-ww", "-P-c", "-P-bou", "-rHY=0", page]);
    let warnings = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && warnings.is_empty(), "{page}: {warnings}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_has_a_page_that_renders_without_a_warning() {
    let dir = written();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir.join("man")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = rendered(&path);
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SEE ALSO"] {
            let is_there = text.lines().any(|line| line == heading);
            assert!(is_there, "{name} lacks {heading}:\n{text}");
        }
        let title = name.strip_suffix(".1").unwrap();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("NAME {title} - ")), "{text}");
        names.push(name);
    }
    for name in ["walpurge.1", "walpurge-run.1", "walpurge-parked-list.1", "walpurge-schema.1"] {
        assert!(names.iter().any(|known| known == name), "{name} is missing: {names:?}");
    }
    let first = rendered(&dir.join("man/walpurge.1"));
    for part in ["walpurge-check(1)", "EXIT STATUS", "/etc/walpurge/config.toml", "WALPURGE_CONFIG"]
    {
        assert!(first.contains(part), "walpurge.1 lacks {part}:\n{first}");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let dir = written();
    let script = r#"
        source "$1"
        complete -p walpurge
        complete_line() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _walpurge walpurge "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "${COMPREPLY[@]}"
        }
        complete_line walpurge che
        complete_line walpurge parked re
        complete_line walpurge check --off
    "#;
    let file = dir.join("completions/walpurge");
    let output = run("bash", &["-euc", script, "bash", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("-F _walpurge"), "{said}");
    assert_eq!(lines[1..], ["check", "retry", "--offline"], "{said}");
}

#[test]
fn each_shell_has_a_file_by_the_name_that_it_looks_for() {
    let dir = written();
    for (name, start) in [("_walpurge", "#compdef walpurge"), ("walpurge.fish", "# Print an")] {
        let text = std::fs::read_to_string(dir.join("completions").join(name)).unwrap();
        assert!(text.starts_with(start) && text.contains("parked"), "{name}: {text}");
    }
}
