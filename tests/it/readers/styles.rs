//! Each style, in each language: the reader fills the cache, a row changes, the reader sees the new
//! value; and what comes of it where a commit falls between its read and its fill.

use testkit::holds_within;
use testkit::postgres::Postgres;
use testkit::proxy::Proxy;
use testkit::redis::Redis;

use super::page;
use super::reader::{Built, Language, Reader, Said};
use crate::world::{PATIENCE, World};

const TABLES: &str = "
    CREATE TABLE products (id int PRIMARY KEY, name text);
    CREATE TABLE once (id int PRIMARY KEY, name text);
    CREATE TABLE goods (id int PRIMARY KEY, name text, category int);
    CREATE TABLE settings (name text PRIMARY KEY, value text);
    ALTER TABLE goods REPLICA IDENTITY FULL;
    INSERT INTO products VALUES (7, 'lamp');
    INSERT INTO once VALUES (8, 'vase'), (9, 'bowl');
    INSERT INTO goods VALUES (1, 'desk', 3), (2, 'chair', 3), (3, 'bed', 4);
    INSERT INTO settings VALUES ('theme', 'dark'), ('size', 'small');";

/// A `marker:…` tells that the first delete is done, since no reader fills it.
const RULES: &str = r#"
[[rule]]
name = "entity"
table = "public.products"
delete = ["product:{id}", "marker:{id}"]
redelete_after = ["5s"]
sinks = ["cache"]

[[rule]]
name = "entity, deleted once"
table = "public.once"
delete = ["product:{id}"]
sinks = ["cache"]

[[rule]]
name = "tags"
table = "public.goods"
tags = ["product:{id}", "category:{category}"]
sinks = ["cache"]

[[rule]]
name = "versions"
table = "public.goods"
bump = ["list:{category}:version"]
sinks = ["cache"]

[[rule]]
name = "a tag that is a version"
table = "public.settings"
tags = ["all"]
sinks = ["versions"]

[[rule]]
name = "messages"
table = "public.settings"
publish = { channel = "invalidations", message = "setting:{name}" }
sinks = ["cache"]
"#;

fn start() -> World {
    let redis = Redis::builder().persistent().start();
    let versions = format!(
        "[redis.versions]\nurl = {:?}\ntag_mode = \"version\"\ntag_key = \"version:{{tag}}\"\n",
        redis.url()
    );
    let rules = format!("{versions}{RULES}");
    let mut world = World::with(Postgres::start(), redis, TABLES, &rules);
    world.start();
    // The rights that the page shows, and no others.
    let line = page::rights("app").replace("PASSWORD", "geheim");
    world.redis.cli(&line.split(' ').collect::<Vec<_>>());
    world
}

#[test]
fn readers_in_python_see_what_changes() {
    check(Language::Python);
}

#[test]
fn readers_in_typescript_see_what_changes() {
    check(Language::TypeScript);
}

#[test]
fn readers_in_go_see_what_changes() {
    check(Language::Go);
}

#[track_caller]
fn check(language: Language) {
    let built = Built::new(language);
    let mut world = start();
    expiry(&built, &world);
    in_process(&built, &world);
    tags(&built, &world);
    versions(&built, &world);
    entity(&built, &world);
    world.stop();
}

/// It is read from Postgres once, and then from the cache.
#[track_caller]
fn assert_caches(reader: &mut Reader, key: &str, value: &str, load: impl Fn(&str) -> String) {
    assert_eq!(reader.get(key, &load), (value.to_owned(), true));
    assert_eq!(reader.get(key, &load), (value.to_owned(), false), "it caches nothing");
}

#[track_caller]
fn wait_for(
    reader: &mut Reader,
    key: &str,
    load: impl Fn(&str) -> String,
    is_right: impl Fn(&str, bool) -> bool,
) {
    let mut seen = (String::new(), false);
    let is_seen = holds_within(PATIENCE, || {
        seen = reader.get(key, &load);
        is_right(&seen.0, seen.1)
    });
    assert!(is_seen, "{key}: the last was {seen:?}");
}

/// Soon it sees this value.
#[track_caller]
fn wait_for_value(reader: &mut Reader, key: &str, value: &str, load: impl Fn(&str) -> String) {
    wait_for(reader, key, load, |seen, _| seen == value);
}

/// A reader misses, and reads the row before it changes: what it is about to fill the cache with.
#[track_caller]
fn read_before(reader: &mut Reader, key: &str, load: impl Fn(&str) -> String) -> String {
    let Said::Load(wanted) = reader.ask(key) else { panic!("{key} is cached") };
    load(&wanted)
}

fn entity(built: &Built, world: &World) {
    let load = |id: &str| {
        let read = |table| format!("SELECT name FROM {table} WHERE id = {id}");
        world.sql(&format!("{} UNION ALL {}", read("products"), read("once")))
    };
    let mut reader = built.start("entity", world.redis.port());
    assert_caches(&mut reader, "8", "vase", load);
    world.sql("UPDATE once SET name = 'jug' WHERE id = 8");
    wait_for_value(&mut reader, "8", "jug", load);

    // Who fills after the only delete leaves the old row.
    let old = read_before(&mut reader, "9", load);
    world.sql("UPDATE once SET name = 'cup' WHERE id = 9");
    world.wait_confirmed();
    assert_eq!(reader.answer(&old), Said::Value(old.clone()));
    assert_eq!(reader.get("9", load), (old, false), "the race that the page tells of");

    // With `redelete_after` it does not stay.
    world.fill(&["marker:7"]);
    let old = read_before(&mut reader, "7", load);
    world.sql("UPDATE products SET name = 'torch' WHERE id = 7");
    world.wait_gone(&["marker:7"]);
    assert_eq!(reader.answer(&old), Said::Value(old));
    wait_for_value(&mut reader, "7", "torch", load);
}

fn versions(built: &Built, world: &World) {
    let load = |category: &str| names(world, category);
    let mut reader = built.start("versions", world.redis.port());
    assert_caches(&mut reader, "3", "desk,chair", load);
    world.sql("UPDATE goods SET name = 'table' WHERE id = 1");
    wait_for_value(&mut reader, "3", "table,chair", load);

    // A counter that is evicted makes a miss, and no old version comes back with it.
    let version = world.redis.get("list:3:version").unwrap();
    world.redis.cli(&["DEL", "list:3:version"]);
    assert_caches(&mut reader, "3", "table,chair", load);
    assert!(version < world.redis.get("list:3:version").unwrap());

    // A tag that all of them depend on.
    world.sql("UPDATE settings SET value = 'tiny' WHERE name = 'size'");
    wait_for(&mut reader, "3", load, |_, is_loaded| is_loaded);

    // What was read before the commit is stored under the version of before.
    let old = read_before(&mut reader, "4", load);
    world.sql("UPDATE goods SET name = 'cot' WHERE id = 3");
    world.wait_confirmed();
    assert_eq!(reader.answer(&old), Said::Value(old));
    assert_eq!(reader.get("4", load), ("cot".to_owned(), true));
}

fn tags(built: &Built, world: &World) {
    let load = |category: &str| {
        let tags = "SELECT string_agg('product:' || id, ' ') FROM goods WHERE category";
        let tags = world.sql(&format!("{tags} = {category}"));
        format!("{}|category:{category} {tags}", names(world, category))
    };
    let mut reader = built.start("tags", world.redis.port());
    assert_caches(&mut reader, "3", "desk,chair", load);
    let left = |key: &str| world.redis.cli(&["TTL", key]).parse::<i64>().unwrap();
    assert!(left("page:3") > 0 && left("tags:product:1") > left("page:3"));
    // By either of its tags.
    world.sql("UPDATE goods SET name = 'stool' WHERE id = 2");
    wait_for_value(&mut reader, "3", "desk,stool", load);
    world.sql("INSERT INTO goods VALUES (5, 'lamp', 3)");
    wait_for_value(&mut reader, "3", "desk,stool,lamp", load);
    world.sql("DELETE FROM goods WHERE id = 5; UPDATE goods SET name = 'chair' WHERE id = 2");
    wait_for_value(&mut reader, "3", "desk,chair", load);
    world.wait_confirmed();
}

/// What is in a category.
fn names(world: &World, category: &str) -> String {
    let names = "SELECT string_agg(name, ',' ORDER BY id) FROM goods WHERE category";
    world.sql(&format!("{names} = {category}"))
}

fn expiry(built: &Built, world: &World) {
    let load = |_: &str| world.sql("SELECT name FROM once WHERE id = 8");
    let (mut reader, mut other) =
        (built.start("expiry", world.redis.port()), built.start("expiry", world.redis.port()));
    assert_caches(&mut reader, "front", "vase", load);
    // What a rule with `expire_in` does.
    world.redis.cli(&["PEXPIRE", "hot:front", "20000"]);
    assert_eq!(reader.ask("front"), Said::Load("front".to_owned()));
    assert_eq!(other.get("front", load), ("vase".to_owned(), false), "they all refresh it");
    assert_eq!(reader.answer("pot"), Said::Value("pot".to_owned()));
    assert_eq!(other.get("front", load), ("pot".to_owned(), false));
    let left = world.redis.cli(&["TTL", "hot:front"]).parse::<i64>().unwrap();
    assert!(left > 3000, "{left}");
}

fn in_process(built: &Built, world: &World) {
    let load = |key: &str| {
        let name = key.strip_prefix("setting:").unwrap();
        world.sql(&format!("SELECT value FROM settings WHERE name = '{name}'"))
    };
    let (theme, size) = ("setting:theme", "setting:size");
    let is_kept = |_: &str, is_loaded: bool| !is_loaded;
    let proxy = Proxy::to(world.redis.port());
    let mut reader = built.start("in_process", proxy.port());
    // As soon as it listens.
    wait_for(&mut reader, theme, load, is_kept);
    world.sql("UPDATE settings SET value = 'light' WHERE name = 'theme'");
    wait_for_value(&mut reader, theme, "light", load);

    // A message that is lost with its connection.
    wait_for(&mut reader, theme, load, is_kept);
    proxy.mute();
    world.sql("UPDATE settings SET value = 'blue' WHERE name = 'theme'");
    world.wait_confirmed();
    assert_eq!(reader.get(theme, load), ("light".to_owned(), false), "nothing has told it yet");
    proxy.cut();
    proxy.resume();
    wait_for_value(&mut reader, theme, "blue", load);
    wait_for(&mut reader, theme, load, is_kept);

    // A message that comes between the read and the fill.
    let old = read_before(&mut reader, size, load);
    world.sql("UPDATE settings SET value = 'large' WHERE name = 'size'");
    world.wait_confirmed();
    assert_eq!(reader.answer(&old), Said::Value(old));
    wait_for_value(&mut reader, size, "large", load);

    // All of them at once.
    wait_for(&mut reader, theme, load, is_kept);
    world.sql("TRUNCATE settings");
    wait_for_value(&mut reader, theme, "", load);
    world.sql("INSERT INTO settings VALUES ('theme', 'dark'), ('size', 'small')");
    world.wait_confirmed();
}
