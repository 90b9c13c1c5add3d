//! A transaction that Postgres itself cannot decode.

use std::time::Duration;

use testkit::postgres::StopMode;
use testkit::proxy::Proxy;
use testkit::wait_until;

use super::{FOREIGN, gaps, world, write};
use crate::world::{PATIENCE, World};

/// The server needs some seconds for each attempt.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_value_that_the_server_cannot_decode_costs_its_transaction_and_not_the_stream() {
    let mut world = world();
    world.sql("CREATE TABLE blobs (id int PRIMARY KEY, content bytea)");
    world.start();
    world.wait_confirmed();
    let log = world.dir.join("walpurge.log");
    let before = std::fs::read_to_string(&log).unwrap();
    world.stop();
    // Its hexadecimal text is beyond what a server can allocate at once.
    world
        .edit("[[rule]]", "[[rule]]\ntable = \"public.blobs\"\ndelete = [\"blob:{id}\"]\n[[rule]]");
    world.fill(&["blob:1", "blob:2", "product:1"]);
    world.sql(
        "BEGIN; INSERT INTO blobs VALUES (2, '');
         INSERT INTO blobs SELECT 1, convert_to(repeat('x', 540000000), 'UTF8');
         UPDATE products SET category = category + 1 WHERE id = 1; COMMIT",
    );
    world.spawn(&["run", "--log", "debug"]);
    let end = world.pg.current_lsn();
    wait_until("the slot has come past it", LONG, || world.pg.has_confirmed("walpurge", &end));
    world.wait_gone(&["blob:1", "blob:2", "product:1"]);
    let log = world.log().replace(&before, "");
    assert_eq!(log.matches("the server cannot decode a transaction").count(), 1, "{log}");
    assert!(log.contains("invalid memory alloc request size"), "{log}");
    world.fill(&["product:2", "product:3"]);
    write(&world, 3);
    world.wait_gone(&["product:3"]);
    wait_until("everything is confirmed", PATIENCE, || {
        world.pg.has_confirmed("walpurge", &world.pg.current_lsn())
    });
    world.assert_cached(&["product:2", FOREIGN]);
    assert_eq!(gaps(&world), 0, "{}", world.news());
    world.stop();
}

/// A table with large values, and a server that can be cut off.
fn behind_a_proxy() -> (World, Proxy) {
    let mut world = world();
    let proxy = Proxy::to(world.pg.port());
    let (port, through) = (format!(":{}/", world.pg.port()), format!(":{}/", proxy.port()));
    world.edit(&port, &through);
    world.sql("CREATE TABLE blobs (id int PRIMARY KEY, content bytea)");
    world
        .edit("[[rule]]", "[[rule]]\ntable = \"public.blobs\"\ndelete = [\"blob:{id}\"]\n[[rule]]");
    (world, proxy)
}

#[test]
fn a_server_that_is_replaced_while_a_transaction_is_given_up_is_noticed() {
    let (mut world, proxy) = behind_a_proxy();
    world.sql("ALTER DATABASE postgres SET synchronous_commit = local");
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'ghost'");
    world.sql("SELECT pg_reload_conf()");
    world.start();
    // It is streamed, and not visible as long as the server lives.
    let mut waiting = world.pg.session("postgres", "postgres");
    waiting.run("SET synchronous_commit = on");
    waiting.send("INSERT INTO blobs SELECT 1, convert_to(repeat('x', 540000000), 'UTF8')");
    let given_up = "the server cannot decode a transaction";
    wait_until("it is given up", LONG, || world.log().contains(given_up));
    world.sql("CHECKPOINT");
    // It never hears that the server starts, and then finds another one.
    proxy.refuse();
    proxy.cut();
    world.pg.kill_9();
    world.pg.start_again();
    world.fill(&["blob:1", "product:1"]);
    proxy.accept();
    let end = world.pg.current_lsn();
    wait_until("the slot has come past it", LONG, || world.pg.has_confirmed("walpurge", &end));
    world.wait_gone(&["blob:1"]);
    world.stop();
}

#[test]
fn a_slot_is_moved_past_a_transaction_only_on_the_server_that_could_not_decode_it() {
    let (mut world, proxy) = behind_a_proxy();
    world.start();
    world.wait_confirmed();
    world.redis.pause();
    world.sql("INSERT INTO blobs SELECT 1, convert_to(repeat('x', 540000000), 'UTF8'); CHECKPOINT");
    let given_up =
        |world: &World| world.log().matches("the server cannot decode a transaction").count();
    wait_until("it is given up", LONG, || given_up(&world) == 1);
    // It is done, and the way to the server is cut off meanwhile: whoever is there next may have
    // another history up to the same place.
    proxy.refuse();
    world.redis.resume();
    world.wait_for_log("cannot connect");
    world.pg.stop(StopMode::Immediate);
    world.pg.start_again();
    proxy.accept();
    let moved = "moved the slot past";
    wait_until("the slot is moved", LONG, || world.log().contains(moved));
    assert_eq!(given_up(&world), 2, "it was decoded again first\n{}", world.news());
    let end = world.pg.current_lsn();
    wait_until("the slot has come past it", LONG, || world.pg.has_confirmed("walpurge", &end));
    assert_eq!(gaps(&world), 0, "{}", world.news());
    world.stop();
}
