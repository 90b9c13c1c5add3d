//! What the journal gets: priorities, the configuration as it takes effect, a summary.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use super::write;
use crate::world::{PATIENCE, World};

/// Lets the daemon take its log file for the journal, as systemd lets it know.
fn in_the_journal(world: &mut World) {
    let log = File::create(world.dir.join("walpurge.log")).unwrap().metadata().unwrap();
    world.env.push(("JOURNAL_STREAM", format!("{}:{}", log.dev(), log.ino()).leak()));
}

#[test]
fn each_line_has_its_priority_and_no_time() {
    let mut world = World::plain();
    in_the_journal(&mut world);
    world.start();
    world.redis.pause();
    write(&world, 1);
    world.wait_for_log("the sink is down, trying again");
    let log = world.log();
    let is_there = |start: &str| log.lines().any(|line| line.starts_with(start));
    assert!(is_there("<4>WARN the sink is down"), "{log}");
    assert!(is_there("<6>INFO following"), "{log}");
    assert!(is_there("<7>DEBUG"), "{log}");
    assert!(log.lines().all(|line| line.starts_with('<')), "{log}");
    // A text of several lines, of which each is an entry of its own there.
    world.edit("delete =", "dlete =");
    world.config_file();
    world.daemon.as_mut().unwrap().signal(testkit::process::Signal::HUP);
    world.wait_for_log("did you mean");
    let log = world.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("did you mean")).collect();
    assert!(told.iter().all(|line| line.starts_with("<3>")), "{log}");
}

#[test]
fn what_ends_the_program_is_an_error_there_and_plain_elsewhere() {
    let mut world = World::plain();
    world.edit("delete =", "dlete =");
    in_the_journal(&mut world);
    let log = File::options().append(true).open(world.dir.join("walpurge.log")).unwrap();
    let status = world.command(&["run"]).stderr(Stdio::from(log)).status().unwrap();
    assert_eq!(status.code(), Some(78));
    let log = std::fs::read_to_string(world.dir.join("walpurge.log")).unwrap();
    assert!(log.starts_with("<3>") && log.lines().all(|line| line.starts_with("<3>")), "{log}");
    // The variable alone says nothing: this is a pipe.
    let output = world.command(&["run"]).output().unwrap();
    assert!(output.stderr.starts_with(b"error: "), "{output:?}");
}

#[test]
fn json_keeps_its_form_behind_the_priority() {
    let mut world = World::plain();
    in_the_journal(&mut world);
    world.spawn(&["run", "--log-format", "json"]);
    world.wait_for_log("following the write-ahead log");
    for line in world.log().lines() {
        let json = line.strip_prefix("<6>").unwrap_or_else(|| panic!("{line}"));
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert!(json["timestamp"].is_string() && json["level"] == "INFO", "{json}");
    }
    world.stop();
}

#[test]
fn the_start_tells_the_configuration_as_it_takes_effect_and_no_secret() {
    let mut world = World::plain();
    let url = world.redis.url();
    world.edit(&url, &url.replace("redis://", "redis://walpurge:s3cret@"));
    let fastly = "[fastly.edge]\nservice_id = \"SU1Z0isxPaozGVKXdv0eY\"\ntoken = \"t0ken\"\n\
        hosts = [\"www.example.com\"]\nmode = \"hold\"\n[[rule]]\n\
        name = \"off\"\ntable = \"public.o\"\ndelete = [\"off:{id}\"]\nenabled = false\n[[rule]]";
    world.edit("[[rule]]", fastly);
    world.spawn(&["run"]);
    world.wait_for_log("following the write-ahead log");
    let log = world.log();
    let line = |start: &str| {
        let found = log.lines().find(|line| line.contains(start));
        found.unwrap_or_else(|| panic!("no {start}\n{log}"))
    };
    let configured = line("configured file=");
    for part in ["slot=\"walpurge\"", "visibility=\"wait\"", "on_gap=\"fallback\"", "rules=1"] {
        assert!(configured.contains(part), "{configured}");
    }
    let (cache, edge) = (line("sink sink=\"cache\""), line("sink sink=\"edge\""));
    assert!(cache.contains("tag_key=\"tags:{tag}\"") && cache.contains("mode=\"on\""), "{cache}");
    assert!(edge.contains("after=\"cache\"") && edge.contains("mode=\"hold\""), "{edge}");
    let (t, off) = (line("rule rule=\"t\""), line("rule rule=\"off\""));
    assert!(t.contains("actions=\"delete key:{id}\"") && t.contains("fallback=1"), "{t}");
    assert!(off.contains("enabled=false"), "{off}");
    assert!(!log.contains("s3cret") && !log.contains("t0ken"), "{log}");
}

#[test]
fn more_rules_than_a_screen_has_lines_are_named_together() {
    let mut world = World::plain();
    let rule = |number| {
        let name = format!("name = \"more{number}\"");
        format!("[[rule]]\n{name}\ntable = \"public.t\"\ndelete = [\"k{number}:{{id}}\"]\n")
    };
    let more: String = (0..25).map(rule).collect();
    world.edit("[[rule]]", &format!("{more}[[rule]]"));
    world.spawn(&["run"]);
    world.wait_for_log("rules count=26 names=\"more0, more1, ");
    assert!(!world.log().contains("rule rule="), "{}", world.log());
}

/// What is left of a minute is summed up at the end.
#[test]
fn a_summary_says_exactly_what_was_done_and_nothing_where_nothing_was() {
    let mut world = World::plain();
    world.start();
    for id in 1..=7 {
        write(&world, id);
    }
    world.sql("TRUNCATE t");
    world.wait_confirmed();
    let mut daemon = world.daemon.take().unwrap();
    daemon.signal(testkit::process::Signal::TERM);
    assert!(daemon.wait(PATIENCE).is_some_and(|status| status.success()));
    let log = daemon.log();
    let summary =
        log.lines().find(|line| line.contains(" summary of what was done ")).expect("a summary");
    let end = ["changes=8", "actions=8", "fallbacks=1", "lag=", "lag_seconds="];
    assert!(end.iter().all(|part| summary.contains(part)), "{summary}");
    drop(daemon);
    std::fs::remove_file(world.dir.join("walpurge.log")).unwrap();
    world.start();
    let mut daemon = world.daemon.take().unwrap();
    daemon.signal(testkit::process::Signal::TERM);
    assert!(daemon.wait(PATIENCE).is_some_and(|status| status.success()));
    assert!(!daemon.log().contains(" summary of what was done "), "{}", daemon.log());
}

#[test]
fn a_credential_outside_of_a_unit_shows_the_command_that_has_all_of_them() {
    let mut world = World::plain();
    let url = format!("\"{}\"", world.redis.url());
    world.edit(&url, "{ credential = \"cache\" }");
    let fastly = "[fastly.edge]\nservice_id = \"SU1Z0isxPaozGVKXdv0eY\"\n\
        token = { credential = \"fastly\" }\nhosts = [\"www.example.com\"]\n[[rule]]";
    world.edit("[[rule]]", fastly);
    let output = world.command(&["run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    let file = world.config_file();
    let command = format!(
        "systemd-run --pipe --wait --collect --uid=walpurge \
         --property=LoadCredential=cache:/etc/walpurge/cache.token \
         --property=LoadCredential=fastly:/etc/walpurge/fastly.token walpurge check --config {}",
        file.display()
    );
    assert!(said.contains(&command), "{said}");
    // Inside of one it is the unit that lacks it.
    let empty = world.dir.join("credentials");
    std::fs::create_dir(&empty).unwrap();
    let output = world.command(&["run"]).env("CREDENTIALS_DIRECTORY", &empty).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("LoadCredential=cache:/etc/walpurge/cache.token in the unit"), "{said}");
}
