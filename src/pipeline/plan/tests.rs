//! What merges, what waits, and what may be confirmed.

use proptest::prelude::*;

use super::*;
use crate::action::Verb;
use crate::pipeline::action_set::PAGE_ACTIONS_MAX;
use crate::pipeline::paced::Pace;

mod confirm;
mod model;
mod order;
mod outage;
mod positions;
mod purge;
mod redelete;
mod repeats;
mod told;
mod unreplayed;

const LANES: usize = 2;

fn plan() -> Plan {
    Plan::new(
        vec![PlannedLane::new(Stage::Remove), PlannedLane::new(Stage::Remove)],
        Routes { actions: Box::new(|sink, _, _| LaneId(sink.0 as usize)), lookups: HashMap::new() },
    )
}

fn push(plan: &mut Plan, lane: usize, value: &str) {
    let action = Action { verb: Verb::Delete, value: value.as_bytes() };
    plan.push(&[SinkId(lane as u32)], action, Urgency::Prompt);
}

fn values(batch: &Batch) -> Vec<String> {
    batch.iter().map(|action| String::from_utf8(action.value.to_vec()).unwrap()).collect()
}

fn snapshot(xmax: u32, in_progress: &[u32]) -> Snapshot {
    let listed: Vec<_> = in_progress.iter().map(u32::to_string).collect();
    let xmin = in_progress.iter().min().unwrap_or(&xmax);
    format!("{xmin}:{xmax}:{}", listed.join(",")).parse().unwrap()
}

/// What a lane begins.
fn take(plan: &mut Plan, lane: usize) -> Option<Batch> {
    plan.take(LaneId(lane), Instant::now)
}

/// What a lane begins, and has done at once.
fn done(plan: &mut Plan, lane: usize) -> Vec<String> {
    let Some(batch) = take(plan, lane) else { return Vec::new() };
    let taken = values(&batch);
    plan.done(LaneId(lane), batch);
    taken
}

/// The same, until nothing waits.
fn done_all(plan: &mut Plan, lane: usize) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(batch) = take(plan, lane) {
        all.extend(values(&batch));
        plan.done(LaneId(lane), batch);
    }
    all
}

/// What a lane begins at `now`, and has done at once, with what is to be done again.
fn run_at(plan: &mut Plan, lane: usize, now: Instant) -> Vec<String> {
    let Some(batch) = plan.take(LaneId(lane), || now) else { return Vec::new() };
    let taken = values(&batch);
    finish_at(plan, lane, batch, now);
    taken
}

fn finish_at(plan: &mut Plan, lane: usize, batch: Batch, now: Instant) {
    plan.repeat(LaneId(lane), &batch, |_| true, || now);
    plan.done(LaneId(lane), batch);
}

/// A transaction of one action in lane 0 that needs no barrier.
fn transact(plan: &mut Plan, value: &str, end_lsn: u64) {
    plan.begin(None);
    push(plan, 0, value);
    plan.commit(Lsn(end_lsn));
}

#[test]
fn the_lanes_of_a_pool_are_full_together() {
    let mut plan = plan();
    let value = |number: usize| format!("{number}{}", "x".repeat(WAITING_BYTES_MAX / 20));
    plan.begin(None);
    for number in 0..11 {
        push(&mut plan, 0, &value(number));
        push(&mut plan, 1, &value(number));
    }
    assert!(plan.has_room() && !plan.is_full(LaneId(0)));
    plan.know_pools(std::iter::once(0..LANES).collect());
    assert!(!plan.has_room() && plan.is_full(LaneId(0)) && plan.is_full(LaneId(1)));
}

#[test]
fn a_key_dirtied_before_its_delete_is_deleted_once() {
    let mut plan = plan();
    transact(&mut plan, "k", 1);
    transact(&mut plan, "k", 2);
    let batch = plan.take(LaneId(0), Instant::now).unwrap();
    assert_eq!(values(&batch), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    plan.done(LaneId(0), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
}

#[test]
fn a_key_dirtied_during_its_delete_is_deleted_again() {
    let mut plan = plan();
    transact(&mut plan, "k", 1);
    let batch = plan.take(LaneId(0), Instant::now).unwrap();
    transact(&mut plan, "k", 2);
    assert!(plan.take(LaneId(0), Instant::now).is_none(), "the lane is busy");
    plan.done(LaneId(0), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    assert_eq!(done(&mut plan, 0), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
}

#[test]
fn a_key_dirtied_faster_than_the_sink_answers_still_makes_progress() {
    let mut plan = plan();
    transact(&mut plan, "hot", 1);
    for round in 0..100 {
        let batch = plan.take(LaneId(0), Instant::now).unwrap();
        for dirtied in 1..=1000 {
            transact(&mut plan, "hot", round * 1000 + dirtied + 1);
        }
        transact(&mut plan, &format!("cold{round}"), round * 1000 + 1001);
        assert!(plan.progress.len() <= 4, "{} transactions", plan.progress.len());
        plan.done(LaneId(0), batch);
        assert!(plan.confirmed_lsn() >= Lsn(round * 1000 + 1));
    }
}

#[test]
fn merging_keeps_the_oldest_transaction() {
    let mut plan = plan();
    // 10 is streamed first but becomes visible last.
    for (xid, end_lsn) in [(10, 1), (11, 2)] {
        plan.begin(Some((xid, Hidden::All)));
        push(&mut plan, 0, "k");
        plan.commit(Lsn(end_lsn));
    }
    plan.show(snapshot(12, &[10]));
    plan.show(snapshot(12, &[]));
    assert_eq!(plan.confirmed_lsn(), Lsn(0), "the older one's action waits too");
    assert_eq!(done(&mut plan, 0), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
}

#[test]
fn only_equal_actions_merge() {
    let mut plan = plan();
    plan.begin(None);
    for verb in [Verb::Delete, Verb::DeleteMatching, Verb::Bump, Verb::Tag] {
        plan.push(&[SinkId(0), SinkId(1)], Action { verb, value: b"k" }, Urgency::Prompt);
    }
    assert_eq!([plan.waiting(LaneId(0)), plan.waiting(LaneId(1))], [4, 4]);
}

#[test]
fn what_the_last_snapshot_shows_waits_for_no_other() {
    let mut plan = plan();
    plan.show(snapshot(12, &[10]));
    plan.begin(Some((11, Hidden::All)));
    push(&mut plan, 0, "k");
    assert!(!plan.wants_snapshot());
    assert_eq!(values(&plan.take(LaneId(0), Instant::now).unwrap()), ["k"]);
}

#[test]
fn who_asks_for_nothing_waits_for_nothing() {
    let mut plan = plan();
    plan.begin(Some((10, Hidden::All)));
    plan.commit(Lsn(1));
    assert!(!plan.wants_snapshot());
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
}

#[test]
fn actions_without_a_position_keep_the_one_before_them() {
    let mut plan = plan();
    transact(&mut plan, "k", 5);
    plan.begin(None);
    plan.commit(Lsn(0));
    transact(&mut plan, "dropped", 0);
    assert_eq!(done(&mut plan, 0), ["k", "dropped"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(5));
}

#[test]
fn actions_of_many_batches_stay_distinct_and_in_order() {
    let mut plan = plan();
    plan.begin(Some((10, Hidden::All)));
    let all: Vec<String> = (0..10_000).map(|number| format!("product:{number}")).collect();
    all.iter().for_each(|value| push(&mut plan, 0, value));
    plan.commit(Lsn(1));
    plan.show(snapshot(11, &[]));
    let first = plan.take(LaneId(0), Instant::now).unwrap();
    // The first batch is away, so that its actions wait again; the others wait still.
    plan.begin(None);
    all.iter().rev().for_each(|value| push(&mut plan, 0, value));
    plan.commit(Lsn(2));
    let mut taken = values(&first);
    plan.done(LaneId(0), first);
    while let Some(batch) = plan.take(LaneId(0), Instant::now) {
        assert!(plan.confirmed_lsn() < Lsn(2));
        taken.extend(values(&batch));
        plan.done(LaneId(0), batch);
    }
    let again = all[..PAGE_ACTIONS_MAX].iter().rev();
    assert_eq!(taken, all.iter().chain(again).cloned().collect::<Vec<_>>());
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
    assert!(plan.is_idle() && plan.has_room());
}

#[test]
fn an_invisible_transaction_delays_nobody_else() {
    let mut plan = plan();
    plan.begin(Some((10, Hidden::All)));
    push(&mut plan, 0, "hidden");
    plan.commit(Lsn(1));
    plan.begin(Some((11, Hidden::All)));
    push(&mut plan, 0, "seen");
    plan.show(snapshot(12, &[10]));
    assert_eq!(done(&mut plan, 0), ["seen"]);
    plan.commit(Lsn(2));
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
}

#[test]
fn idle_positions_are_confirmed_only_behind_what_is_unfinished() {
    let mut plan = plan();
    plan.advance(Lsn(5));
    assert_eq!(plan.confirmed_lsn(), Lsn(5));
    plan.begin(None);
    plan.advance(Lsn(30));
    assert_eq!(plan.confirmed_lsn(), Lsn(5), "a transaction is open");
    push(&mut plan, 0, "k");
    plan.commit(Lsn(10));
    plan.advance(Lsn(20));
    assert_eq!(plan.confirmed_lsn(), Lsn(5));
    assert_eq!(done(&mut plan, 0), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(20));
}

#[test]
fn another_servers_lower_positions_are_confirmed_only_when_done() {
    let mut plan = plan();
    transact(&mut plan, "a", 1000);
    assert_eq!(done(&mut plan, 0), ["a"]);
    transact(&mut plan, "b", 1010);
    let old = plan.take(LaneId(0), Instant::now).unwrap();
    assert_eq!(plan.confirmed_lsn(), Lsn(1000));
    // A standby that was behind is the primary now, and goes on from where it was.
    plan.disconnect();
    transact(&mut plan, "c", 20);
    plan.done(LaneId(0), old);
    assert_eq!(plan.confirmed_lsn(), Lsn::ZERO, "c is not done");
    assert_eq!(done(&mut plan, 0), ["c"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(20));
}

#[test]
fn what_waits_is_bounded() {
    let mut plan = plan();
    plan.begin(None);
    let mut count = 0;
    while plan.has_room() {
        push(&mut plan, 0, &format!("product:{count}"));
        count += 1;
    }
    assert!((100_000..1_000_000).contains(&count), "{count}");
    let batch = plan.take(LaneId(0), Instant::now).unwrap();
    assert!(plan.has_room());
    assert_eq!(batch.len(), PAGE_ACTIONS_MAX);
}

#[test]
fn every_lane_is_bounded_and_so_is_a_batch() {
    let mut plan = plan();
    plan.begin(None);
    let large = "x".repeat(300_000);
    for number in 0..56 {
        assert!(plan.has_room(), "{number}");
        push(&mut plan, 1, &format!("{large}{number}"));
    }
    assert!(!plan.has_room());
    assert_eq!(plan.take(LaneId(1), Instant::now).unwrap().len(), 4, "about a MiB");
}

#[test]
fn transactions_that_stay_invisible_are_bounded_by_what_they_take() {
    let mut plan = plan();
    let mut count = 0;
    while plan.has_room() {
        plan.begin(Some((count, Hidden::All)));
        push(&mut plan, 0, "k");
        plan.commit(Lsn(count.into()));
        count += 1;
    }
    // Each takes more than a KiB.
    assert!((1_000..16_384).contains(&count), "{count}");
    plan.show(snapshot(count / 2, &[]));
    assert!(plan.has_room());
    plan.disconnect();
    assert!(plan.has_room() && !plan.wants_snapshot());
    assert_eq!(plan.invisible_bytes, 0);
}

#[test]
fn a_coarse_action_takes_the_place_of_those_that_it_reaches_and_confirms_none_of_them_early() {
    let mut plan = plan();
    transact(&mut plan, "other:1", 1);
    transact(&mut plan, "product:1", 2);
    transact(&mut plan, "other:2", 3);
    transact(&mut plan, "product:2", 4);
    let coarse = Action { verb: Verb::DeleteMatching, value: b"product:*" };
    let reaches = |action: Action<'_>| action.value.starts_with(b"product:");
    // In this plan a sink's number is its lane's.
    assert_eq!(plan.collapse(LaneId(0), reaches, SinkId(1), coarse), 2);
    assert_eq!(done(&mut plan, 0), ["other:1", "other:2"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(1), "what was collapsed is not done");
    let batch = plan.take(LaneId(1), Instant::now).unwrap();
    assert_eq!(values(&batch), ["product:*"]);
    // One that comes while the coarse one is in flight is not covered by it.
    transact(&mut plan, "product:1", 5);
    assert_eq!(plan.collapse(LaneId(0), reaches, SinkId(1), coarse), 1);
    plan.done(LaneId(1), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(4));
    assert_eq!(done(&mut plan, 1), ["product:*"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(5));
    assert!(plan.is_idle());
}

fn paced() -> Plan {
    let minute = |_: Action<'_>| std::time::Duration::from_secs(60);
    let lane = PlannedLane { pace: Some(Box::new(minute)), ..PlannedLane::new(Stage::Remove) };
    let routes = Routes { actions: Box::new(|_, _, _| LaneId(0)), lookups: HashMap::new() };
    Plan::new(vec![lane], routes)
}

#[test]
fn what_has_a_pace_belongs_to_the_oldest_transaction_too() {
    let mut plan = paced();
    for (xid, end_lsn) in [(10, 1), (11, 2)] {
        plan.begin(Some((xid, Hidden::All)));
        push(&mut plan, 0, "k");
        plan.commit(Lsn(end_lsn));
    }
    plan.show(snapshot(12, &[10]));
    plan.show(snapshot(12, &[]));
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    assert_eq!(done(&mut plan, 0), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
}

#[test]
fn what_has_a_pace_hurries_to_the_end_of_a_stream_and_no_further() {
    let mut plan = paced();
    let runs = |plan: &mut Plan| {
        transact(plan, "k", 1);
        let batch = plan.take(LaneId(0), Instant::now);
        let runs = batch.is_some();
        batch.into_iter().for_each(|batch| plan.done(LaneId(0), batch));
        runs
    };
    assert!(runs(&mut plan) && !runs(&mut plan));
    plan.hurry();
    assert!(runs(&mut plan) && runs(&mut plan));
    plan.disconnect();
    assert!(!runs(&mut plan));
}
