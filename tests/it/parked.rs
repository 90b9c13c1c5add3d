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

const TAGS: &str = "[[rule]]\ntable = \"public.t\"\ntags = [\"thing:{id}\"]\n";

/// A daemon that has given up on the tags of three rows, whose keys are no sets.
fn given_up() -> World {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)", TAGS);
    for id in 1..=3 {
        world.redis.set(&format!("tags:thing:{id}"), "no set");
    }
    world.start();
    world.sql("INSERT INTO t SELECT generate_series(1, 3)");
    world.wait_confirmed();
    assert_eq!(parked(&world, &["list"]).matches("tags thing:").count(), 3);
    world
}

/// Makes a tag's key what it should be: a set with a page.
fn mend(world: &World, id: u32) {
    world.redis.cmd(&["DEL", &format!("tags:thing:{id}")]);
    world.redis.cmd(&["SADD", &format!("tags:thing:{id}"), &format!("page:{id}")]);
    world.redis.set(&format!("page:{id}"), "cached");
}

/// Runs `parked retry`, and answers with its exit code and what it says.
fn retry(world: &World, args: &[&str]) -> (Option<i32>, String) {
    let output = world.command(&[&["parked", "retry"], args].concat()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn what_was_given_up_can_be_tried_again_beside_the_daemon() {
    let world = given_up();
    let (code, said) = retry(&world, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("0 done\n3 refused again\n"), "{said}");
    mend(&world, 1);
    mend(&world, 2);
    let (code, said) = retry(&world, &["--sink", "cache"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("2 done\n1 refused again\n") && !said.contains("thing:"), "{said}");
    assert!(!world.redis.exists("page:1") && !world.redis.exists("page:2"));
    let listed = parked(&world, &["list"]);
    assert!(listed.contains("tags thing:3\n") && listed.contains("WRONGTYPE"), "{listed}");
    assert_eq!(listed.lines().count(), 2, "{listed}");
    // The daemon goes on keeping what it gives up on, once.
    world.redis.set("tags:thing:1", "no set again");
    world.sql("DELETE FROM t WHERE id IN (1, 3)");
    world.wait_confirmed();
    let listed = parked(&world, &["list"]);
    assert_eq!(listed.matches("tags thing:").count(), 2, "{listed}");
    mend(&world, 1);
    mend(&world, 3);
    assert_eq!(retry(&world, &[]), (Some(0), "2 done\n".to_owned()));
    assert!(!world.redis.exists("page:1") && !world.redis.exists("page:3"));
    assert_eq!(parked(&world, &["list"]), "");
    assert_eq!(retry(&world, &[]), (Some(0), "0 done\n".to_owned()));
}

#[test]
fn a_message_that_was_given_up_is_only_listed() {
    let world = given_up();
    world.sql(&emit("nonsense"));
    world.wait_confirmed();
    (1..=3).for_each(|id| mend(&world, id));
    let (code, said) = retry(&world, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("3 done\n1 only listed: messages"), "{said}");
    assert!(!said.contains("nonsense"), "{said}");
    assert_eq!(retry(&world, &["--sink", "cache"]), (Some(0), "0 done\n".to_owned()));
    assert!(parked(&world, &["list"]).contains("message nonsense"));
    let (code, said) = retry(&world, &["--sink", "cahce"]);
    assert!(code == Some(2) && said.contains("did you mean cache?"), "{said}");
}

#[test]
fn what_is_tried_again_stays_while_its_sink_is_down_or_switched_off() {
    let mut world = given_up();
    world.stop();
    (1..=3).for_each(|id| mend(&world, id));
    world.redis.stop();
    let (code, said) = retry(&world, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("3 not tried to the end") && said.contains("sink cache: "), "{said}");
    world.redis.start_again();
    (1..=3).for_each(|id| mend(&world, id));
    world.edit("[[rule]]", "mode = \"off\"\n[[rule]]");
    let (code, said) = retry(&world, &[]);
    assert!(code == Some(1) && said.contains("3 not tried: their sink is held or off"), "{said}");
    world.edit("mode = \"off\"\n", "");
    assert_eq!(retry(&world, &[]), (Some(0), "3 done\n".to_owned()));
    assert!(!world.redis.exists("page:1"));
}

#[test]
fn killed_while_trying_again_nothing_is_lost() {
    let mut world = given_up();
    (1..=3).for_each(|id| mend(&world, id));
    for kill_at in ["kill_at=retry_marked", "kill_at=retry_tried"] {
        world.failpoint = Some(kill_at);
        assert_eq!(retry(&world, &[]).0, None, "{kill_at}");
        let listed = parked(&world, &["list"]);
        assert_eq!(listed.matches("tags thing:").count(), 3, "{kill_at}: {listed}");
    }
    // The daemon keeps what it gives up on now beside what was being tried.
    world.redis.set("tags:thing:2", "no set again");
    world.failpoint = None;
    world.sql("DELETE FROM t WHERE id = 2");
    world.wait_confirmed();
    mend(&world, 1);
    let (code, said) = retry(&world, &[]);
    assert!(code == Some(1) && said.contains("2 done\n1 refused again"), "{said}");
    assert!(!world.redis.exists("page:1"));
    mend(&world, 2);
    world.failpoint = Some("kill_at=retry_noted");
    assert_eq!(retry(&world, &[]).0, None);
    assert!(!world.redis.exists("page:2"));
    assert_eq!(parked(&world, &["list"]), "");
}
