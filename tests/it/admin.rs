//! Looking at a running daemon: what it answers, to whom, and that nobody who asks holds it up.

mod clients;
pub mod http;
mod monitoring;
mod page;
mod screenshots;
mod status;
mod tail;

use testkit::TestDir;
use testkit::postgres::StopMode;
use testkit::process::{Process, Signal};
use testkit::wait_until;

use self::http::{ask, ask_tcp, metric};
use crate::world::{PATIENCE, World};

/// A world whose daemon can be looked at through a socket.
fn world() -> World {
    let mut world = World::plain();
    let runtime = world.dir.join("run");
    std::fs::create_dir(&runtime).unwrap();
    world.runtime = Some(runtime);
    world
}

/// Starts the daemon and waits until it streams and can be asked.
fn start(world: &mut World) {
    world.start();
    wait_until("it can be asked", PATIENCE, || {
        ask(world, "/readyz").is_some_and(|got| got.is_ok())
    });
}

#[track_caller]
fn get(world: &World, path: &str) -> String {
    let got = ask(world, path).unwrap_or_else(|| panic!("no answer to {path}\n{}", world.log()));
    assert!(got.is_ok(), "{path}: {} {}", got.code, got.body);
    got.body
}

#[track_caller]
fn assert_metric(world: &World, name: &str, expected: f64) {
    let is_so = || metric(&get(world, "/metrics"), name) == Some(expected);
    let held = testkit::holds_within(PATIENCE, is_so);
    assert!(held, "{name} is not {expected}\n{}", get(world, "/metrics"));
}

#[test]
fn metrics_count_exactly_what_was_done() {
    let mut world = world();
    // Two actions a change, and two a fallback: each is counted as one of these.
    world.edit("\"key:{id}\"", "\"key:{id}\", \"other:{id}\"");
    for id in 1..=5 {
        world.fill(&[&format!("key:{id}")]);
    }
    start(&mut world);
    for id in 1..=10 {
        world.sql(&format!("UPDATE t SET n = 1 WHERE id = {id}"));
    }
    world.sql("INSERT INTO t VALUES (101)");
    world.wait_confirmed();
    let actions = "walpurge_actions_total{sink=\"cache\",verb=\"delete\",outcome=\"done\"}";
    assert_metric(&world, actions, 22.0);
    assert_metric(&world, "walpurge_changes_total{rule=\"t\",op=\"update\"}", 10.0);
    assert_metric(&world, "walpurge_changes_total{rule=\"t\",op=\"insert\"}", 1.0);
    assert_metric(&world, "walpurge_redis_keys_requested_total{sink=\"cache\"}", 22.0);
    assert_metric(&world, "walpurge_redis_keys_removed_total{sink=\"cache\"}", 5.0);
    assert_metric(&world, "walpurge_waiting_actions{sink=\"cache\"}", 0.0);
    assert_metric(&world, "walpurge_sink_up{sink=\"cache\"}", 1.0);
    assert_metric(&world, "walpurge_role", 2.0);
    assert_metric(&world, "walpurge_gaps_total", 0.0);
    let fallbacks = "walpurge_fallbacks_total{rule=\"t\",cause=\"truncate\"}";
    assert_metric(&world, fallbacks, 0.0);
    world.sql("TRUNCATE t");
    world.wait_confirmed();
    assert_metric(&world, fallbacks, 1.0);
    assert_metric(&world, "walpurge_changes_total{rule=\"t\",op=\"truncate\"}", 1.0);
    let text = get(&world, "/metrics");
    for name in ["batch_actions_count{sink", "commit_to_done_seconds_count{sink", "lag_bytes"] {
        assert!(metric(&text, &format!("walpurge_{name}")).is_some(), "{name}\n{text}");
    }
    let waited = "walpurge_barrier_wait_seconds_count{target=\"primary\"}";
    assert!(metric(&text, waited).unwrap() > 0.0, "{text}");
    let done = "walpurge_commit_to_done_seconds_count{sink=\"cache\"}";
    let batches = "walpurge_batch_actions_count{sink=\"cache\"}";
    assert_eq!(metric(&text, done), metric(&text, batches), "every batch came through the stream");
    assert!(!text.contains("key:"), "no value of a row");
    assert!(text.ends_with("# EOF\n"));
    // A new configuration does not begin anew.
    world.edit("name = \"t\"", "name = \"t\"\n");
    world.config_file();
    world.daemon.as_mut().unwrap().signal(Signal::HUP);
    world.wait_for_log("taking the new configuration on SIGHUP");
    world.sql("INSERT INTO t VALUES (7)");
    world.wait_confirmed();
    assert_metric(&world, "walpurge_changes_total{rule=\"t\",op=\"insert\"}", 2.0);
    world.stop();
}

#[test]
fn a_sink_that_is_down_is_seen_with_its_error_and_its_retries() {
    let mut world = world();
    world.fill(&["key:1"]);
    start(&mut world);
    world.redis.pause();
    world.sql("UPDATE t SET n = 1 WHERE id = 1");
    assert_metric(&world, "walpurge_sink_up{sink=\"cache\"}", 0.0);
    assert_metric(&world, "walpurge_waiting_actions{sink=\"cache\"}", 1.0);
    let retries = "walpurge_retries_total{sink=\"cache\"}";
    assert!(metric(&get(&world, "/metrics"), retries).unwrap() > 0.0);
    let status: serde_json::Value = serde_json::from_str(&get(&world, "/status")).unwrap();
    assert_eq!(status["sinks"][0]["state"], "down", "{status}");
    assert!(status["sinks"][0]["error"]["message"].is_string(), "{status}");
    world.redis.resume();
    world.wait_gone(&["key:1"]);
    assert_metric(&world, "walpurge_sink_up{sink=\"cache\"}", 1.0);
    assert_metric(&world, "walpurge_waiting_actions{sink=\"cache\"}", 0.0);
    world.stop();
}

/// A second daemon on the same slot, with a socket of its own.
fn second(world: &World, directory: &TestDir, runtime: &std::path::Path) -> Process {
    let mut command = world.command(&["run", "--log", "debug"]);
    command.env("RUNTIME_DIRECTORY", runtime).env("STATE_DIRECTORY", directory.join("state"));
    Process::spawn("standby", command, &directory.join("log"), Signal::KILL).unwrap()
}

#[test]
fn readiness_follows_standby_outage_and_recovery() {
    let mut world = world();
    start(&mut world);
    let directory = TestDir::new("standby");
    let _standby = second(&world, &directory, directory.path());
    let socket = directory.join("admin.sock");
    let is_standby = || {
        let status = http::ask_socket(&socket, "/status");
        status.is_some_and(|status| status.body.contains("\"role\":\"standby\""))
    };
    wait_until("the second one stands by", PATIENCE, is_standby);
    let ready = http::ask_socket(&socket, "/readyz").unwrap();
    assert!(ready.is_ok(), "{}", ready.body);
    world.pg.stop(StopMode::Fast);
    let is_out = || {
        let got = ask(&world, "/readyz").unwrap();
        got.code == 503 && got.body.starts_with("not streaming")
    };
    wait_until("it is not ready", PATIENCE, is_out);
    assert_eq!(get(&world, "/livez"), "alive\n");
    assert_metric(&world, "walpurge_role", 0.0);
    world.pg.start_again();
    let is_any_ready = |role: &str| {
        let role = format!("\"role\":\"{role}\"");
        let sockets = [http::socket(&world), socket.clone()];
        sockets.iter().any(|socket| {
            http::ask_socket(socket, "/status").is_some_and(|got| got.body.contains(&role))
                && http::ask_socket(socket, "/readyz").is_some_and(|got| got.is_ok())
        })
    };
    wait_until("one streams again", PATIENCE, || is_any_ready("streaming"));
    wait_until("the other stands by", PATIENCE, || is_any_ready("standby"));
}

#[test]
fn over_tcp_only_whoever_shows_the_token_sees_more_than_whether_it_lives() {
    let mut world = world();
    world.edit("[postgres]", "[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"s3cret\"\n[postgres]");
    start(&mut world);
    world.wait_for_log("the admin endpoint listens address=");
    let address = http::address(&world);
    for path in ["/livez", "/readyz"] {
        assert_eq!(ask_tcp(&address, path, None).unwrap().code, 200);
    }
    for path in ["/metrics", "/status", "/tail", "/nothing"] {
        for token in [None, Some("wrong"), Some("")] {
            let got = ask_tcp(&address, path, token).unwrap();
            assert_eq!((got.code, got.body.as_str()), (401, "a token is needed\n"), "{path}");
        }
    }
    assert_eq!(ask_tcp(&address, "/metrics", Some("s3cret")).unwrap().code, 200);
    assert_eq!(ask_tcp(&address, "/nothing", Some("s3cret")).unwrap().code, 404);
    assert!(!world.log().contains("s3cret"));
    world.stop();
}

#[test]
fn an_address_for_everybody_needs_a_token() {
    let mut world = world();
    world.edit("[postgres]", "[admin]\nlisten = \"0.0.0.0:0\"\n[postgres]");
    let output = world.command(&["run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("`admin.listen` needs `admin.token`"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_an_error_and_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut world = world();
    world.edit("[postgres]", &format!("[admin]\nlisten = \"{address}\"\n[postgres]"));
    world.fill(&["key:1"]);
    start(&mut world);
    world.wait_for_log("cannot open the admin endpoint, trying again");
    world.sql("UPDATE t SET n = 1 WHERE id = 1");
    world.wait_gone(&["key:1"]);
    drop(taken);
    let is_open = || ask_tcp(&address.to_string(), "/livez", None).is_some_and(|got| got.is_ok());
    wait_until("it is opened", PATIENCE, is_open);
    world.stop();
}

#[test]
fn the_socket_is_for_owner_and_group_and_a_stale_one_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let mut world = world();
    start(&mut world);
    let socket = http::socket(&world);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    // One that lives is not taken from its process.
    let directory = TestDir::new("standby");
    let mut other = second(&world, &directory, world.runtime.as_ref().unwrap());
    let is_said = || other.log().contains("another process listens there");
    wait_until("it is said", PATIENCE, is_said);
    assert!(get(&world, "/status").contains("\"role\":\"streaming\""));
    world.kill_9();
    assert!(socket.exists(), "a killed process leaves it");
    let is_taken = || ask(&world, "/readyz").is_some_and(|got| got.is_ok());
    wait_until("the other one takes it over", PATIENCE, is_taken);
    other.signal(Signal::TERM);
    assert!(other.wait(PATIENCE).is_some_and(|status| status.success()), "{}", other.report());
    assert!(!socket.exists());
}
