//! What is found about Postgres and the slot.

use std::time::{Duration, Instant};

use testkit::postgres::{Postgres, StopMode};
use testkit::process::{Process, Signal};
use testkit::wait_until;

use super::{PRODUCTS, RULE, Scene, pg};
use crate::world::{PATIENCE, World};

#[test]
fn a_server_that_is_not_set_up_for_decoding_says_what_to_set() {
    let scene = Scene::with(pg().setting("wal_level", "replica").start(), RULE);
    scene.sql(PRODUCTS);
    let findings = scene.findings();
    assert_eq!((findings.code, findings.subjects("failed")), (1, vec!["wal_level"]));
    let hint = &findings.one("failed", "wal_level").hint;
    assert!(hint.contains("ALTER SYSTEM SET wal_level = logical;"), "{hint}");
    findings.one("warning", "plugin wal2json");
}

#[test]
fn a_role_without_replication_is_told_and_the_rest_is_looked_at() {
    let scene = Scene::new();
    scene.sql("ALTER ROLE walpurge NOREPLICATION");
    let findings = scene.findings();
    assert_eq!((findings.code, findings.subjects("failed")), (1, vec!["replication"]));
    for looked_at in ["connection", "wal_level", "slot walpurge", "rule product"] {
        assert!(findings.subjects("ok").contains(&looked_at), "{:#?}", findings.list);
    }
    assert_eq!(findings.subjects("warning"), ["plugin wal2json", "barrier"]);
    let hint = &findings.one("failed", "replication").hint;
    scene.sql(hint.split_once("  (").unwrap().0);
    assert_eq!(scene.check(&["--strict"]).code, 0);
}

#[test]
fn a_wrong_password_fails_and_is_not_shown() {
    let pg = pg().hba("host all walpurge 127.0.0.1/32 scram-sha-256").start();
    let mut scene = Scene::with(pg, RULE);
    scene.sql("ALTER ROLE walpurge PASSWORD 'richtig'");
    scene.edit("//walpurge@", "//walpurge:geheimer@");
    let findings = scene.findings();
    assert_eq!((findings.code, findings.subjects("failed")), (1, vec!["connection"]));
    let failed = findings.one("failed", "connection");
    assert!(failed.message.contains("28P01") && failed.hint.contains("password"), "{failed:?}");
    // What needs a connection says so; Redis is looked at.
    assert_eq!(findings.subjects("warning"), ["server, slot and plugin", "tables"]);
    assert!(findings.subjects("ok").contains(&"cache"), "{:#?}", findings.list);
}

#[test]
fn a_server_that_is_down_or_silent_is_told_in_a_bounded_time() {
    let mut scene = Scene::new();
    scene.edit("/postgres\"", "/postgres?connect_timeout=1\"");
    scene.pg.pause();
    let findings = scene.findings();
    scene.pg.resume();
    assert_eq!((findings.code, findings.subjects("failed")), (1, vec!["connection"]));
    scene.pg.stop(StopMode::Immediate);
    let findings = scene.findings();
    assert_eq!((findings.code, findings.subjects("failed")), (1, vec!["connection"]));
    let failed = findings.one("failed", "connection");
    assert!(failed.message.contains(&format!("127.0.0.1:{}", scene.pg.port())), "{failed:?}");
    assert!(failed.hint.contains("postgres.url"), "{failed:?}");
}

#[test]
fn a_slot_of_another_plugin_or_database_is_not_ours() {
    let mut scene = Scene::new();
    scene.sql("CREATE DATABASE other");
    scene.sql("SELECT pg_create_logical_replication_slot('foreign_plugin', 'test_decoding')");
    scene.pg.psql("other", "SELECT pg_create_logical_replication_slot('elsewhere', 'wal2json')");
    scene.edit("[redis.cache]", "slot = 'foreign_plugin'\n[redis.cache]");
    let findings = scene.findings();
    let failed = findings.one("failed", "slot foreign_plugin");
    assert!(failed.message.contains("test_decoding"), "{failed:?}");
    assert!(failed.hint.contains("choose another postgres.slot"), "{failed:?}");
    scene.edit("foreign_plugin", "elsewhere");
    let findings = scene.findings();
    let failed = findings.one("failed", "slot elsewhere");
    assert!(failed.message.contains("belongs to database \"other\""), "{failed:?}");
    assert_eq!(findings.code, 1);
}

#[test]
fn a_missing_slot_is_a_warning_or_a_failure_as_run_would_take_it() {
    let mut scene = Scene::new();
    scene.sql("SELECT pg_drop_replication_slot('walpurge')");
    let findings = scene.findings();
    assert_eq!(findings.code, 0);
    let warning = findings.one("warning", "slot walpurge");
    assert!(warning.message.contains("run creates it"), "{warning:?}");
    scene.edit("[redis.cache]", "create_slot = false\n[redis.cache]");
    let findings = scene.findings();
    assert_eq!(findings.code, 1);
    let failed = findings.one("failed", "slot walpurge");
    assert_eq!(failed.hint, "SELECT pg_create_logical_replication_slot('walpurge', 'wal2json');");
    scene.pg.psql_as("walpurge", "postgres", &failed.hint);
    assert_eq!(scene.check(&["--strict"]).code, 0);
}

#[test]
fn a_slot_that_a_daemon_uses_is_in_order() {
    let mut world = World::with(pg().start(), testkit::redis::Redis::start(), PRODUCTS, RULE);
    world.start();
    let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'walpurge'";
    let pid = world.sql(sql);
    let output = world.command(&["check", "--strict"]).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(
        out.contains(&format!("✓ slot walpurge: in use by pid {pid} (a daemon runs)")),
        "{out}"
    );
    world.stop();
}

#[test]
fn a_server_without_room_is_told() {
    let pg = pg().setting("max_replication_slots", "1").setting("max_wal_senders", "1").start();
    let scene = Scene::with(pg, RULE);
    scene.sql(PRODUCTS);
    scene.sql("SELECT pg_create_logical_replication_slot('walpurge', 'wal2json')");
    let findings = scene.findings();
    assert_eq!(findings.code, 0, "{:#?}", findings.list);
    assert_eq!(
        findings.subjects("warning"),
        ["max_wal_senders", "max_replication_slots", "plugin wal2json"]
    );
    scene.sql(
        "SELECT pg_drop_replication_slot('walpurge'); \
         SELECT pg_create_physical_replication_slot('other')",
    );
    let findings = scene.findings();
    assert_eq!((findings.code, findings.subjects("failed")), (1, vec!["max_replication_slots"]));
}

#[test]
fn a_server_that_would_wait_for_us_fails() {
    let scene = Scene::new();
    for (names, says) in [("*", "holds `*`"), ("ANY 1 (a, walpurge)", "names walpurge")] {
        scene.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        scene.sql("SELECT pg_reload_conf()");
        wait_until("the setting is read", PATIENCE, || {
            scene.sql("SHOW synchronous_standby_names") == names
        });
        let findings = scene.findings();
        assert_eq!(
            (findings.code, findings.subjects("failed")),
            (1, vec!["synchronous_standby_names"])
        );
        let message = &findings.one("failed", "synchronous_standby_names").message;
        assert!(message.starts_with(says), "{message}");
    }
}

#[test]
fn a_slot_without_bound_is_warned_about() {
    let scene = Scene::new();
    scene.sql("ALTER SYSTEM SET max_slot_wal_keep_size = -1");
    scene.sql("SELECT pg_reload_conf()");
    wait_until("the setting is read", PATIENCE, || {
        scene.sql("SHOW max_slot_wal_keep_size") == "-1"
    });
    let findings = scene.findings();
    assert_eq!((findings.code, findings.subjects("warning")), (0, vec!["max_slot_wal_keep_size"]));
}

#[test]
fn a_standby_is_told_from_a_primary() {
    let mut scene = Scene::new();
    let standby = Postgres::standby_of(&scene.pg, &[]);
    let (primary, port) = (format!(":{}/", scene.pg.port()), format!(":{}/", standby.port()));
    scene.edit(&primary, &port);
    let findings = scene.findings();
    assert_eq!(findings.code, 1);
    let failed = findings.one("failed", "pg_is_in_recovery");
    assert!(failed.hint.contains("primary"), "{failed:?}");
}

#[test]
fn a_role_that_may_not_write_heartbeats_is_warned_about() {
    let mut scene = Scene::new();
    let function = "pg_logical_emit_message(boolean, text, text)";
    scene.sql(&format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC"));
    let findings = scene.findings();
    assert_eq!((findings.code, findings.subjects("warning")), (0, vec!["heartbeat"]));
    let hint = findings.one("warning", "heartbeat").hint.clone();
    scene.edit("[redis.cache]", "heartbeat = '0s'\n[redis.cache]");
    assert_eq!(scene.check(&["--strict"]).code, 0);
    scene.edit("heartbeat = '0s'", "");
    scene.sql(hint.lines().next().unwrap());
    assert_eq!(scene.check(&["--strict"]).code, 0);
}

#[test]
fn an_open_transaction_makes_the_trial_a_warning_that_names_it() {
    let scene = Scene::new();
    let mut open = scene.pg.session("postgres", "postgres");
    let pid = open.run("BEGIN; INSERT INTO products VALUES (1); SELECT pg_backend_pid()");
    let start = Instant::now();
    let findings = scene.findings();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert_eq!(findings.code, 0, "{:#?}", findings.list);
    assert_eq!(findings.subjects("warning"), ["plugin wal2json"]);
    let warning = findings.one("warning", "plugin wal2json");
    assert!(warning.message.contains(&format!("transaction of pid {pid}")), "{warning:?}");
    assert!(warning.hint.contains(&format!("pg_terminate_backend({pid})")), "{warning:?}");
    // Nothing of the trial stays, though the transaction is open still.
    assert_eq!(scene.sql("SELECT slot_name FROM pg_replication_slots"), "walpurge");
    open.run("COMMIT");
    assert_eq!(scene.check(&["--strict"]).code, 0);
}

#[test]
fn a_trial_that_is_killed_leaves_nothing_for_long() {
    let scene = Scene::new();
    let mut open = scene.pg.session("postgres", "postgres");
    open.run("BEGIN; INSERT INTO products VALUES (1)");
    let trials = || scene.sql("SELECT count(*) FROM pg_replication_slots WHERE temporary");
    let log = testkit::TestDir::new("killed");
    let mut check =
        Process::spawn("check", scene.command(), &log.join("log"), Signal::KILL).unwrap();
    wait_until("the trial waits", PATIENCE, || trials() == "1");
    check.kill_9();
    wait_until("the trial has ended", Duration::from_secs(30), || trials() == "0");
    open.run("COMMIT");
}

#[test]
fn event_triggers_for_ddl_are_a_note_where_they_are_missing() {
    let mut scene = Scene::new();
    let checked = scene.check(&["--strict"]);
    assert_eq!(checked.code, 0, "{}", checked.out);
    let line = "\n○ event triggers: not installed: ALTER TABLE, DROP TABLE and ";
    assert!(checked.out.contains(line), "{}", checked.out);
    let findings = scene.findings();
    let hint = &findings.one("note", "event triggers").hint;
    assert!(hint.contains("walpurge setup --ddl --print | psql"), "{hint}");

    let setup = |scene: &Scene| scene.walpurge("setup").arg("--ddl").output().unwrap().status;
    scene.edit("//walpurge@", "//postgres@");
    assert!(setup(&scene).success());
    scene.edit("//postgres@", "//walpurge@");
    scene.findings().one("ok", "event triggers");

    for (sql, says) in [
        ("ALTER EVENT TRIGGER walpurge_sql_drop DISABLE", "disabled"),
        ("DROP EVENT TRIGGER walpurge_table_rewrite", "missing"),
        (
            "CREATE OR REPLACE FUNCTION walpurge.ddl() RETURNS event_trigger
             LANGUAGE plpgsql AS 'BEGIN END'",
            "another version",
        ),
    ] {
        scene.sql(sql);
        let findings = scene.findings();
        let warning = findings.one("warning", "event triggers");
        assert!(warning.message.contains(says), "{warning:?}");
        assert_eq!((findings.code, scene.check(&["--strict"]).code), (0, 1));
        scene.edit("//walpurge@", "//postgres@");
        assert!(setup(&scene).success());
        scene.edit("//postgres@", "//walpurge@");
        scene.findings().one("ok", "event triggers");
    }
}
