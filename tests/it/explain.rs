//! What rules make of changes: `tests/golden/rules/NAME.toml`, each with rules, wal2json lines and
//! the actions that `explain` prints for them. `WALPURGE_BLESS=1` writes the latter anew.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;
use testkit::TestDir;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows, in a sentence.
    about: String,
    rules: String,
    lines: String,
    #[serde(default)]
    actions: String,
    /// What is said on stderr, without which `explain` must succeed.
    error: Option<String>,
}

const SERVERS: &str = "[postgres]\nurl = \"postgres://walpurge@localhost/shop\"\n";
const SINK: &str = "[redis.cache]\nurl = \"redis://localhost:6379/0\"\n";

fn explain(config: &str, lines: &[u8]) -> Output {
    let dir = TestDir::new("explain");
    let file = dir.join("config.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_walpurge"));
    command.args(["explain", "--config"]).arg(file);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines).unwrap();
    child.wait_with_output().unwrap()
}

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rules");
    let entries = std::fs::read_dir(directory).unwrap();
    let mut cases: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 80, "only {} cases were found", cases.len());
    cases
}

#[test]
fn rules_make_of_changes_what_their_cases_say() {
    let bless = std::env::var_os("WALPURGE_BLESS").is_some();
    let mut failures = Vec::new();
    for path in cases() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let case: Case = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let sink = if case.rules.contains("[redis.") { "" } else { SINK };
        let output = explain(&format!("{SERVERS}{sink}{}", case.rules), case.lines.as_bytes());
        let actions = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap().trim_end().to_owned();
        let code = output.status.code();
        let error = (!error.is_empty()).then_some(error);
        assert_eq!(code, Some(i32::from(error.is_some())), "{name}: {error:?}");
        if bless {
            std::fs::write(&path, written(&case, &actions, error.as_deref())).unwrap();
        } else if actions.trim() != case.actions.trim() || error != case.error {
            let (about, expected) = (&case.about, &case.actions);
            failures.push(format!(
                "== {name}: {about}\n-- expected\n{expected}{:?}\n-- printed\n{actions}{error:?}",
                case.error
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn written(case: &Case, actions: &str, error: Option<&str>) -> String {
    let section = |name: &str, text: &str| format!("{name} = '''\n{}\n'''\n", text.trim_end());
    let mut text = format!("about = \"{}\"\n", case.about);
    text += &section("rules", &case.rules);
    text += &section("lines", &case.lines);
    text += &section("actions", actions);
    if let Some(error) = error {
        text += &format!("error = '{error}'\n");
    }
    text
}

const RULE: &str = "[redis.cache]\nurl = \"redis://localhost\"\n[[rule]]\ntable = \"s.t\"\ndelete = [\"key:{id}\"]\n";

#[test]
fn bytes_that_are_not_utf8_are_shown_replaced() {
    let line = b"{\"action\":\"I\",\"schema\":\"s\",\"table\":\"t\",\"columns\":[{\"name\":\"id\",\"value\":\"\xff\"}]}";
    let output = explain(&format!("{SERVERS}{RULE}"), line);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("key:\u{FFFD}"));
}

#[test]
fn a_file_is_read_and_a_missing_one_is_named() {
    let dir = TestDir::new("explain");
    let (config, lines) = (dir.join("config.toml"), dir.join("lines.json"));
    std::fs::write(&config, format!("{SERVERS}{RULE}")).unwrap();
    let line = r#"{"action":"D","schema":"s","table":"t","identity":[{"name":"id","value":1}]}"#;
    std::fs::write(&lines, line).unwrap();
    let run = |file: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walpurge"));
        command.arg("explain").arg(file).arg("--config").arg(&config).output().unwrap()
    };
    let output = run(&lines);
    assert!(String::from_utf8(output.stdout).unwrap().contains("\"key:1\""));
    let output = run(&dir.join("absent"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("absent"));
}

#[test]
fn a_wrong_configuration_exits_with_78_and_wrong_usage_with_2() {
    assert_eq!(explain("[postgres]\n", b"").status.code(), Some(78));
    let mut command = Command::new(env!("CARGO_BIN_EXE_walpurge"));
    assert_eq!(command.arg("explian").output().unwrap().status.code(), Some(2));
}
