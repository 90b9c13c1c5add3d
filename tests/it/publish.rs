//! Messages for caches in processes: after everything else of their transaction.

use std::time::Duration;

use testkit::redis::{Client, Redis, Reply};

use crate::world::{PATIENCE, World};

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, n int)";

const RULE: &str = r#"
[[rule]]
name = "item"
table = "public.items"
delete = ["item:{id}"]
publish = { channel = "inv: *", message = "item:{id}" }
"#;

fn subscribe(redis: &Redis) -> Client {
    let mut client = redis.client().unwrap();
    client.set_timeout(Some(PATIENCE)).unwrap();
    client.cmd(&["SUBSCRIBE", "inv: *"]).unwrap();
    client
}

/// The text of the next message.
#[track_caller]
fn next(client: &mut Client) -> String {
    let Reply::Array(Some(parts)) = client.read_reply().unwrap() else { panic!("no message") };
    let Some(Reply::Bulk(Some(text))) = parts.into_iter().nth(2) else { panic!("no text") };
    String::from_utf8(text).unwrap()
}

#[track_caller]
fn assert_silent(client: &mut Client) {
    client.set_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(client.read_reply().is_err(), "a message came early");
    client.set_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn who_hears_of_a_key_finds_it_gone() {
    let mut world = World::new(TABLE, RULE);
    let mut listener = subscribe(&world.redis);
    world.start();
    for id in 0..200 {
        let key = format!("item:{id}");
        world.fill(&[&key]);
        world.sql(&format!("INSERT INTO items VALUES ({id}, 0)"));
        assert_eq!(next(&mut listener), key);
        assert!(!world.redis.exists(&key), "{key} was told of before it was gone");
    }
    world.wait_confirmed();
}

#[test]
fn a_message_waits_for_every_redis() {
    let second = Redis::builder().persistent().start();
    let url = second.url();
    let mut world = World::new(TABLE, RULE);
    world.edit("[[rule]]", &format!("[redis.second]\nurl = \"{url}\"\n[[rule]]"));
    let mut listener = subscribe(&world.redis);
    world.fill(&["item:1"]);
    world.start();
    let mut second = second;
    second.pause();
    world.sql("INSERT INTO items VALUES (1, 0)");
    world.wait_gone(&["item:1"]);
    assert_silent(&mut listener);
    second.resume();
    assert_eq!(next(&mut listener), "item:1");
    world.wait_confirmed();
}

#[test]
fn a_truncate_is_told_once_and_after_its_scan() {
    let mut world = World::new(TABLE, RULE);
    world.fill(&["item:1", "item:2"]);
    let mut listener = subscribe(&world.redis);
    world.start();
    world.sql("TRUNCATE items");
    assert_eq!(next(&mut listener), "item:*");
    assert!(!world.redis.exists("item:1") && !world.redis.exists("item:2"));
    world.wait_confirmed();
    assert_silent(&mut listener);
}

#[test]
fn a_transaction_too_large_to_be_told_in_full_is_told_in_one_message() {
    let mut world = World::new(TABLE, &RULE.replace("publish", "bulk_above = 500\npublish"));
    let mut listener = subscribe(&world.redis);
    world.fill(&["item:foreign"]);
    world.start();
    world.sql("INSERT INTO items SELECT n, 0 FROM generate_series(1, 2000) n");
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "item:*") {
        told.push(next(&mut listener));
    }
    assert!(told.len() <= 501, "{}", told.len());
    assert!(!world.redis.exists("item:foreign"), "the fallback ran before it was told");
    world.wait_confirmed();
    assert_silent(&mut listener);
}

#[test]
fn messages_and_deletes_that_a_kill_cut_off_are_repeated() {
    let mut world = World::new(TABLE, RULE);
    let mut listener = subscribe(&world.redis);
    world.start();
    world.redis.pause();
    world.sql("INSERT INTO items VALUES (1, 0)");
    world.wait_for_log("action=\"publish\"");
    world.kill_9();
    world.redis.resume();
    world.start();
    assert_eq!(next(&mut listener), "item:1");
    world.wait_confirmed();
}

#[test]
fn an_application_that_listens_may_be_absent() {
    let mut world = World::new(TABLE, RULE);
    world.start();
    world.sql("INSERT INTO items VALUES (1, 0)");
    world.wait_confirmed();
    world.stop();
}

const STREAM: &str = r#"
[[rule]]
name = "item \"x\""
table = "public.items"
delete = ["item:{id}"]
tags = ["tag-{n}"]
publish = { stream = "inv", maxlen = 100 }
"#;

/// The texts of a stream's entries.
fn entries(redis: &Redis, stream: &str) -> Vec<String> {
    let Reply::Array(Some(entries)) = redis.cmd(&["XRANGE", stream, "-", "+"]) else {
        panic!("no stream")
    };
    let text = |entry: Reply| match entry {
        Reply::Array(Some(parts)) => match parts.into_iter().nth(1) {
            Some(Reply::Array(Some(fields))) => match &fields[..] {
                [Reply::Bulk(Some(name)), Reply::Bulk(Some(text))] if name == b"message" => {
                    String::from_utf8(text.clone()).unwrap()
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    entries.into_iter().map(text).collect()
}

#[test]
fn a_stream_keeps_what_was_deleted_as_json() {
    let mut world = World::new(TABLE, STREAM);
    world.edit("[[rule]]", "prefix = \"app:\"\n[[rule]]");
    world.start();
    world.sql("INSERT INTO items VALUES (1, 7)");
    world.wait_confirmed();
    let entries = entries(&world.redis, "app:inv");
    let told: Vec<serde_json::Value> =
        entries.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    for (told, (action, value)) in told.iter().zip([("delete", "item:1"), ("tags", "tag-7")]) {
        assert_eq!((&told["action"], &told["value"]), (&action.into(), &value.into()));
        assert_eq!((&told["table"], &told["rule"]), (&"public.items".into(), &"item \"x\"".into()));
        assert!(told["commit_lsn"].as_str().unwrap().contains('/'));
    }
    world.sql("TRUNCATE items");
    world.wait_confirmed();
    let last = self::entries(&world.redis, "app:inv").pop().unwrap();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["action"], &last["pattern"]), (&"tags".into(), &true.into()));
    assert_eq!(last["value"], "tag-*");
    world.stop();
}

#[test]
fn a_stream_is_cut_and_no_stream_at_its_key_is_given_up_on() {
    let mut world = World::new(TABLE, STREAM);
    world.start();
    world.sql("INSERT INTO items SELECT n, 0 FROM generate_series(1, 5000) n");
    world.wait_confirmed();
    let Reply::Int(length) = world.redis.cmd(&["XLEN", "inv"]) else { panic!("no stream") };
    // Whole nodes of 100 entries are cut.
    assert!((100..=300).contains(&length), "{length}");
    world.redis.cmd(&["DEL", "inv"]);
    world.redis.set("inv", "not ours");
    world.fill(&["item:1"]);
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    world.wait_gone(&["item:1"]);
    world.wait_for_log("can never succeed");
    world.wait_confirmed();
    world.stop();
}

#[test]
fn what_is_told_as_json_is_escaped_once() {
    let table = "CREATE TABLE items (id text PRIMARY KEY, n int)";
    let mut world = World::new(
        table,
        &STREAM.replace("stream = \"inv\", maxlen = 100", "channel = \"inv: *\""),
    );
    let mut listener = subscribe(&world.redis);
    world.start();
    world.sql("INSERT INTO items VALUES (E'a\"b\\\\c\\nd*', NULL)");
    let told: serde_json::Value = serde_json::from_str(&next(&mut listener)).unwrap();
    assert_eq!(told["value"], "item:a\"b\\c\nd*");
    world.wait_confirmed();
    assert_silent(&mut listener);
}
