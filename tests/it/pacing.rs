//! `max_keys_per_second`: patterns, fallbacks and what lookups find take only so many keys, and
//! delay nobody else.

use std::time::{Duration, Instant};

use testkit::redis::Reply;
use testkit::wait_until;

use crate::replay::{observe, ran};
use crate::world::{PATIENCE, World};

const TABLE: &str = "CREATE TABLE items (id int PRIMARY KEY, n int);
    CREATE TABLE lists (id int PRIMARY KEY);
    CREATE TABLE tagged (id int PRIMARY KEY, list int);
    GRANT SELECT ON tagged TO walpurge;
    INSERT INTO items SELECT n, 0 FROM generate_series(1, 50) n;";

const RULES: &str = "
[[rule]]
name = \"item\"
table = \"public.items\"
delete = [\"item:{id}\"]
[[rule]]
name = \"list\"
table = \"public.lists\"
delete_matching = [\"list:*\"]
";

/// A world in which so many keys a second may go.
fn world(rate: u32, rules: &str) -> World {
    let mut world = World::new(TABLE, rules);
    world
        .edit("\n[[rule]]\nname = \"item\"", &format!("\n{}[[rule]]\nname = \"item\"", pace(rate)));
    world
}

fn pace(rate: u32) -> String {
    format!("max_keys_per_second = {rate}\n")
}

/// Caches numbered keys.
fn fill(world: &World, start: &str, count: usize) {
    let set = |number| vec!["SET".to_owned(), format!("{start}{number}"), "cached".to_owned()];
    let commands: Vec<_> = (1..=count).map(set).collect();
    let replies = world.redis.client().unwrap().pipeline(&commands).unwrap();
    assert!(!replies.iter().any(Reply::is_error));
}

fn keys(world: &World) -> usize {
    match world.redis.cmd(&["DBSIZE"]) {
        Reply::Int(keys) => keys as usize,
        reply => panic!("{reply}"),
    }
}

#[test]
fn a_pattern_obeys_it_while_single_rows_go_at_once() {
    const RATE: u32 = 2000;
    const MANY: usize = 20_000;
    let mut world = world(RATE, RULES);
    world.start();
    fill(&world, "list:", MANY);
    fill(&world, "item:", 50);
    let began = Instant::now();
    world.sql("INSERT INTO lists VALUES (1)");
    wait_until("the pattern is under way", PATIENCE, || keys(&world) < MANY + 50);
    let mut took = Vec::new();
    for id in 1..=50 {
        world.sql(&format!("UPDATE items SET n = 1 WHERE id = {id}"));
        let committed = Instant::now();
        let key = format!("item:{id}");
        wait_until("the key is gone", PATIENCE, || !world.redis.exists(&key));
        took.push(committed.elapsed());
        let gone = MANY + 50 - keys(&world) - id as usize;
        let due = began.elapsed().as_secs_f64() * f64::from(RATE);
        assert!(gone as f64 <= due + 200.0, "{gone} after {:?}", began.elapsed());
    }
    took.sort_unstable();
    println!("from commit to gone: median {:?}, longest {:?}", took[25], took[49]);
    let left = keys(&world);
    assert!(left > 0, "a single row's key waited for the pattern");
    wait_until("the pattern is done", 4 * PATIENCE, || keys(&world) == 0);
    let least = Duration::from_secs_f64((MANY - 200) as f64 / f64::from(RATE));
    assert!(began.elapsed() >= least, "{:?}", began.elapsed());
    world.wait_confirmed();
    world.stop();
}

#[test]
fn a_stop_does_not_wait_for_it_and_the_next_start_goes_on() {
    let mut world = world(100, RULES);
    world.start();
    fill(&world, "list:", 20_000);
    world.sql("INSERT INTO lists VALUES (1)");
    let end = world.pg.current_lsn();
    wait_until("the pattern is under way", PATIENCE, || keys(&world) < 20_000);
    world.stop();
    assert!(keys(&world) > 0 && !world.pg.has_confirmed("walpurge", &end));
    world.edit(&pace(100), "");
    world.start();
    world.wait_confirmed();
    assert_eq!(keys(&world), 0, "{}", world.news());
    world.stop();
}

#[test]
fn what_lookups_find_and_fallbacks_obey_it() {
    let rules = "
[[rule]]
name = \"item\"
table = \"public.items\"
delete = [\"item:{id}\"]
[[rule]]
name = \"found\"
table = \"public.lists\"
on = [\"insert\", \"truncate\"]
lookup = \"SELECT id AS tag FROM tagged WHERE list = {id}\"
delete = [\"tagged:{tag}\"]
publish = { channel = \"news\", message = \"tag:{tag}\" }
";
    const RATE: u32 = 500;
    let mut world = world(RATE, rules);
    world.sql("INSERT INTO tagged SELECT n, 1 FROM generate_series(1, 1500) n");
    world.start();
    for change in ["INSERT INTO lists VALUES (1)", "TRUNCATE lists"] {
        fill(&world, "tagged:", 1500);
        let mut listener = world.redis.client().unwrap();
        listener.set_timeout(Some(PATIENCE)).unwrap();
        listener.cmd(&["SUBSCRIBE", "news"]).unwrap();
        let began = Instant::now();
        world.sql(change);
        wait_until("it is under way", PATIENCE, || keys(&world) < 1500);
        world.fill(&["item:1"]);
        world.sql("UPDATE items SET n = n + 1 WHERE id = 1");
        world.wait_gone(&["item:1"]);
        assert!(keys(&world) > 0, "a single row's key waited");
        // What is told comes after all that it tells of.
        listener.read_reply().unwrap();
        assert_eq!(keys(&world), 0, "told too early");
        let least = Duration::from_secs_f64(1450.0 / f64::from(RATE));
        assert!(began.elapsed() >= least, "{change}: {:?}", began.elapsed());
        world.wait_confirmed();
    }
    world.stop();
}

#[test]
fn a_replay_ends_when_it_is_done() {
    const RATE: u32 = 500;
    let world = world(RATE, RULES);
    observe(&world);
    let from = world.pg.current_lsn();
    world.sql("INSERT INTO lists VALUES (1)");
    fill(&world, "list:", 2000);
    let began = Instant::now();
    let ran = ran(&world, &["--from-lsn", &from]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert_eq!(keys(&world), 0, "{}{}", ran.out, ran.err);
    let least = Duration::from_secs_f64(1950.0 / f64::from(RATE));
    assert!(began.elapsed() >= least, "{:?}", began.elapsed());
}
