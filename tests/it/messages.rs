//! Messages invalidate without a rule.

use crate::invalidation::{PRODUCTS, RULE};
use crate::world::World;

#[test]
fn messages_invalidate_when_their_transaction_commits() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    let emit = |transactional: bool, content: &str| {
        format!("SELECT pg_logical_emit_message({transactional}, 'walpurge', '{content}');")
    };
    world.fill(&["a", "b", "c", "d", "e1", "page"]);
    world.redis.cmd(&["SADD", "tags:t", "page"]);
    world.redis.set("version", "5");
    world.sql(&format!("BEGIN; {} ROLLBACK;", emit(true, r#"{"delete":["a"]}"#)));
    world.sql(&format!(
        "BEGIN; {} COMMIT;",
        emit(true, r#"{"delete":["b"],"tags":["t"],"bump":["version"]}"#)
    ));
    world.wait_gone(&["b", "page"]);
    // One that is no part of a transaction runs although that one rolls back.
    world.sql(&format!("BEGIN; {} ROLLBACK;", emit(false, r#"{"delete":["c"]}"#)));
    world.wait_gone(&["c"]);
    // What is wrong, or not allowed, does nothing, and holds up nothing.
    world.sql(&emit(true, r#"{"delete_matching":["e*"]}"#));
    world.sql(&emit(true, "nonsense"));
    world.sql("SELECT pg_logical_emit_message(true, 'foreign', '{\"delete\":[\"a\"]}')");
    world.sql(&emit(true, r#"{"delete":["d"]}"#));
    world.wait_gone(&["d"]);
    world.wait_confirmed();
    world.assert_cached(&["a", "e1"]);
    assert!(world.redis.get("version").unwrap().parse::<u64>().unwrap() > 5);
    assert_eq!(world.news().matches("a message asks for").count(), 2, "{}", world.news());
    world.stop();
    // A message survives a crash before it was done.
    world.redis.pause();
    world.start();
    world.sql(&emit(false, r#"{"delete":["a"]}"#));
    world.wait_for_log("value=a");
    world.kill_9();
    world.redis.resume();
    world.assert_cached(&["a"]);
    world.start();
    world.wait_gone(&["a"]);
}

#[test]
fn messages_of_a_savepoint_that_is_rolled_back_do_nothing() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    let emit = |key: &str| {
        let content = format!(r#"{{"delete":["{key}"]}}"#);
        format!("SELECT pg_logical_emit_message(true, 'walpurge', '{content}');")
    };
    world.fill(&["a", "b", "c"]);
    world.sql(&format!(
        "BEGIN; {} SAVEPOINT s; {} ROLLBACK TO s; SAVEPOINT t; {} RELEASE t; COMMIT",
        emit("a"),
        emit("b"),
        emit("c")
    ));
    world.wait_gone(&["a", "c"]);
    world.wait_confirmed();
    world.assert_cached(&["b"]);
}

#[test]
fn a_role_that_may_not_emit_messages_is_refused_and_everything_else_goes_on() {
    let mut world = World::new(PRODUCTS, RULE);
    let url = world.pg.url("walpurge", "postgres");
    world.edit("[redis.cache]", "heartbeat = \"1s\"\n[redis.cache]");
    world.sql(
        "CREATE ROLE app LOGIN; GRANT ALL ON products TO app;
         REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC;
         REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, bytea) FROM PUBLIC",
    );
    world.start();
    world.wait_for_log("no heartbeat");
    world.fill(&["a", "product:1", "product:2"]);
    let emit = r#"SELECT pg_logical_emit_message(true, 'walpurge', '{"delete":["a"]}')"#;
    let refused = world.pg.try_psql("app", "postgres", &format!("\\set VERBOSITY verbose\n{emit}"));
    assert!(refused.as_ref().is_err_and(|error| error.contains("42501")), "{refused:?}");
    world.sql("UPDATE products SET category = 1 WHERE id = 1");
    world.wait_gone(&["product:1"]);
    world.wait_confirmed();
    world.assert_cached(&["a", "product:2"]);
    assert!(!world.news().contains("WARN"), "{url}: {}", world.news());
    // Whoever may, may; and the heartbeat comes once its role may.
    world.sql(
        "GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO app, walpurge",
    );
    world.pg.psql_as("app", "postgres", emit);
    world.wait_gone(&["a"]);
    world.wait_confirmed();
    world.stop();
}
