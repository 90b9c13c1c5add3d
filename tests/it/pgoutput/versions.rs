//! Every version of Postgres that is supported, with pgoutput: the machine's own one is tested by
//! everything else, the others here.

use testkit::postgres::{Postgres, StopMode};
use testkit::redis::Redis;
use testkit::wait_until;

use crate::invalidation::{PRODUCTS, RULE};
use crate::world::Plugin::Pgoutput;
use crate::world::{PATIENCE, World};

/// Before the owner of the tables has made a publication.
fn world(version: u32) -> World {
    let pg = Postgres::builder().version(version).start();
    let redis = Redis::builder().persistent().start();
    let mut world = World::with_plugin(Pgoutput, pg, redis, PRODUCTS, RULE);
    let is_asked = world.sql("SHOW server_version_num");
    assert!(is_asked.starts_with(&version.to_string()), "{is_asked}");
    world.sql(
        "SELECT pg_drop_replication_slot('walpurge');
         DROP PUBLICATION walpurge;
         CREATE ROLE owner LOGIN REPLICATION;
         GRANT CREATE ON DATABASE postgres TO owner;
         ALTER TABLE products OWNER TO owner;
         ALTER TABLE products REPLICA IDENTITY DEFAULT;
         ALTER TABLE products ADD note text;
         CREATE TABLE other (id int)",
    );
    let (daemon, owner) = (world.pg.url("walpurge", "postgres"), world.pg.url("owner", "postgres"));
    world.edit("{slug}", "{new.slug}");
    world.edit(&daemon, &owner);
    let said = said(&world, &["setup"]);
    assert!(said.contains("publication walpurge"), "{said}");
    world.edit(&owner, &daemon);
    world
}

fn said(world: &World, args: &[&str]) -> String {
    let output = world.command(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `check` says, be it good or bad.
fn checked(world: &World) -> String {
    let output = world.command(&["check"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The whole of a daemon's life on a server of this version.
fn works_on(version: u32) {
    let mut world = world(version);
    let checked = said(&world, &["check"]);
    assert!(!checked.contains('✗'), "{checked}");
    // 15 and newer send only the columns that rules need.
    let lists = world.sql(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'pg_publication_rel'::regclass
             AND attname = 'prattrs'",
    );
    assert_eq!(lists == "1", version >= 15);

    world.start();
    world.fill(&["product:1", "product:2", "product:3", "product:4", "product:5", "told"]);
    world.sql("INSERT INTO products VALUES (4, 'four', 7)");
    world.wait_gone(&["product:4"]);
    world.sql("UPDATE products SET id = 5 WHERE id = 1");
    world.wait_gone(&["product:1", "product:5"]);
    world.sql("BEGIN; UPDATE products SET category = 1 WHERE id = 3; ROLLBACK");
    world.sql("INSERT INTO other VALUES (1)");
    world.sql("SELECT pg_logical_emit_message(true, 'walpurge', '{\"delete\":[\"told\"]}')");
    world.wait_gone(&["told"]);
    world.wait_confirmed();
    world.assert_cached(&["product:2", "product:3"]);

    // A commit that is streamed and not visible waits.
    let mut hidden = world.hide_commits();
    hidden.send("UPDATE products SET category = 2 WHERE id = 2");
    world.wait_for_log("value=product:2");
    world.assert_cached(&["product:2"]);
    world.show_commits(hidden);
    world.wait_gone(&["product:2"]);

    // The server goes and comes, the daemon too.
    world.pg.restart(StopMode::Immediate);
    world.sql("DELETE FROM products WHERE id = 3");
    world.wait_gone(&["product:3"]);
    world.kill_9();
    world.fill(&["product:2", "product:9"]);
    world.sql("UPDATE products SET category = 3 WHERE id = 2");
    world.start();
    world.wait_gone(&["product:2"]);
    world.assert_cached(&["product:9"]);
    world.sql("TRUNCATE products");
    world.wait_gone(&["product:9"]);
    world.wait_confirmed();
    world.stop();
    // The publication is its owner's to drop.
    let (daemon, owner) = (world.pg.url("walpurge", "postgres"), world.pg.url("owner", "postgres"));
    world.edit(&daemon, &owner);
    let said = said(&world, &["teardown", "--yes"]);
    assert!(said.contains("dropped slot walpurge"), "{said}");
    assert_eq!(world.sql("SELECT count(*) FROM pg_publication"), "0");
}

#[test]
fn all_of_it_works_on_postgres_14() {
    works_on(14);
}

#[test]
fn all_of_it_works_on_postgres_16() {
    works_on(16);
}

#[test]
fn all_of_it_works_on_postgres_17() {
    works_on(17);
}

#[test]
fn all_of_it_works_on_postgres_18() {
    works_on(18);
}

/// From 17 on a standby can carry the slot on: nothing is lost, and no fallback runs.
#[test]
fn a_slot_that_a_standby_has_synchronized_goes_on_after_its_promotion() {
    let mut world = world(17);
    let failover = "SELECT failover FROM pg_replication_slots WHERE slot_name = 'walpurge'";
    assert_eq!(world.sql(failover), "t", "setup makes a slot that follows a failover");
    world.sql("SELECT pg_create_physical_replication_slot('standby', true)");
    world.sql("ALTER SYSTEM SET synchronized_standby_slots = 'standby'");
    world.sql("SELECT pg_reload_conf()");
    // A new session has the setting only when the server has read it.
    wait_until("check tells of a standby that is not there", PATIENCE, || {
        checked(&world).contains("have not got: standby is not in use")
    });
    let primary = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", world.pg.port());
    let standby = Postgres::standby_of(
        &world.pg,
        &[
            ("primary_conninfo", &primary),
            ("primary_slot_name", "standby"),
            ("hot_standby_feedback", "on"),
            ("sync_replication_slots", "on"),
        ],
    );
    let (first, second) = (world.pg.port(), standby.port());
    world.edit(
        &format!("@127.0.0.1:{first}/postgres"),
        &format!("@127.0.0.1:{first},127.0.0.1:{second}/postgres?target_session_attrs=read-write"),
    );
    world.start();
    world.fill(&["product:1", "product:2", "product:3", "product:77"]);
    world.sql("UPDATE products SET category = 1 WHERE id = 1");
    world.wait_gone(&["product:1"]);
    let synced = "SELECT synced AND NOT temporary FROM pg_replication_slots
                  WHERE slot_name = 'walpurge'";
    wait_until("the standby has the slot", PATIENCE * 3, || {
        standby.psql("postgres", synced) == "t"
    });

    let checked_now = checked(&world);
    assert!(checked_now.contains("slot walpurge follows one\n"), "{checked_now}");

    // The last commit before the end is one that the daemon has not seen.
    world.kill_9();
    world.sql("UPDATE products SET category = 1 WHERE id = 2");
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", world.pg.current_lsn());
    wait_until("the standby has caught up", PATIENCE, || {
        standby.psql("postgres", &caught_up) == "t"
    });
    world.pg.kill_9();
    standby.promote();
    world.pg = standby;
    world.start();
    // The old primary's setting has come along: the new one waits for a standby that it has not,
    // and says so again and again.
    world.wait_for_log("Postgres sends nothing until a standby has caught up");
    let said = r#"specified in parameter "synchronized_standby_slots" does not exist"#;
    let times = world.pg.log().matches(said).count();
    wait_until("it is said again", PATIENCE, || world.pg.log().matches(said).count() > times + 1);
    let checked_now = checked(&world);
    assert!(checked_now.contains("have not got: standby does not exist"), "{checked_now}");
    world.assert_cached(&["product:2", "product:77"]);
    world.sql("ALTER SYSTEM RESET synchronized_standby_slots");
    world.sql("SELECT pg_reload_conf()");
    world.wait_gone(&["product:2"]);
    world.sql("UPDATE products SET category = 1 WHERE id = 3");
    world.wait_gone(&["product:3"]);
    world.wait_confirmed();
    world.assert_cached(&["product:77"]);
    assert!(!world.news().contains("there is a gap"), "{}", world.news());
    world.stop();
}
