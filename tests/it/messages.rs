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
