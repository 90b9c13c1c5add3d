//! From one plugin to the other while writes go on: nothing is lost, and nothing is done too
//! coarsely, whatever dies at which step.

use std::os::unix::process::ExitStatusExt;

use testkit::process::{Process, Signal};
use testkit::wait_until;

use super::{Ran, done, failed, ran};
use crate::oracle::{self, Verdict, Writer, judge};
use crate::world::{self, PATIENCE, World};

#[derive(Clone, Copy, PartialEq)]
enum Plugin {
    Wal2json,
    Pgoutput,
}

impl Plugin {
    /// What the configuration says of it, and of its slot.
    fn lines(self, slot: &str) -> String {
        let plugin = if self == Plugin::Pgoutput { "plugin = \"pgoutput\"\n" } else { "" };
        format!("{plugin}slot = \"{slot}\"\n[redis.cache]")
    }
}

/// The daemon runs with the first plugin on slot `one`; the configuration says the second one and
/// slot `two`. Its role owns the table, and may make publications.
fn between(from: Plugin, to: Plugin) -> World {
    let mut world = World::of(world::Plugin::Wal2json, oracle::TABLE, oracle::RULE);
    world.sql(
        "SELECT pg_drop_replication_slot('walpurge');
         ALTER TABLE items OWNER TO walpurge; GRANT CREATE ON DATABASE postgres TO walpurge",
    );
    oracle::fill(&world);
    world.edit("[redis.cache]", &from.lines("one"));
    done(&world, &["setup"]);
    world.start();
    world.edit(&from.lines("one"), &to.lines("two"));
    world
}

fn slots(world: &World) -> String {
    let sql = "SELECT slot_name, plugin FROM pg_replication_slots WHERE NOT temporary ORDER BY 1";
    world.sql(sql).replace('\n', " ")
}

#[track_caller]
fn wait_confirmed(world: &World, slot: &str) {
    let end = world.pg.current_lsn();
    wait_until("everything is confirmed", PATIENCE, || world.pg.has_confirmed(slot, &end));
}

const SWITCH: &[&str] = &["setup", "--from-slot", "one"];

/// How the daemon comes to the new slot.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It is killed, and started.
    Restarted,
    /// It takes the configuration on SIGHUP.
    Reloaded,
}

/// Kills each step of the switch once under load.
fn assert_switches(from: Plugin, to: Plugin, then: Then, kills: &[&'static str]) {
    let mut world = between(from, to);
    let writer = Writer::start(&world);
    let before = slots(&world);
    for kill in kills {
        world.failpoint = Some(kill);
        let output = world.command(SWITCH).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{kill}: {output:?}");
        let is_made = slots(&world) != before;
        assert_eq!(is_made, *kill == "kill_at=switch_slot_copied", "{kill}");
    }
    world.failpoint = None;
    let out = done(&world, SWITCH);
    assert!(out.contains("slot two is there already"), "{out}");
    assert!(out.contains("next: restart every walpurge with this configuration"), "{out}");
    // Its reader has not changed yet.
    let err = failed(&world, &["teardown", "--slot", "one", "--yes"], 1);
    assert!(err.contains("slot one is in use"), "{err}");
    if then == Then::Restarted {
        world.kill_9();
        world.start();
    } else {
        world.config_file();
        world.daemon.as_mut().unwrap().signal(Signal::HUP);
        world.wait_for_log("taking the new configuration on SIGHUP");
    }
    writer.finish();
    wait_confirmed(&world, "two");
    assert_eq!(judge(&world), Verdict::default(), "{}", world.news());
    assert!(!world.news().contains("there is a gap"), "{}", world.news());
    let out = done(&world, &["teardown", "--slot", "one", "--yes"]);
    assert!(out.starts_with("dropped slot one, which held "), "{out}");
    assert!(slots(&world).starts_with("two|") && !slots(&world).contains("one|"));
    assert_eq!(done(&world, &["teardown", "--slot", "one"]), "there is no slot one\n");
    world.stop();
}

#[test]
fn from_wal2json_to_pgoutput() {
    let kills = [
        "kill_at=publication_locked",
        "kill_at=publication_changed",
        "kill_at=switch_slot_created",
        "kill_at=switch_passed",
        "kill_at=switch_slot_copied",
    ];
    assert_switches(Plugin::Wal2json, Plugin::Pgoutput, Then::Restarted, &kills);
}

#[test]
fn from_pgoutput_to_wal2json() {
    let kills =
        ["kill_at=switch_slot_created", "kill_at=switch_passed", "kill_at=switch_slot_copied"];
    assert_switches(Plugin::Pgoutput, Plugin::Wal2json, Then::Reloaded, &kills);
}

#[test]
fn the_new_slot_is_made_when_the_former_one_is_past_its_start() {
    let mut world = between(Plugin::Wal2json, Plugin::Pgoutput);
    world.daemon.as_mut().unwrap().signal(Signal::STOP);
    world.sql("UPDATE items SET n = 1 WHERE id % 10 <> 0 AND id <= 1000");
    let log = world.dir.join("setup.log");
    let mut setup = Process::spawn("setup", world.command(SWITCH), &log, Signal::KILL).unwrap();
    wait_until("it says so", PATIENCE, || {
        setup.log().contains("waiting until the walpurge that reads the slot has finished")
    });
    assert_eq!(slots(&world), "one|wal2json");
    world.daemon.as_mut().unwrap().signal(Signal::CONT);
    let status = setup.wait(PATIENCE).expect("it ends");
    assert!(status.success(), "{}", setup.log());
    assert_eq!(slots(&world), "one|wal2json two|pgoutput");
    world.stop();
    // Nobody reads it, which would never come to an end.
    let err = failed(&world, &["setup", "--from-slot", "two"], 2);
    assert!(err.contains("which is postgres.slot itself"), "{err}");
    world.start();
    world.sql("UPDATE items SET n = 1 WHERE id % 10 <> 0 AND n = 0");
    wait_confirmed(&world, "two");
    assert_eq!(judge(&world), Verdict::default(), "{}", world.news());
}

#[test]
fn a_slot_that_nobody_reads_is_told() {
    let mut world = between(Plugin::Wal2json, Plugin::Wal2json);
    world.kill_9();
    world.sql("UPDATE items SET n = 1 WHERE id = 1");
    let log = world.dir.join("setup.log");
    let setup = Process::spawn("setup", world.command(SWITCH), &log, Signal::KILL).unwrap();
    wait_until("it says so", PATIENCE, || {
        setup.log().contains("nobody reads the slot: start walpurge with its old configuration")
    });
    let Ran { err, .. } = ran(world.command(&["setup", "--from-slot", "three"]));
    assert!(err.contains("there is no slot three; nothing is changed"), "{err}");
}

#[test]
fn a_slot_that_was_made_without_the_former_one_is_a_gap() {
    let mut world = between(Plugin::Wal2json, Plugin::Pgoutput);
    world.kill_9();
    // The former slot would bring these.
    world.sql("UPDATE items SET n = 1 WHERE id % 10 <> 0 AND id <= 1000");
    done(&world, &["setup"]);
    world.start();
    world.wait_for_log("there is a gap: the slot stands at");
    world.sql("UPDATE items SET n = 1 WHERE id % 10 <> 0 AND n = 0");
    world.wait_for_log("the gap is closed");
    world.wait_for_log("following the write-ahead log");
    wait_confirmed(&world, "two");
    assert_eq!(judge(&world).stale, 0, "{}", world.news());
}
