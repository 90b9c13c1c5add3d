//! The publication that `setup` makes: what it holds, whom it leaves alone, and that no statement
//! of an application fails because of it.

use std::process::Command;

use testkit::process::{Process, Signal};
use testkit::wait_until;

use super::{Ran, done, failed, ran};
use crate::world::{PATIENCE, Plugin, World};

const TABLES: &str = "CREATE ROLE app LOGIN; GRANT CREATE ON DATABASE postgres TO app;
    CREATE SCHEMA shop AUTHORIZATION app; SET ROLE app;
    CREATE TABLE shop.products (id int PRIMARY KEY, slug text, price int, note text);
    CREATE TABLE shop.orders (id int, day int, note text, PRIMARY KEY (id, day))
        PARTITION BY RANGE (day);
    CREATE TABLE shop.orders_1 PARTITION OF shop.orders FOR VALUES FROM (0) TO (10);
    CREATE TABLE shop.log_a (id int PRIMARY KEY, kind text, text text);
    CREATE TABLE shop.log_b (LIKE shop.log_a INCLUDING ALL) INHERITS (shop.log_a);
    CREATE TABLE shop.pairs (a int NOT NULL, b text NOT NULL, c text, d text);
    CREATE UNIQUE INDEX pairs_by_b ON shop.pairs (b);
    ALTER TABLE shop.pairs REPLICA IDENTITY USING INDEX pairs_by_b;
    CREATE TABLE shop.full_ones (id int PRIMARY KEY, slug text, note text);
    ALTER TABLE shop.full_ones REPLICA IDENTITY FULL;
    CREATE TABLE shop.sums (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
    CREATE TABLE shop.\"We\"\"ird, one\" (\"I d\" int PRIMARY KEY, note text);
    CREATE TABLE shop.bare (id int, note text);
    CREATE UNLOGGED TABLE shop.log_unlogged (id int PRIMARY KEY);
    CREATE TABLE shop.lone (id int PRIMARY KEY, note text)";

const RULES: &str = r#"
[[rule]]
table = "shop.products"
delete = ["product:{id}:{new.slug}"]
[[rule]]
table = ["shop.orders", "shop.orders_1"]
delete = ["order:{id}"]
[[rule]]
name = "log"
table = "shop.log_*"
on = ["insert", "delete"]
where = { kind = "x" }
delete = ["log:{id}"]
[[rule]]
table = "shop.pairs"
changed = ["d"]
delete = ["pair:{b}"]
[[rule]]
table = "shop.full_ones"
delete = ["full:{slug}"]
[[rule]]
table = "shop.sums"
delete = ["sum:{id}:{new.a}"]
[[rule]]
table = 'shop."We""ird, one"'
delete = ['weird:{"I d"}']
"#;

/// A world in which pgoutput is configured and nothing is set up.
fn world(rules: &str) -> World {
    // For pgoutput it would have a publication already.
    let mut world = World::of(Plugin::Wal2json, TABLES, rules);
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
    world.edit("[redis.cache]", "plugin = \"pgoutput\"\n[redis.cache]");
    world
}

/// `setup` as whoever owns the tables, and may make slots.
fn as_owner(world: &mut World) {
    world.sql("ALTER ROLE app REPLICATION");
    world.edit("//walpurge@", "//app@");
}

/// What the publication holds, a line each.
fn held(world: &World) -> String {
    world.sql(
        "SELECT pr.prrelid::regclass, (SELECT string_agg(attname, ',' ORDER BY attnum)
             FROM pg_attribute WHERE attrelid = prrelid AND attnum = ANY (prattrs::int2[]))
         FROM pg_publication_rel pr ORDER BY pr.prrelid::regclass::text COLLATE \"C\"",
    )
}

fn settings(world: &World) -> String {
    world.sql(
        "SELECT pubname, pubowner::regrole, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot,
             obj_description(oid, 'pg_publication') FROM pg_publication",
    )
}

const MARK: &str = "made by walpurge setup";

#[test]
fn it_holds_the_tables_of_the_rules_with_the_columns_that_they_need() {
    let mut world = world(RULES);
    as_owner(&mut world);
    let out = done(&world, &["setup"]);
    assert!(out.starts_with("made publication walpurge in database postgres\n"), "{out}");
    assert!(out.contains("\n    shop.products (\"id\", \"slug\")\n"), "{out}");
    assert!(out.contains("\nmade slot walpurge for pgoutput in database postgres; "), "{out}");
    assert_eq!(
        held(&world),
        "shop.\"We\"\"ird, one\"|I d\nshop.full_ones|\nshop.log_a|id,kind\nshop.log_b|id,kind\n\
         shop.orders|\nshop.pairs|b,d\nshop.products|id,slug\nshop.sums|",
    );
    assert_eq!(settings(&world), format!("walpurge|app|t|t|t|t|f|{MARK}"));
    // Nothing that worked fails now, nor does the stream lack anything of a partition.
    world.pg.psql_as(
        "app",
        "postgres",
        "INSERT INTO shop.products VALUES (1, 'a', 1, 'n'); UPDATE shop.products SET id = 2, note = 'b';
         INSERT INTO shop.orders VALUES (1, 1); UPDATE shop.orders SET note = 'b';
         INSERT INTO shop.pairs VALUES (1, 'b'); UPDATE shop.pairs SET b = 'c'; DELETE FROM shop.pairs;
         INSERT INTO shop.full_ones VALUES (1); UPDATE shop.full_ones SET slug = 'b';
         INSERT INTO shop.sums VALUES (1, 1); UPDATE shop.sums SET a = 2;
         INSERT INTO shop.log_b VALUES (1, 'x'); UPDATE shop.log_a SET id = 2; DELETE FROM shop.log_a;
         INSERT INTO shop.bare VALUES (1); UPDATE shop.bare SET id = 2;
         UPDATE shop.\"We\"\"ird, one\" SET note = ''; TRUNCATE shop.orders_1",
    );
    let before = settings(&world);
    let out = done(&world, &["setup"]);
    assert_eq!(
        out,
        "publication walpurge is there already, in step with the rules\n\
         slot walpurge is there already, for pgoutput in database postgres\n"
    );
    assert_eq!(settings(&world), before);
    let out = done(&world, &["teardown", "--yes"]);
    assert!(out.ends_with("dropped publication walpurge\n"), "{out}");
    assert_eq!(settings(&world), "");
}

#[test]
fn who_may_not_make_it_is_told_who_may_and_what_to_run() {
    let world = world(RULES);
    let err = failed(&world, &["setup"], 1);
    assert!(err.contains("role walpurge may not make publication walpurge"), "{err}");
    assert!(err.contains("As app, who owns the tables (GRANT CREATE ON DATABASE"), "{err}");
    assert_eq!(settings(&world) + &world.sql("SELECT slot_name FROM pg_replication_slots"), "");
    // What is shown is what it takes.
    let (_, sql) = err.split_once("\n\n").unwrap();
    world.pg.psql_as("app", "postgres", sql);
    let by_hand = held(&world) + &settings(&world);
    assert!(by_hand.ends_with(MARK), "{by_hand}");
    let out = done(&world, &["setup"]);
    assert!(out.contains("made slot walpurge for pgoutput"), "{out}");
    assert_eq!(held(&world) + &settings(&world), by_hand);
    // Nor may it drop it.
    let Ran { code, out, err } = ran(world.command(&["teardown", "--yes"]));
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("publication walpurge stays") && err.contains("let app"), "{err}");
    let printed = done(&world, &["teardown", "--print"]);
    let (publication, _) = printed.split_once("-- The event triggers").unwrap();
    let (_, publication) = publication.split_once("-- The publication").unwrap();
    world.pg.psql_as("app", "postgres", &format!("--{publication}"));
    assert_eq!(settings(&world), "");
}

#[test]
fn what_is_printed_makes_the_same_and_brings_it_in_step() {
    let mut world = world(RULES);
    world.sql(&done(&world, &["setup", "--print"]));
    let printed = held(&world) + &settings(&world).replace("|postgres|", "|app|");
    world.sql(&done(&world, &["teardown", "--print"]));
    assert_eq!(held(&world), "");
    as_owner(&mut world);
    done(&world, &["setup"]);
    assert_eq!(held(&world) + &settings(&world), printed);
    let again = done(&world, &["setup", "--print"]);
    assert!(again.contains("-- Publication walpurge is in step with the rules."), "{again}");
    world.edit("changed = [\"d\"]", "changed = [\"c\"]");
    world.edit("table = \"shop.log_*\"", "table = [\"shop.log_a\", \"shop.lone\"]");
    let sql = done(&world, &["setup", "--print", "--prune"]);
    world.pg.psql_as("app", "postgres", &sql);
    let changed = held(&world) + &settings(&world);
    assert!(changed.contains("shop.pairs|b,c\n") && changed.contains("shop.lone|"), "{changed}");
    assert!(!changed.contains("log_b") && changed.ends_with(MARK), "{changed}");
    let out = done(&world, &["setup"]);
    assert!(out.starts_with("publication walpurge is there already, in step"), "{out}");
}

#[test]
fn it_follows_the_rules() {
    let mut world = world(RULES);
    as_owner(&mut world);
    done(&world, &["setup"]);
    let slot = world.sql("SELECT confirmed_flush_lsn FROM pg_replication_slots");
    world.edit("changed = [\"d\"]", "changed = [\"c\"]");
    world.edit("table = \"shop.sums\"", "table = \"shop.lone\"");
    world.edit(":{new.a}", "");
    world.edit("on = [\"insert\", \"delete\"]", "on = [\"insert\"]");
    let out = done(&world, &["setup"]);
    for said in [
        "other columns now: shop.pairs (\"b\", \"c\")\n",
        "added shop.lone (\"id\")\n",
        "took out shop.sums\n",
    ] {
        assert!(out.contains(said), "{said}: {out}");
    }
    assert!(held(&world).contains("shop.lone|id\n") && !held(&world).contains("sums"));
    // What somebody has put there is taken out, and what is too much to be published.
    world.sql(
        "ALTER PUBLICATION walpurge ADD TABLE shop.bare;
         ALTER PUBLICATION walpurge SET (publish = 'insert', publish_via_partition_root = true)",
    );
    let out = done(&world, &["setup"]);
    assert!(out.contains("took out shop.bare\n"), "{out}");
    assert!(out.contains("operations now: insert, update, delete, truncate\n"), "{out}");
    assert_eq!(settings(&world), format!("walpurge|app|t|t|t|t|f|{MARK}"));
    assert_eq!(world.sql("SELECT confirmed_flush_lsn FROM pg_replication_slots"), slot);
}

#[test]
fn a_table_without_identity_is_good_for_inserts() {
    let mut world = world(
        "[[rule]]\ntable = 'shop.bare'\non = ['insert', 'truncate']\ndelete = ['bare:{id}']\n",
    );
    as_owner(&mut world);
    let out = done(&world, &["setup"]);
    assert!(out.contains("    operations: insert, truncate\n"), "{out}");
    assert_eq!(held(&world), "shop.bare|id");
    let sql = "INSERT INTO shop.bare VALUES (1); UPDATE shop.bare SET id = 2";
    world.pg.psql_as("app", "postgres", sql);
    // One rule about updates is enough to make them fail.
    world.edit("[[rule]]", "[[rule]]\ntable = 'shop.lone'\ndelete = ['lone:{id}']\n[[rule]]");
    let before = settings(&world);
    let err = failed(&world, &["setup"], 1);
    assert!(err.contains("shop.bare has no replica identity"), "{err}");
    assert!(err.contains("hint: ALTER TABLE shop.bare REPLICA IDENTITY FULL;"), "{err}");
    assert_eq!((settings(&world), held(&world).as_str()), (before, "shop.bare|id"));
    world.sql("ALTER TABLE shop.bare REPLICA IDENTITY FULL");
    done(&world, &["setup"]);
    assert_eq!(held(&world), "shop.bare|\nshop.lone|id");
    world.pg.psql_as("app", "postgres", sql);
}

#[test]
fn a_column_that_postgres_never_publishes_is_told() {
    let mut world = world("[[rule]]\ntable = 'shop.sums'\ndelete = ['sum:{id}:{new.twice}']\n");
    as_owner(&mut world);
    for _ in 0..2 {
        let Ran { code, out, err } = ran(world.command(&["setup"]));
        assert_eq!(code, Some(0), "{out}{err}");
        assert!(err.contains("run will end with 78, since generated column twice of"), "{err}");
    }
}

#[test]
fn a_partition_without_identity_is_refused() {
    let mut world = world(RULES);
    as_owner(&mut world);
    world.sql("ALTER TABLE shop.orders_1 REPLICA IDENTITY NOTHING");
    let err = failed(&world, &["setup"], 1);
    assert!(err.contains("shop.orders_1 has no replica identity"), "{err}");
    assert_eq!(settings(&world), "");
}

#[test]
fn an_identity_that_has_changed_is_followed() {
    let mut world = world(RULES);
    as_owner(&mut world);
    done(&world, &["setup"]);
    let update = "UPDATE shop.products SET price = 2";
    world.pg.psql_as("app", "postgres", &format!("INSERT INTO shop.products VALUES (1); {update}"));
    // With the list of columns that is there, it fails.
    world.sql("ALTER TABLE shop.products REPLICA IDENTITY FULL");
    let error = world.pg.try_psql("app", "postgres", update).unwrap_err();
    assert!(error.contains("cannot update table"), "{error}");
    let out = done(&world, &["setup"]);
    assert!(out.contains("other columns now: shop.products\n"), "{out}");
    world.pg.psql_as("app", "postgres", update);
}

#[test]
fn a_publication_of_somebody_else_is_left_alone() {
    let mut world = world(RULES);
    as_owner(&mut world);
    world.sql("ALTER TABLE shop.bare ADD PRIMARY KEY (id)");
    for (made, lacks) in [
        ("FOR ALL TABLES", ""),
        ("FOR TABLES IN SCHEMA shop", ""),
        ("FOR TABLE shop.products", "table shop.pairs"),
        (
            "FOR TABLES IN SCHEMA shop WITH (publish = 'insert, delete, truncate')",
            "update of table",
        ),
        ("FOR TABLES IN SCHEMA shop WITH (publish_via_partition_root)", "partition"),
    ] {
        world.sql(&format!("CREATE PUBLICATION walpurge {made}"));
        let before = settings(&world) + &held(&world);
        let printed = done(&world, &["setup", "--print"]);
        if lacks.is_empty() {
            let out = done(&world, &["setup"]);
            assert!(out.starts_with("publication walpurge is there already, not made by"), "{out}");
            assert!(
                printed.contains("is postgres's own and carries what the rules need"),
                "{printed}"
            );
        } else {
            let err = failed(&world, &["setup"], 1);
            assert!(err.contains("which postgres made and walpurge setup leaves alone"), "{err}");
            assert!(err.contains(lacks) && printed.contains(lacks), "{err}{printed}");
        }
        assert_eq!(settings(&world) + &held(&world), before);
        world.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
        let out = done(&world, &["teardown", "--yes"]);
        assert!(out.contains("publication walpurge stays: postgres made it"), "{out}");
        world.sql("DROP PUBLICATION walpurge");
    }
}

#[test]
fn a_lock_that_is_held_is_not_waited_for_for_long_and_nobody_waits_for_us() {
    let mut world = world(RULES);
    as_owner(&mut world);
    let mut open = world.pg.session("postgres", "postgres");
    let lock = "BEGIN; LOCK TABLE shop.products IN SHARE UPDATE EXCLUSIVE MODE";
    let pid = open.run(&format!("{lock}; SELECT pg_backend_pid()"));
    let log = world.dir.join("setup.log");
    let mut setup = Process::spawn("setup", world.command(&["setup"]), &log, Signal::KILL).unwrap();
    // For a lock that conflicts with no query.
    let waits = "SELECT mode FROM pg_locks WHERE NOT granted";
    wait_until("it waits", PATIENCE, || world.sql(waits) == "ShareUpdateExclusiveLock");
    world.sql("INSERT INTO shop.products VALUES (7); UPDATE shop.products SET id = 8");
    let status = setup.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", setup.log());
    let log = setup.log();
    assert!(log.contains(&format!("pid {} holds a lock on a table", pid.trim())), "{log}");
    assert_eq!(settings(&world), "");
    open.run("COMMIT");
    done(&world, &["setup"]);
}

/// Somebody who reads the slot, as a daemon does.
fn reader(world: &World, slot: &str, plugin: &[&str]) -> Process {
    let mut command: Command = world.pg.client("pg_recvlogical");
    command.args([
        "-d",
        &world.pg.url("postgres", "postgres"),
        "--slot",
        slot,
        "--start",
        "-f",
        "-",
    ]);
    command.args(["-F", "1", "-s", "1"]);
    for option in plugin {
        command.args(["-o", option]);
    }
    let log = world.dir.join(format!("reader-{slot}.log"));
    let reader = Process::spawn("reader", command, &log, Signal::KILL).unwrap();
    wait_until("the slot is read", PATIENCE, || {
        let sql = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'");
        world.sql(&sql) == "t"
    });
    reader
}

const PGOUTPUT: &[&str] = &["proto_version=1", "publication_names=walpurge"];

#[test]
fn what_a_daemon_may_still_need_stays_and_what_is_new_holds_when_old_transactions_have_ended() {
    let mut world = world(RULES);
    as_owner(&mut world);
    done(&world, &["setup"]);
    let _reader = reader(&world, "walpurge", PGOUTPUT);
    let mut open = world.pg.session("postgres", "postgres");
    let pid = open.run("BEGIN; INSERT INTO shop.lone VALUES (1); SELECT pg_backend_pid()");
    world.edit("table = \"shop.sums\"", "table = \"shop.lone\"");
    world.edit(":{new.a}", "");
    let log = world.dir.join("setup.log");
    let mut setup = Process::spawn("setup", world.command(&["setup"]), &log, Signal::KILL).unwrap();
    wait_until("it names whom it waits for", PATIENCE, || {
        setup.log().contains(&format!("pid={}", pid.trim()))
    });
    assert!(setup.log().contains("added shop.lone (\"id\")"), "{}", setup.log());
    assert!(setup.log().contains("note: the rules do not need shop.sums; it stays"));
    assert!(settings(&world).contains("may be open"), "{}", settings(&world));
    // Killed here, the next one goes on.
    setup.kill_9();
    let mut setup = Process::spawn("setup", world.command(&["setup"]), &log, Signal::KILL).unwrap();
    wait_until("it waits again", PATIENCE, || setup.log().contains(&format!("pid={}", pid.trim())));
    open.run("COMMIT");
    let status = setup.wait(PATIENCE).expect("it ends");
    assert!(status.success(), "{}", setup.log());
    assert_eq!(settings(&world), format!("walpurge|app|t|t|t|t|f|{MARK}"));
    assert!(held(&world).contains("shop.sums|"), "{}", held(&world));
    let out = done(&world, &["setup", "--prune"]);
    assert!(out.contains("took out shop.sums\n") && !held(&world).contains("sums"), "{out}");
}

#[test]
fn rules_change_by_setup_and_reload_beside_a_daemon_that_may_only_replicate() {
    let mut world = world("[[rule]]\ntable = 'shop.products'\ndelete = ['product:{id}']\n");
    world.sql("INSERT INTO shop.products VALUES (1), (2); INSERT INTO shop.lone VALUES (1)");
    as_owner(&mut world);
    done(&world, &["setup"]);
    world.edit("//app@", "//walpurge@");
    world.fill(&["product:1", "product:2", "lone:1"]);
    world.start();
    world.sql("UPDATE shop.products SET price = 2 WHERE id = 1");
    world.wait_gone(&["product:1"]);
    // What is not published is not taken.
    world.edit("['product:{id}']", "['product:{id}:{new.slug}', 'product:{id}']");
    world.edit("[[rule]]", "[[rule]]\ntable = 'shop.lone'\ndelete = ['lone:{id}']\n[[rule]]");
    let reload = |world: &mut World| {
        world.config_file();
        world.daemon.as_mut().unwrap().signal(Signal::HUP);
    };
    reload(&mut world);
    world.wait_for_log("the new configuration is not taken, and the old one stays");
    world.wait_for_log("table shop.lone");
    world.edit("//walpurge@", "//app@");
    let out = done(&world, &["setup"]);
    assert!(out.contains("other columns now: shop.products (\"id\", \"slug\")\n"), "{out}");
    world.edit("//app@", "//walpurge@");
    reload(&mut world);
    world.wait_for_log("taking the new configuration on SIGHUP");
    world.sql("UPDATE shop.lone SET note = 'x'");
    world.wait_gone(&["lone:1"]);
    assert!(!world.news().contains("there is a gap"), "{}", world.news());
    world.stop();
}

#[test]
fn a_publication_that_is_newer_than_the_slot_is_told() {
    let mut world = world(RULES);
    as_owner(&mut world);
    world.sql("SELECT pg_create_logical_replication_slot('walpurge', 'pgoutput')");
    let Ran { code, out, err } = ran(world.command(&["setup"]));
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.starts_with("made publication walpurge"), "{out}");
    assert!(err.contains("publication walpurge is newer than slot walpurge"), "{err}");
    assert!(err.contains("hint: walpurge run --assume-gap, once"), "{err}");
}
