//! What was given up on is kept, shown and forgotten.

use crate::world::World;

const RULE: &str =
    "[[rule]]\ntable = \"public.t\"\nbump = [\"version:{id}\"]\ndelete = [\"row:{id}\"]\n";

fn world() -> World {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)", RULE);
    let directory = world.dir.path().display().to_string();
    world.edit("[postgres]", &format!("state_dir = \"{directory}\"\n[postgres]"));
    world
}

fn parked(world: &World, args: &[&str]) -> String {
    let output = world.command(&[&["parked"], args].concat()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn emit(content: &str) -> String {
    format!("SELECT pg_logical_emit_message(true, 'walpurge', '{content}')")
}

#[test]
fn malformed_messages_are_kept_once_however_often_they_are_streamed() {
    let mut world = world();
    world.start();
    world.sql(&emit("nonsense"));
    world.sql(&emit(r#"{"delete_matching":["a*"]}"#));
    world.wait_confirmed();
    let listed = parked(&world, &["list"]);
    assert!(listed.contains("message nonsense\n  not an object of verbs"), "{listed}");
    assert!(listed.contains("only allowed with messages = \"all\""), "{listed}");
    assert_eq!(listed.lines().count(), 4);
    // Streamed again: with Redis away nothing after it is confirmed.
    world.redis.pause();
    world.sql("INSERT INTO t VALUES (1)");
    world.sql(&emit("more"));
    world.wait_for_log("message asks for what cannot be done, and is given up");
    let has_more = || parked(&world, &["list"]).contains("message more");
    testkit::wait_until("it is kept", crate::world::PATIENCE, has_more);
    world.kill_9();
    world.redis.resume();
    world.start();
    world.wait_confirmed();
    let json = parked(&world, &["list", "--json"]);
    assert_eq!(json.lines().count(), 3, "{json}");
    for line in json.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(record["at"].is_string() && record["lsn"].is_string(), "{record}");
        assert_eq!(record["action"], "message");
    }
    assert!(world.news().contains("something was given up on"), "{}", world.news());
    assert!(!world.news().contains("nonsense"), "a value is in the log");
    assert_eq!(parked(&world, &["clear"]), "forgot 3 parked\n");
    assert_eq!(parked(&world, &["list"]), "");
}

#[test]
fn actions_that_a_sink_refuses_for_good_are_kept() {
    let mut world = world();
    world.redis.cmd(&["LPUSH", "version:1", "no counter"]);
    world.fill(&["row:1"]);
    world.start();
    world.sql("INSERT INTO t VALUES (1)");
    world.wait_gone(&["row:1"]);
    world.wait_confirmed();
    let listed = parked(&world, &["list"]);
    assert!(listed.contains("sink cache  bump version:1\n"), "{listed}");
    assert!(listed.contains("WRONGTYPE"), "{listed}");
}

#[test]
fn without_a_place_nothing_is_kept_and_that_is_said() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)", RULE);
    world.state = None;
    world.start();
    world.sql(&emit("nonsense"));
    world.wait_for_log("set state_dir, and what is given up on is kept there");
    let output = world.command(&["parked", "list"]).env_remove("STATE_DIRECTORY").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("neither state_dir nor"));
}
