//! `walpurge check`: what it finds on real servers, and whether what it advises mends it.

mod cdn;
mod database;
mod lookups;
mod publication;
mod sinks;
mod tables;

use std::process::Command;

use testkit::TestDir;
use testkit::postgres::Postgres;
use testkit::redis::Redis;
use walpurge::action::Verb;
use walpurge::sinks::redis::{Duties, RedisConfig, RedisOptions, least_acl};

const PASSWORD: &str = "geheim";

pub(crate) const PRODUCTS: &str = "CREATE TABLE products (id bigint PRIMARY KEY, slug text)";

pub(crate) const RULE: &str = r#"
[[rule]]
name = "product"
table = "public.products"
delete = ["product:{id}"]
"#;

/// Servers and a configuration that lead to nothing but good findings.
pub(crate) struct Scene {
    pub(crate) pg: Postgres,
    pub(crate) redis: Redis,
    pub(crate) config: String,
    /// Variables of the environment.
    pub(crate) env: Vec<(&'static str, &'static str)>,
    dir: TestDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let scene = Self::with(pg().start(), RULE);
        scene.sql("SELECT pg_create_logical_replication_slot('walpurge', 'wal2json')");
        scene.sql(PRODUCTS);
        scene
    }

    /// A role with no right but REPLICATION, and a Redis user with no right but the least ones;
    /// neither slot nor table.
    pub(crate) fn with(pg: Postgres, rules: &str) -> Self {
        pg.create_role_replication("walpurge");
        let redis = Redis::start();
        grant(&redis, &[Verb::Delete, Verb::DeleteMatching]);
        let config = format!(
            "[postgres]\nurl = \"{}\"\n[redis.cache]\nurl = \"{}\"\n{rules}",
            pg.url("walpurge", "postgres"),
            redis.url().replace("redis://", &format!("redis://app:{PASSWORD}@"))
        );
        Scene { pg, redis, config, env: Vec::new(), dir: TestDir::new("check") }
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.pg.psql("postgres", sql)
    }

    pub(crate) fn edit(&mut self, from: &str, to: &str) {
        assert!(self.config.contains(from), "nothing to edit");
        self.config = self.config.replace(from, to);
    }

    #[track_caller]
    pub(crate) fn check(&self, args: &[&str]) -> Checked {
        let output = self.command().args(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let checked = Checked {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        };
        for shown in [&checked.out, &checked.err] {
            assert!(!shown.contains(PASSWORD), "a secret is shown:\n{shown}");
        }
        checked
    }

    pub(crate) fn command(&self) -> Command {
        self.walpurge("check")
    }

    pub(crate) fn walpurge(&self, subcommand: &str) -> Command {
        let path = self.dir.join("config.toml");
        std::fs::write(&path, &self.config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_walpurge"));
        command.arg(subcommand).arg("--config").arg(path).envs(self.env.iter().copied());
        command
    }

    /// The findings, by `--json`.
    #[track_caller]
    pub(crate) fn findings(&self) -> Findings {
        let checked = self.check(&["--json"]);
        let report: serde_json::Value = serde_json::from_str(&checked.out)
            .unwrap_or_else(|error| panic!("{error}:\n{}{}", checked.out, checked.err));
        let findings = report["findings"].as_array().unwrap().iter().map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            Finding {
                status: text("status"),
                subject: text("subject"),
                message: text("message"),
                hint: text("hint"),
            }
        });
        Findings { list: findings.collect(), code: checked.code }
    }
}

/// A server about which there is nothing to say.
pub(crate) fn pg() -> testkit::postgres::Builder {
    Postgres::builder().fsync(false).setting("max_slot_wal_keep_size", "1GB")
}

/// Makes the user `app`, with the line that `check` shows.
pub(crate) fn grant(redis: &Redis, verbs: &[Verb]) {
    let url = redis.url().replace("redis://", "redis://app@");
    let config = RedisConfig::new(RedisOptions::new("cache", url)).unwrap();
    let line = least_acl(&Duties::of(verbs), &config).replace("PASSWORD", PASSWORD);
    redis.cli(&line.split(' ').collect::<Vec<_>>());
}

/// How a check ended and what it printed.
pub(crate) struct Checked {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) status: String,
    pub(crate) subject: String,
    pub(crate) message: String,
    pub(crate) hint: String,
}

#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) list: Vec<Finding>,
    pub(crate) code: i32,
}

impl Findings {
    /// The one finding about `subject` that has this status.
    #[track_caller]
    pub(crate) fn one(&self, status: &str, subject: &str) -> &Finding {
        let found: Vec<_> = self
            .list
            .iter()
            .filter(|finding| finding.status == status && finding.subject == subject)
            .collect();
        assert_eq!(found.len(), 1, "{status} {subject}: {:#?}", self.list);
        found[0]
    }

    /// The subjects of all that have this status.
    pub(crate) fn subjects(&self, status: &str) -> Vec<&str> {
        let found = self.list.iter().filter(|finding| finding.status == status);
        found.map(|finding| finding.subject.as_str()).collect()
    }
}

#[test]
fn with_the_least_rights_everything_is_in_order() {
    let scene = Scene::new();
    let checked = scene.check(&["--strict"]);
    assert_eq!(checked.code, 0, "{}{}", checked.out, checked.err);
    let lines = checked.out.lines().filter(|line| line.starts_with(['✓', '!', '✗']));
    let (good, other): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with('✓'));
    assert!(good.len() > 12 && other.is_empty(), "{}", checked.out);
    assert!(checked.out.contains("falls back to delete_matching product:*"), "{}", checked.out);
    assert!(!checked.out.contains('\u{1b}'), "no colours in a pipe");
    assert!(checked.out.ends_with(&format!("\n{} ok, 0 warnings, 0 failed\n", good.len())));
    assert_eq!(checked.err, "");
    // Neither a slot nor a key is left behind.
    assert_eq!(scene.sql("SELECT slot_name FROM pg_replication_slots"), "walpurge");
    assert_eq!(scene.redis.cli(&["DBSIZE"]), "0");
}

#[test]
fn json_has_the_same_findings_under_stable_keys() {
    let mut scene = Scene::new();
    scene.edit("public.products", "public.product");
    let checked = scene.check(&["--json"]);
    assert_eq!(checked.code, 1);
    let report: serde_json::Value = serde_json::from_str(&checked.out).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&report), ["findings", "summary"]);
    assert_eq!(keys(&report["summary"]), ["failed", "ok", "warning"]);
    let findings = report["findings"].as_array().unwrap();
    let groups = ["configuration", "postgres", "tables", "sinks"];
    for finding in findings {
        assert_eq!(keys(finding), ["group", "hint", "message", "status", "subject"]);
        assert!(groups.contains(&finding["group"].as_str().unwrap()), "{finding}");
    }
    let failed: Vec<_> = findings.iter().filter(|f| f["status"] == "failed").collect();
    assert_eq!(
        failed,
        [&serde_json::json!({
            "group": "tables",
            "status": "failed",
            "subject": "rule product",
            "message": "public.product: there is no such table",
            "hint": "did you mean table = \"public.products\"?",
        })]
    );
    assert_eq!(report["summary"]["failed"], 1);
    let ok = findings.iter().filter(|f| f["status"] == "ok").count();
    assert_eq!(report["summary"]["ok"], ok);
    assert!(findings.iter().any(|f| f["hint"].is_null()));
}

#[test]
fn warnings_fail_only_where_it_is_strict() {
    let mut scene = Scene::new();
    scene.edit("[redis.cache]", "visibility = \"skip\"\n[redis.cache]");
    let checked = scene.check(&[]);
    assert_eq!(checked.code, 0);
    let warning = "! visibility: skip: a key may be removed before readers see the change, and a \
                   reader may then put the old row back for good\n  → visibility = \"wait\"\n";
    assert!(checked.out.contains(warning), "{}", checked.out);
    assert!(checked.out.contains(" ok, 1 warning, 0 failed"), "{}", checked.out);
    assert_eq!(scene.check(&["--strict"]).code, 1);
}

/// A configuration whose servers and secrets are nowhere.
fn nowhere(rules: &str) -> (TestDir, Command) {
    let dir = TestDir::new("check");
    let config = format!(
        "[postgres]\nurl = {{ env = \"WALPURGE_TEST_UNSET\" }}\n\
         [redis.cache]\nurl = {{ file = \"missing\" }}\n{rules}"
    );
    std::fs::write(dir.join("config.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_walpurge"));
    command.args(["check", "--config", "config.toml"]).current_dir(dir.path());
    (dir, command)
}

#[test]
fn offline_needs_neither_servers_nor_secrets() {
    let rules = format!(
        "{RULE}fallback = \"none\"\n{}enabled = false\n",
        RULE.replace("\"product\"", "\"old\"")
    );
    let (_dir, mut command) = nowhere(&rules);
    let output = command.arg("--offline").output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert_eq!(
        out,
        "Configuration\n\
         ✓ config.toml: 2 rules and 1 sink\n\
         ✓ rule old: disabled\n\
         ! rule product: no fallback: TRUNCATE and changes whose old values are unknown \
         invalidate nothing\n  \
         → write [rule.fallback] with what to invalidate then: delete_matching = [\"PREFIX:*\"]\n\
         \n\
         2 ok, 1 warning, 0 failed\n"
    );
    assert_eq!(command.arg("--strict").status().unwrap().code(), Some(1));
}

#[test]
fn secrets_that_cannot_be_had_are_configuration_and_all_named() {
    let (_dir, mut command) = nowhere(RULE);
    let output = command.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{err}");
    assert!(err.contains("`postgres.url`: environment variable `WALPURGE_TEST_UNSET`"), "{err}");
    assert!(err.contains("`redis.cache.url`: cannot read file"), "{err}");
    assert!(output.stdout.is_empty());
}

#[test]
fn mistakes_in_the_file_are_configuration() {
    for args in [&["--offline"][..], &["--json"], &[]] {
        let (_dir, mut command) = nowhere(&RULE.replace("delete =", "delet ="));
        let output = command.args(args).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{err}");
        assert!(err.contains("did you mean `delete`?"), "{err}");
        assert!(output.stdout.is_empty());
    }
}

/// A rule with one test that passes and two that do not.
const TESTED: &str = r#"
[[rule]]
name = "product"
table = "public.products"
delete = ["product:{id}", "product:slug:{slug}"]

[[rule.test]]
name = "a moved slug"
op = "update"
old = { id = 7, slug = "a" }
new = { id = 7, slug = "b" }
expect = ["delete product:7", "delete product:slug:a"]

[[rule.test]]
op = "delete"
old = { id = 7 }
expect = ["delete product:7"]

[[rule.test]]
op = "truncate"
expect_fallback = true
"#;

#[test]
fn tests_of_a_rule_show_what_came_out_and_what_was_expected() {
    let (_dir, mut command) = nowhere(TESTED);
    let output = command.arg("--offline").output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(78), "{out}");
    assert_eq!(
        out,
        "Configuration\n\
         ✓ config.toml: 1 rule and 1 sink\n\
         ✓ rule product: falls back to delete_matching product:*\n\
         ✓ rule product: falls back to delete_matching product:slug:*\n\
         ✓ rule product: 1 test passes\n\
         ✗ rule product: test `a moved slug` in line 11 fails\n  \
         → - expected, + came out:\n    \
         \u{20} delete product:7\n    \
         \u{20} delete product:slug:a\n    \
         + delete product:slug:b\n\
         ✗ rule product: test 2 in line 18 fails\n  \
         → - expected, + came out:\n    \
         \u{20} delete product:7\n    \
         + delete_matching product:* (fallback: absent)\n    \
         + delete_matching product:slug:* (fallback: absent)\n\
         \n\
         4 ok, 0 warnings, 2 failed\n"
    );
    assert_eq!(command.arg("--json").status().unwrap().code(), Some(78));
}

#[test]
fn tests_of_a_rule_run_while_it_is_disabled_and_pass_in_silence() {
    let rules = TESTED
        .replace("slug:a\"]", "slug:a\", \"delete product:slug:b\"]")
        .replace("old = { id = 7 }", "old = { id = 7, slug = { null = true } }")
        .replace("name = \"product\"", "name = \"product\"\nenabled = false");
    let (_dir, mut command) = nowhere(&rules);
    let output = command.arg("--offline").output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(out.contains("✓ rule product: disabled\n✓ rule product: 3 tests pass\n"), "{out}");
}

#[test]
fn a_failing_test_of_a_rule_counts_as_configuration_beside_live_findings() {
    let mut scene = Scene::new();
    scene.edit(RULE, &TESTED.replace("public.products", "public.product"));
    let found = scene.findings();
    assert_eq!(found.code, 78);
    let failed = found.list.iter().filter(|f| f.status == "failed" && f.subject == "rule product");
    let messages: Vec<_> = failed.map(|finding| finding.message.as_str()).collect();
    let moved = "test `a moved slug` in line 11 fails";
    let absent = "test 2 in line 18 fails";
    assert_eq!(messages, [moved, absent, "public.product: there is no such table"]);
}
