//! The whole daemon with pgoutput: what its keys are, and that it starts, replays and takes over as
//! it does with wal2json.

use std::time::{Duration, Instant};

use testkit::process::{Process, Signal};
use testkit::wait_until;

use crate::invalidation::{PRODUCTS, RULE};
use crate::world::Plugin::Pgoutput;
use crate::world::{PATIENCE, World};

#[test]
fn changes_messages_and_partitions_remove_their_keys_and_no_others() {
    let tables = "CREATE TABLE items (id int, shop int, ok bool NOT NULL, raw bytea, big text,
             PRIMARY KEY (shop, id));
         ALTER TABLE items ALTER big SET STORAGE EXTERNAL;
         INSERT INTO items VALUES (1, 1, true, '\\xbeef', repeat('b', 5000)), (2, 1, true, '', ''),
             (3, 1, true, '', '');
         CREATE TABLE orders (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1);
         CREATE TABLE other (id int)";
    let rules = r#"
[[rule]]
table = "public.items"
on = ["insert", "update", "delete"]
delete = ["item:{shop}:{id}", "ok:{new.ok}", "raw:{new.raw}"]
[[rule]]
table = "public.orders"
delete = ["order:{id}"]
"#;
    let mut world = World::of(Pgoutput, tables, rules);
    world.fill(&["item:1:1", "item:1:2", "item:2:2", "item:1:3", "ok:true", "ok:false", "ok:t"]);
    world.fill(&["raw:beef", "raw:", "order:1", "order:2", "order:3", "told", "told:now"]);
    world.start();
    world.sql("UPDATE items SET ok = false WHERE id = 1");
    world.wait_gone(&["item:1:1", "ok:false", "raw:beef"]);
    // The key changes: both places.
    world.sql("UPDATE items SET shop = 2 WHERE id = 2");
    world.wait_gone(&["item:1:2", "item:2:2", "ok:true", "raw:"]);
    world.sql("DELETE FROM items WHERE id = 3");
    world.wait_gone(&["item:1:3"]);
    world.sql("INSERT INTO orders VALUES (1, 1); INSERT INTO other VALUES (1)");
    world.wait_gone(&["order:1"]);
    world.sql(
        "CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2);
         INSERT INTO orders VALUES (2, 2)",
    );
    world.wait_gone(&["order:2"]);
    world.sql(
        "SELECT pg_logical_emit_message(true, 'walpurge', '{\"delete\":[\"told\"]}');
         SELECT pg_logical_emit_message(false, 'walpurge', '{\"delete\":[\"told:now\"]}')",
    );
    world.wait_gone(&["told", "told:now"]);
    world.assert_cached(&["order:3", "ok:t"]);
    world.sql("TRUNCATE orders, other");
    world.wait_gone(&["order:3"]);
    world.wait_confirmed();
    assert!(!world.news().contains("its fallback runs"), "{}", world.news());
    world.stop();
}

#[test]
fn messages_that_are_off_ask_for_nothing() {
    let mut world = World::of(Pgoutput, PRODUCTS, RULE);
    world.edit("[redis.cache]", "messages = \"off\"\n[redis.cache]");
    world.fill(&["told", "product:1"]);
    world.start();
    world.sql(
        "SELECT pg_logical_emit_message(false, 'walpurge', '{\"delete\":[\"told\"]}');
         SELECT pg_logical_emit_message(true, 'walpurge', '{\"delete\":[\"told\"]}');
         UPDATE products SET category = 9 WHERE id = 1",
    );
    world.wait_gone(&["product:1"]);
    world.wait_confirmed();
    world.assert_cached(&["told"]);
    world.stop();
}

#[test]
fn transactions_that_concern_no_rule_are_confirmed() {
    let mut world = World::of(Pgoutput, PRODUCTS, RULE);
    world.sql("DROP PUBLICATION walpurge; CREATE PUBLICATION walpurge FOR TABLE products");
    world.sql(
        "SELECT pg_drop_replication_slot('walpurge');
         SELECT pg_create_logical_replication_slot('walpurge', 'pgoutput')",
    );
    world.start();
    for _ in 0..3 {
        world.sql("CREATE TABLE IF NOT EXISTS other (id int); INSERT INTO other VALUES (1)");
        world.wait_confirmed();
    }
    world.stop();
}

#[test]
fn a_dry_run_shows_what_would_be_done_and_confirms_nothing() {
    let mut world = World::of(Pgoutput, PRODUCTS, RULE);
    world.fill(&["product:1"]);
    world.sql("UPDATE products SET category = 9 WHERE id = 1");
    let confirmed = world.pg.confirmed_flush_lsn("walpurge");
    world.spawn(&["run", "--dry-run"]);
    world.wait_for_log("product:1");
    world.stop();
    world.assert_cached(&["product:1"]);
    assert_eq!(world.pg.confirmed_flush_lsn("walpurge"), confirmed);
}

#[test]
fn what_was_done_is_replayed_from_a_position_and_from_a_time() {
    let mut world = World::of(Pgoutput, PRODUCTS, RULE);
    let section = "[postgres.replay]\nwindow = '1h'\nmax_wal = '1GiB'\n";
    world.edit("[redis.cache]", &format!("{section}[redis.cache]"));
    world.start();
    world.wait_for_log("made the replay slot");
    world.sql("UPDATE products SET category = 9 WHERE id = 1");
    world.wait_confirmed();
    let between = world.pg.current_lsn();
    world.sql("UPDATE products SET category = 9 WHERE id = 2");
    world.wait_confirmed();
    let replay = |args: &[&str]| {
        let output = world.command(&[&["replay"], args].concat()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let keys = ["product:1", "product:2", "product:3"];
    world.fill(&keys);
    let said = replay(&["--from-lsn", &between]);
    world.wait_gone(&["product:2"]);
    world.assert_cached(&["product:1", "product:3"]);
    assert!(said.contains("1 transaction"), "{said}");
    world.fill(&keys);
    world.fill(&keys);
    // Without the daemon's own record of times the slot says how far back there is something.
    let mut command = world.command(&["replay", "--since", "30m"]);
    let output = command.env_remove("STATE_DIRECTORY").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let year = world
        .sql("SELECT to_char(now() AT TIME ZONE 'UTC', '(\"what was committed since\" YYYY-MM')");
    assert!(error.contains(&year), "{year}: {error}");
    world.sql("SELECT pg_sleep(1.1)");
    let said = replay(&["--since", "1s"]);
    assert!(said.contains("0 transactions"), "{said}");
    world.assert_cached(&keys);
    world.stop();
}

#[test]
fn a_slot_that_is_gone_is_a_gap_and_a_new_one_is_made_for_the_same_plugin() {
    let mut world = World::of(Pgoutput, PRODUCTS, RULE);
    world.start();
    world.wait_confirmed();
    world.stop();
    world.fill(&["product:1", "session:1"]);
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
    world.sql("UPDATE products SET category = 9 WHERE id = 1");
    world.spawn(&["run", "--log", "debug"]);
    world.wait_for_log("the gap is closed");
    world.wait_gone(&["product:1"]);
    world.fill(&["product:2"]);
    world.sql("UPDATE products SET category = 9 WHERE id = 2");
    world.wait_gone(&["product:2"]);
    world.assert_cached(&["session:1"]);
    let plugin = "SELECT plugin FROM pg_replication_slots WHERE slot_name = 'walpurge'";
    wait_until("the permanent slot", PATIENCE, || world.sql(plugin) == "pgoutput");
    world.wait_confirmed();
    world.stop();
}

#[test]
fn a_slot_of_the_other_plugin_is_refused() {
    let mut world = World::of(Pgoutput, PRODUCTS, RULE);
    world.edit("plugin = \"pgoutput\"\n", "");
    world.spawn(&["run"]);
    let mut daemon = world.daemon.take().unwrap();
    let status = daemon.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(78), "{}", daemon.log());
    assert!(daemon.log().contains("it is for plugin \"pgoutput\""), "{}", daemon.log());
}

#[test]
fn a_second_daemon_takes_over_when_the_first_one_dies() {
    let mut world = World::of(Pgoutput, PRODUCTS, RULE);
    world.start();
    world.sql("UPDATE products SET category = 9 WHERE id = 1");
    world.wait_confirmed();
    let log = world.dir.join("second.log");
    let mut command = world.command(&["run", "--log", "debug"]);
    command.env("STATE_DIRECTORY", world.dir.join("second"));
    let second = Process::spawn("walpurge", command, &log, Signal::KILL).unwrap();
    wait_until("it waits", PATIENCE, || second.log().contains("is active for PID"));
    world.fill(&["product:1", "product:2"]);
    world.kill_9();
    let dead = Instant::now();
    world.sql("UPDATE products SET category = 10 WHERE id = 2");
    world.wait_gone(&["product:2"]);
    assert!(dead.elapsed() < Duration::from_secs(15), "{}", second.log());
    world.wait_confirmed();
    world.assert_cached(&["product:1"]);
    assert!(!second.log().contains("there is a gap"), "{}", second.log());
}

/// The server needs some seconds for each attempt.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_value_that_the_server_cannot_decode_costs_its_transaction_and_not_the_stream() {
    let mut world = World::of(Pgoutput, PRODUCTS, RULE);
    world.sql("CREATE TABLE blobs (id int PRIMARY KEY, content bytea)");
    world
        .edit("[[rule]]", "[[rule]]\ntable = \"public.blobs\"\ndelete = [\"blob:{id}\"]\n[[rule]]");
    world.fill(&["blob:1", "blob:2", "product:1"]);
    world.start();
    world.sql(
        "BEGIN; INSERT INTO blobs VALUES (2, '');
         INSERT INTO blobs SELECT 1, convert_to(repeat('x', 540000000), 'UTF8');
         UPDATE products SET category = category + 1 WHERE id = 1; COMMIT",
    );
    let end = world.pg.current_lsn();
    wait_until("the slot has come past it", LONG, || world.pg.has_confirmed("walpurge", &end));
    world.wait_gone(&["blob:1", "blob:2", "product:1"]);
    let given_up = "the server cannot decode a transaction";
    assert_eq!(world.log().matches(given_up).count(), 1, "{}", world.news());
    // The one behind it is not left out, and nothing is taken for a gap, over a restart too.
    world.fill(&["product:2", "product:3", "blob:9"]);
    world.sql("UPDATE products SET category = category + 1 WHERE id = 3");
    world.wait_gone(&["product:3"]);
    world.kill_9();
    world.start();
    world.wait_confirmed();
    world.assert_cached(&["product:2", "blob:9"]);
    assert!(!world.news().contains("there is a gap"), "{}", world.news());
    world.stop();
}
