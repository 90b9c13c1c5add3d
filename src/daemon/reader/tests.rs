//! What breaks a stream, and what of the catalog waits for the end of a transaction.

use super::*;
use std::collections::HashMap;

use crate::pipeline::{LaneId, PlannedLane, Routes, Stage};

const BEGIN: &str = r#"{"action":"B","xid":7,"lsn":"0/1","nextlsn":"0/2"}"#;
const COMMIT: &str = r#"{"action":"C","xid":7,"lsn":"0/1","nextlsn":"0/2"}"#;
const CHANGE: &str = r#"{"action":"I","schema":"s","table":"t","columns":[]}"#;

fn plan() -> Plan {
    let lane = PlannedLane::new(Stage::Remove);
    let routes = Routes { actions: Box::new(|_, _, _| LaneId(0)), lookups: HashMap::new() };
    Plan::new(vec![lane], routes)
}

/// Reads lines as the plugin's messages, and says which one broke the stream.
fn first_refused(lines: &[&str]) -> Option<usize> {
    let mut matcher = Matcher::new(Arc::new(RuleSet::default()));
    let mut reader =
        Reader::new(&mut matcher, Decoder::default(), Visibility::Wait, Messages::Keys);
    let mut plan = plan();
    lines.iter().position(|line| {
        let mut line = line.as_bytes().to_vec();
        reader.message(Lsn(1), &mut line, &mut plan).is_err()
    })
}

#[test]
fn a_boundary_that_was_unreadable_breaks_the_stream_and_loses_no_change() {
    assert_eq!(first_refused(&[BEGIN, CHANGE, "{", COMMIT, BEGIN, COMMIT]), None);
    assert_eq!(first_refused(&["{", CHANGE, COMMIT]), Some(1));
    assert_eq!(first_refused(&["{", COMMIT]), Some(1));
    assert_eq!(first_refused(&[BEGIN, CHANGE, "{", BEGIN]), Some(3));
}

#[test]
#[allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]
fn a_transaction_after_one_that_asked_for_too_much_is_counted_by_itself() {
    let text = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
        [[rule]]\ntable = 's.t'\ndelete = ['key:{id}']\nbulk_above = 1\n";
    let rules = Arc::new(crate::config::parse("t", text).unwrap().rules);
    let mut matcher = Matcher::new(rules);
    let mut reader =
        Reader::new(&mut matcher, Decoder::default(), Visibility::Wait, Messages::Keys);
    let mut plan = plan();
    plan.show("8:8:".parse().unwrap());
    let insert = |id: &u32| {
        let columns = format!(r#"[{{"name":"id","value":{id}}}]"#);
        CHANGE.replace("[]", &columns)
    };
    let mut asked = |ids: &[u32]| {
        let begin = std::iter::once(BEGIN.to_owned());
        let lines = begin.chain(ids.iter().map(insert)).chain([COMMIT.to_owned()]);
        for line in lines {
            reader.message(Lsn(1), &mut line.into_bytes(), &mut plan).unwrap();
        }
        plan.take(LaneId(0), std::time::Instant::now).map(|batch| {
            let values = batch.iter().map(|action| String::from_utf8_lossy(action.value).into());
            let values: Vec<String> = values.collect();
            plan.done(LaneId(0), batch);
            values
        })
    };
    assert_eq!(asked(&[1, 2, 3]).unwrap(), ["key:1", "key:*"]);
    assert_eq!(asked(&[4]).unwrap(), ["key:4"]);
}

#[test]
#[allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]
fn a_table_that_is_gone_falls_back_when_the_open_transaction_ends() {
    let text = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
        [[rule]]\ntable = 's.t'\ndelete = ['key:{id}']\n";
    let rules = Arc::new(crate::config::parse("t", text).unwrap().rules);
    let mut matcher = Matcher::new(rules);
    let mut reader =
        Reader::new(&mut matcher, Decoder::default(), Visibility::Skip, Messages::Keys);
    let mut plan = plan();
    let mut there = KnownTables::default();
    let table = there.add(1);
    (table.schema, table.name) = ("s".into(), "t".into());
    reader.tables(there, &mut plan).unwrap();
    let read = |reader: &mut Reader<'_>, line: &str, plan: &mut Plan| {
        reader.message(Lsn(1), &mut line.as_bytes().to_vec(), plan).unwrap();
    };
    read(&mut reader, BEGIN, &mut plan);
    reader.tables(KnownTables::default(), &mut plan).unwrap();
    assert_eq!(plan.waiting(LaneId(0)), 0);
    read(&mut reader, COMMIT, &mut plan);
    assert_eq!(plan.waiting(LaneId(0)), 1);
    reader.tables(KnownTables::default(), &mut plan).unwrap();
    assert_eq!(plan.waiting(LaneId(0)), 1);
}

#[test]
#[allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]
fn what_a_message_asks_for_waits_for_replicas_although_no_rule_covers_it() {
    use std::time::{Duration, Instant};
    let text = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
        [[rule]]\ntable = 's.t'\ndelete = ['key:{id}']\n";
    let rules = Arc::new(crate::config::parse("t", text).unwrap().rules);
    let mut matcher = Matcher::new(Arc::clone(&rules));
    let mut reader =
        Reader::new(&mut matcher, Decoder::default(), Visibility::Wait, Messages::Keys);
    let mut plan = plan();
    plan.await_replicas(&rules);
    plan.show("8:8:".parse().unwrap());
    let message = r#"{"action":"M","transactional":true,"prefix":"walpurge","content":"{\"delete\":[\"told\"]}"}"#;
    let mut read = |line: &str, plan: &mut Plan| {
        reader.message(Lsn(1), &mut line.as_bytes().to_vec(), plan).unwrap();
    };
    let work = |plan: &mut Plan| {
        let batch = plan.take(LaneId(0), Instant::now)?;
        let first = String::from_utf8_lossy(batch.get(0).value).into_owned();
        plan.done(LaneId(0), batch);
        Some(first)
    };
    let (now, wait) = (Instant::now(), Duration::from_secs(5));
    read(BEGIN, &mut plan);
    read(message, &mut plan);
    plan.replayed(Lsn(1), now, wait);
    plan.replayed(Lsn(1), now + wait, wait);
    read(COMMIT, &mut plan);
    plan.replayed(Lsn(1), now + wait, wait);
    assert_eq!(work(&mut plan).as_deref(), Some("told"));
    plan.replayed(Lsn(2), now + wait, wait);
    assert_eq!(work(&mut plan).as_deref(), Some("told"));
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
}
