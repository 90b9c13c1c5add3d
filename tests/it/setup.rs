//! `walpurge setup` and `teardown`: the slot and the event triggers.

mod ddl;
mod publication;
mod switch;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use testkit::process::{Process, Signal};
use testkit::wait_until;

use crate::invalidation::{PRODUCTS, RULE};
use crate::world::{PATIENCE, Plugin, World};

/// A world in which nothing is set up, for wal2json, which takes no publication.
fn bare() -> World {
    let world = World::of(Plugin::Wal2json, PRODUCTS, RULE);
    world.sql("SELECT pg_drop_replication_slot('walpurge')");
    world
}

fn as_superuser(world: &mut World) {
    world.edit("//walpurge@", "//postgres@");
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

#[track_caller]
fn ran(mut command: Command) -> Ran {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), out: text(stdout), err: text(stderr) }
}

#[track_caller]
fn done(world: &World, args: &[&str]) -> String {
    let Ran { code, out, err } = ran(world.command(args));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}: {out}");
    out
}

#[track_caller]
fn failed(world: &World, args: &[&str], code: i32) -> String {
    let ran = ran(world.command(args));
    assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{args:?}: {}", ran.err);
    ran.err
}

/// Everything that setup makes.
fn made(world: &World) -> String {
    world.sql(
        "SELECT slot_name, plugin, database, temporary FROM pg_replication_slots;
         SELECT evtname, evtevent, evttags, evtenabled, evtfoid::regproc FROM pg_event_trigger
         ORDER BY evtname;
         SELECT nspname, nspacl FROM pg_namespace WHERE nspname = 'walpurge';
         SELECT proname, prosrc, prosecdef, proconfig, proacl FROM pg_proc
         WHERE pronamespace = to_regnamespace('walpurge')",
    )
}

#[test]
fn setup_makes_the_slot_and_does_nothing_where_it_is() {
    let mut world = bare();
    let out = done(&world, &["setup"]);
    assert!(out.starts_with("made slot walpurge for wal2json in database postgres; "), "{out}");
    assert_eq!(made(&world), "walpurge|wal2json|postgres|f");
    let confirmed = world.pg.confirmed_flush_lsn("walpurge");
    assert!(out.contains(&format!("after {confirmed} ")), "{out}");
    let out = done(&world, &["setup"]);
    assert_eq!(out, "slot walpurge is there already, for wal2json in database postgres\n");
    // A daemon that uses it is no obstacle, and finds it made.
    world.start();
    done(&world, &["setup"]);
    assert!(!world.log().contains("created the slot"), "{}", world.log());
    world.stop();
}

#[test]
fn what_is_printed_does_the_same_as_the_command() {
    let mut world = bare();
    world.edit("[redis.cache]", "slot = \"other_1\"\n[redis.cache]");
    for args in [&["setup"][..], &["setup", "--ddl"]] {
        let printed = done(&world, &[args, &["--print"]].concat());
        for _ in 0..2 {
            world.sql(&printed);
        }
        let by_psql = made(&world);
        assert!(by_psql.starts_with("other_1|wal2json|postgres|f"), "{by_psql}");
        assert_eq!(by_psql.contains("walpurge_sql_drop"), args.len() == 2, "{by_psql}");
        let printed = done(&world, &["teardown", "--print"]);
        for _ in 0..2 {
            world.sql(&printed);
            assert_eq!(made(&world), "");
        }
        if args.len() == 2 {
            as_superuser(&mut world);
        }
        for _ in 0..2 {
            done(&world, args);
            assert_eq!(made(&world), by_psql);
        }
        for _ in 0..2 {
            done(&world, &["teardown", "--yes"]);
            assert_eq!(made(&world), "");
        }
    }
}

#[test]
fn printing_needs_neither_a_server_nor_a_secret() {
    let mut world = bare();
    let url = format!("\"{}\"", world.pg.url("walpurge", "postgres"));
    world.edit(&url, "{ env = \"WALPURGE_TEST_UNSET\" }");
    for command in ["setup", "teardown"] {
        done(&world, &[command, "--print"]);
        let err = failed(&world, &[command], 78);
        assert!(err.contains("`postgres.url`: environment variable"), "{err}");
    }
}

#[test]
fn a_slot_of_another_plugin_or_database_is_left_alone() {
    let mut world = bare();
    world.sql("SELECT pg_create_logical_replication_slot('walpurge', 'test_decoding')");
    world.sql("CREATE DATABASE other");
    world.pg.psql("other", "SELECT pg_create_logical_replication_slot('elsewhere', 'wal2json')");
    let before = made(&world);
    for says in ["is made for plugin test_decoding", "change the database in postgres.url"] {
        for args in [&["setup"][..], &["setup", "--ddl"], &["teardown", "--yes"]] {
            let err = failed(&world, args, 78);
            assert!(err.contains(says) && err.contains("\nhint: "), "{err}");
        }
        let printed = done(&world, &["setup", "--print"]);
        let error = world.pg.psql_fails("postgres", &printed);
        assert!(error.contains("already exists"), "{error}");
        world.sql(&done(&world, &["teardown", "--print"]));
        assert_eq!(made(&world), before);
        if says.contains("plugin") {
            world.edit("[redis.cache]", "slot = \"elsewhere\"\n[redis.cache]");
        }
    }
}

#[test]
fn creation_says_for_whom_it_waits_and_can_be_interrupted() {
    let world = bare();
    let mut open = world.pg.session("postgres", "postgres");
    let pid = open.run("BEGIN; UPDATE products SET category = 1; SELECT pg_backend_pid()");
    let log = world.dir.join("setup.log");
    let command = world.command(&["setup"]);
    let mut setup = Process::spawn("setup", command, &log, Signal::KILL).unwrap();
    wait_until("the blocker is named", PATIENCE, || setup.log().contains(pid.trim()));
    assert!(setup.log().contains("waits for an open transaction to end"), "{}", setup.log());
    setup.signal(Signal::INT);
    let status = setup.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", setup.log());
    assert!(setup.log().contains("interrupted; slot walpurge is not made"), "{}", setup.log());
    open.run("COMMIT");
    assert_eq!(made(&world), "");
    done(&world, &["setup"]);
}

#[test]
fn without_a_superuser_nothing_is_made_and_the_way_is_shown() {
    let mut world = bare();
    let err = failed(&world, &["setup", "--ddl"], 1);
    assert!(err.contains("role walpurge may not install event triggers"), "{err}");
    assert!(err.contains("walpurge setup --ddl --print | psql"), "{err}");
    assert_eq!(made(&world), "");
    // Nor can it remove what a superuser has installed.
    as_superuser(&mut world);
    done(&world, &["setup", "--ddl"]);
    world.edit("//postgres@", "//walpurge@");
    let Ran { code, out, err } = ran(world.command(&["teardown", "--yes"]));
    assert_eq!(code, Some(1));
    assert!(out.starts_with("dropped slot walpurge, which held "), "{out}");
    assert!(err.contains("the event triggers for DDL stay"), "{err}");
    assert!(err.contains("walpurge teardown --print | psql"), "{err}");
    world.sql(&done(&world, &["teardown", "--print"]));
    let nothing = "nothing to remove: there is neither a slot walpurge nor an event trigger";
    assert!(done(&world, &["teardown"]).starts_with(nothing));
}

#[test]
fn a_slot_in_use_stays_and_its_pid_is_named() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    let pid = world.sql("SELECT active_pid FROM pg_replication_slots");
    let err = failed(&world, &["teardown", "--yes"], 1);
    assert!(err.contains(&format!("in use by pid {pid}")), "{err}");
    assert!(err.contains("systemctl stop walpurge"), "{err}");
    world.stop();
    done(&world, &["teardown", "--yes"]);
    assert_eq!(made(&world), "");
}

#[test]
fn teardown_asks_on_a_terminal_and_refuses_without_one() {
    let world = World::new(PRODUCTS, RULE);
    let err = failed(&world, &["teardown"], 2);
    assert!(err.contains("walpurge teardown --yes"), "{err}");
    let answer = |answer: &str| {
        let command = world.command(&["teardown"]);
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        // A terminal of its own.
        let mut script = Command::new("script");
        script.args(["-qefc", &words.join(" "), "/dev/null"]);
        let pipes = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut script = pipes.expect("script, of bsdutils, is installed");
        script.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = script.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    for no in ["\n", "n\n", "what\n"] {
        let (code, said) = answer(no);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("Drop slot walpurge, which holds "), "{said}");
        assert!(said.contains("nothing is changed"), "{said}");
        assert!(made(&world).starts_with("walpurge|"));
    }
    let (code, said) = answer("y\n");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(made(&world), "");
}

#[test]
fn a_schema_that_holds_more_stays() {
    let mut world = bare();
    as_superuser(&mut world);
    world.sql("CREATE SCHEMA walpurge; CREATE TABLE walpurge.mine (id int)");
    done(&world, &["setup", "--ddl"]);
    done(&world, &["teardown", "--yes"]);
    let left = made(&world);
    assert!(left.starts_with("walpurge|") && !left.contains("sql_drop"), "{left}");
    assert_eq!(world.sql("SELECT count(*) FROM walpurge.mine"), "0");
}
