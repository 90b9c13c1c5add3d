//! What is shipped for Prometheus and Grafana asks for what there is, in words that they know.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::{TestDir, wait_until};

use super::{ask, get, start, world};
use crate::world::PATIENCE;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/dashboard.json")).unwrap()
}

/// Runs promtool; what it says if it does not agree.
#[track_caller]
fn promtool(args: &[&str]) {
    let mut command = Command::new(testkit::install::promtool().unwrap());
    let output = command.args(args).current_dir(file("prometheus")).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said));
}

/// Every value under a key, however deep.
fn under<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key));
            fields.values().for_each(|value| under(value, key, found));
        }
        Value::Array(values) => values.iter().for_each(|value| under(value, key, found)),
        _ => {}
    }
}

/// The dashboard's queries.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let mut found = Vec::new();
    under(&dashboard, "expr", &mut found);
    found.into_iter().map(|query| query.as_str().unwrap().to_owned()).collect()
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let is_in_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.split(|letter| !is_in_name(letter)).filter(|word| word.starts_with("walpurge_")).collect()
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
}

#[test]
fn every_alert_has_a_test_and_a_runbook_that_exists() {
    let (alerts, tests) = (read("prometheus/alerts.yml"), read("prometheus/alerts.test.yml"));
    let page = read("docs/operations.md");
    let names: Vec<_> = alerts.lines().filter_map(|line| line.split_once("- alert: ")).collect();
    assert!(names.len() >= 7, "{names:?}");
    for (_, name) in names {
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} is never seen to fire");
        assert!(page.contains(&format!("\n### {name}\n")), "{name} has no runbook");
        let anchor = name.to_lowercase();
        let link = format!("runbook_url: docs/operations.md#{anchor}\n");
        assert!(alerts.contains(&link), "{name} does not lead to its runbook");
    }
    for key in ["summary:", "description:", "severity:", "runbook_url:"] {
        assert_eq!(alerts.matches(&format!(" {key}")).count(), alerts.matches("- alert:").count());
    }
}

#[test]
fn the_dashboard_is_for_any_data_source_and_its_queries_are_understood() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are given twice");
    let mut sources = Vec::new();
    under(&dashboard, "datasource", &mut sources);
    assert!(sources.len() > panels.len());
    assert!(sources.iter().all(|source| source["uid"] == "${datasource}"), "{sources:?}");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|known| known["name"] == "datasource"));

    let queries = queries();
    assert!(queries.len() > 20, "{queries:?}");
    let rules = queries.iter().enumerate().map(|(at, query)| {
        let query = query.replace("$__rate_interval", "5m").replace("$__range", "3h");
        let query = query.replace("$job", ".*");
        assert!(!query.contains('$'), "{query} has a variable that nobody knows");
        format!("      - record: walpurge:query:{at}\n        expr: {}\n", serde_json::json!(query))
    });
    let text = format!("groups:\n  - name: dashboard\n    rules:\n{}", rules.collect::<String>());
    let directory = TestDir::new("dashboard");
    let rules = directory.join("rules.yml");
    std::fs::write(&rules, text).unwrap();
    promtool(&["check", "rules", rules.to_str().unwrap()]);
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_a_daemon_has() {
    let mut world = world();
    world.edit("[redis.cache]", "heartbeat = \"1s\"\n[postgres.replay]\n[redis.cache]");
    world.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'");
    world.sql("SELECT pg_reload_conf()");
    start(&mut world);
    let queries = queries().join("\n");
    let texts = [queries.as_str(), &read("prometheus/alerts.yml")];
    let asked: BTreeSet<&str> = texts.iter().flat_map(|text| named(text)).collect();
    assert!(asked.len() > 15, "{asked:?}");
    let missing = || -> Vec<&str> {
        let text = ask(&world, "/metrics").map(|got| got.body).unwrap_or_default();
        let names: BTreeSet<&str> = named(&text);
        asked.iter().copied().filter(|asked| !names.contains(asked)).collect()
    };
    let found = testkit::holds_within(PATIENCE, || missing().is_empty());
    assert!(found, "no daemon has {:?}", missing());
    wait_until("the text is complete", PATIENCE, || get(&world, "/metrics").ends_with("# EOF\n"));

    // promtool reads OpenMetrics only to fill a database, for which samples need times.
    let text = get(&world, "/metrics");
    let timed = text.lines().map(|line| match line.starts_with('#') {
        true => format!("{line}\n"),
        false => format!("{line} 1700000000\n"),
    });
    let directory = TestDir::new("metrics");
    let (samples, blocks) = (directory.join("samples"), directory.join("blocks"));
    std::fs::write(&samples, timed.collect::<String>()).unwrap();
    let [samples, blocks] = [&samples, &blocks].map(|path| path.to_str().unwrap());
    promtool(&["tsdb", "create-blocks-from", "openmetrics", samples, blocks]);
    world.stop();
}
