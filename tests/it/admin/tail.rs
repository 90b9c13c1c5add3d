//! `walpurge tail` and `/tail`.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;

use serde_json::Value;
use testkit::process::{Process, Signal};
use testkit::wait_until;

use super::{http, start, world};
use crate::world::{PATIENCE, World};

/// A tail that is open: what happens from now on is in it.
fn tail(world: &World, query: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(http::socket(world)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    http::request(&mut stream, &format!("/tail{query}"), None).unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the daemon closed it");
    }
    lines
}

/// The next line of JSON; what belongs to the transfer is skipped.
#[track_caller]
fn next(lines: &mut impl BufRead) -> Value {
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the tail ended");
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

const OTHER_RULE: &str = "name = \"other\"\ntable = \"public.t\"\ntags = [\"tag:{id}\"]\n";

#[test]
fn each_invalidation_is_told_to_who_asks_for_it_and_its_value_is_hashed() {
    let mut world = world();
    world.edit("[[rule]]", &format!("[[rule]]\n{OTHER_RULE}[[rule]]"));
    start(&mut world);
    let mut all = tail(&world, "");
    let mut one = tail(&world, "?rule=other&sink=cache&table=public.t");
    let mut none = tail(&world, "?sink=cache&table=public.other");
    world.sql("UPDATE t SET n = 1 WHERE id = 1");
    let lines = [next(&mut all), next(&mut all)];
    let actions = lines.each_ref().map(|line| (line["rule"].clone(), line["action"].clone()));
    let expected = [("other", "tags"), ("t", "delete")];
    assert_eq!(actions, expected.map(|(rule, action)| (rule.into(), action.into())));
    assert_eq!(lines[1]["table"], "public.t");
    assert_eq!(lines[1]["op"], "update");
    assert_eq!(lines[1]["sinks"][0], "cache");
    assert_eq!(lines[1]["hashed"], true);
    assert!(lines[1]["xid"].is_u64() && lines[1]["commit_lsn"].is_string(), "{}", lines[1]);
    for line in &lines {
        assert!(!line.to_string().contains(":1\""), "{line} shows a value");
    }
    assert_eq!(next(&mut one), lines[0]);
    // The third hears of nothing but messages that fit, of which there are none.
    world.sql("CREATE TABLE other (id int PRIMARY KEY); UPDATE t SET n = 2 WHERE id = 2");
    assert_eq!(next(&mut one)["rule"], "other");
    none.get_ref().set_nonblocking(true).unwrap();
    let mut line = String::new();
    let read = none.read_line(&mut line);
    assert!(
        matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        "{line}"
    );
    world.stop();
}

#[test]
fn the_command_shows_lines_and_values_if_the_configuration_lets_it() {
    let mut world = world();
    world.edit("[postgres]", "[admin]\nshow_keys = true\n[postgres]");
    start(&mut world);
    let log = world.dir.join("tail.log");
    let command = world.command(&["tail", "--rule", "t"]);
    let tail = Process::spawn("tail", command, &log, Signal::KILL).unwrap();
    // It may not listen yet.
    wait_until("a line is shown", PATIENCE, || {
        world.sql("UPDATE t SET n = n + 1 WHERE id = 3");
        tail.log().contains("t update public.t → cache delete key:3\n")
    });
    world.stop();
    wait_until("it ends with the daemon", PATIENCE, || tail.log().contains("error: the daemon"));
    let output = world.command(&["tail"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no daemon answers; asked"), "{said}");
}

#[test]
fn who_reads_too_slowly_loses_lines_and_holds_nobody_up() {
    let mut world = world();
    start(&mut world);
    let mut stalled = tail(&world, "");
    world.fill(&["key:50000"]);
    // The last rows come so late that they are beyond every buffer.
    world.sql("INSERT INTO t SELECT generate_series(101, 50000)");
    world.wait_gone(&["key:50000"]);
    world.wait_confirmed();
    let (mut lines, mut missed) = (0, 0);
    while lines + missed < 49_900 {
        let line = next(&mut stalled);
        match line["missed"].as_u64() {
            Some(lost) => missed += lost,
            None => lines += 1,
        }
    }
    assert!(missed > 0, "{lines} lines and none was lost");
    world.stop();
}

#[test]
fn who_wants_no_more_than_so_many_lines_a_second_hears_how_many_there_were() {
    let mut world = world();
    start(&mut world);
    let mut tail = tail(&world, "?limit=2");
    world.sql("UPDATE t SET n = 1 WHERE id <= 50");
    let (mut lines, mut missed) = (0, 0);
    while lines + missed < 50 {
        let line = next(&mut tail);
        match line["missed"].as_u64() {
            Some(lost) => missed += lost,
            None => lines += 1,
        }
    }
    assert!(lines >= 2 && missed > 0, "{lines} lines, and {missed} more");
    let refused = http::ask(&world, "/tail?limit=many").unwrap();
    assert_eq!(refused.code, 400);
    world.stop();
}
