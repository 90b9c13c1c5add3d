//! What is purged when: after the caches, together, and everything where single purges are too
//! many.

use std::time::Duration;

use super::*;
use crate::pipeline::afterwards::Load;

const LOOKUP: usize = 0;
/// Two caches.
const CACHE: [usize; 2] = [1, 2];
const TELL: usize = 3;
/// Fills from the first cache.
const EDGE: usize = 4;
/// The same one's purges of everything, with a pace.
const EDGE_ALL: usize = 5;
/// Fills from both caches.
const SITE: usize = 6;
/// Fills from the first cache, and cannot purge everything.
const PROXY: usize = 7;
const RULE: RuleId = RuleId(0);
const REST: Duration = Duration::from_secs(60);

fn plan() -> Plan {
    let purge = |sink: u32, after: &[usize], purges_all: bool| PlannedLane {
        after: after.iter().map(|&lane| LaneId(lane)).collect(),
        purge_all: purges_all.then_some(SinkId(sink)),
        ..PlannedLane::new(Stage::Purge)
    };
    let rests: Pace = Box::new(|_| REST);
    let lanes = vec![
        PlannedLane::new(Stage::Lookup),
        PlannedLane::new(Stage::Remove),
        PlannedLane::new(Stage::Remove),
        PlannedLane::new(Stage::Tell),
        purge(4, &CACHE[..1], true),
        PlannedLane { pace: Some(rests), ..purge(4, &CACHE[..1], true) },
        purge(6, &CACHE, true),
        purge(7, &CACHE[..1], false),
    ];
    let route = |sink: SinkId, action: Action<'_>, _| match (sink.0 as usize, action.verb) {
        (_, Verb::Publish) => LaneId(TELL),
        (EDGE, Verb::PurgeAll) => LaneId(EDGE_ALL),
        (lane, _) => LaneId(lane),
    };
    let lookups = HashMap::from([(RULE, LaneId(LOOKUP))]);
    Plan::new(lanes, Routes { actions: Box::new(route), lookups })
}

fn ask(plan: &mut Plan, lane: usize, value: &str) {
    let verb = match lane {
        LOOKUP => {
            let action = Action { verb: Verb::Lookup, value: value.as_bytes() };
            return plan.look_up(RULE, action);
        }
        TELL => Verb::Publish,
        EDGE_ALL => return plan.push(&[SinkId(EDGE as u32)], Action::PURGE_ALL, Urgency::Prompt),
        EDGE | SITE | PROXY => Verb::PurgeKey,
        _ => Verb::Delete,
    };
    let action = Action { verb, value: value.as_bytes() };
    plan.push(&[SinkId(lane as u32)], action, Urgency::Prompt);
}

/// A visible transaction that asks for this.
fn transact(plan: &mut Plan, end_lsn: u64, asks: &[(usize, &str)]) {
    plan.begin(None);
    asks.iter().for_each(|&(lane, value)| ask(plan, lane, value));
    plan.commit(Lsn(end_lsn));
}

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

fn taken_all(plan: &mut Plan, lane: usize) -> Vec<String> {
    let mut all = Vec::new();
    while plan.waiting(LaneId(lane)) > 0 {
        all.append(&mut done(plan, lane));
    }
    all
}

fn queued(plan: &Plan, lane: usize) -> Load {
    plan.afterwards.queue(LaneId(lane)).load()
}

#[test]
fn a_purge_waits_for_the_commit_and_for_its_own_caches_alone() {
    let mut plan = plan();
    plan.begin(None);
    for lane in [EDGE, SITE, CACHE[0], CACHE[1]] {
        ask(&mut plan, lane, "k");
    }
    done(&mut plan, CACHE[0]);
    assert!(take(&mut plan, EDGE).is_none(), "the transaction is not complete");
    plan.commit(Lsn(1));
    assert_eq!(done(&mut plan, EDGE), ["k"], "it does not fill from the other cache");
    assert!(take(&mut plan, SITE).is_none());
    done(&mut plan, CACHE[1]);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    assert_eq!(done(&mut plan, SITE), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
}

#[test]
fn a_purge_waits_until_its_transaction_is_visible() {
    for hidden_removal in [false, true] {
        let mut plan = plan();
        plan.begin(Some((10, Hidden::All)));
        ask(&mut plan, EDGE, "k");
        if hidden_removal {
            ask(&mut plan, CACHE[0], "k");
        }
        plan.commit(Lsn(1));
        assert!(take(&mut plan, EDGE).is_none() && plan.wants_snapshot());
        plan.show(snapshot(11, &[]));
        if hidden_removal {
            assert!(take(&mut plan, EDGE).is_none());
            done(&mut plan, CACHE[0]);
        }
        assert_eq!(done(&mut plan, EDGE), ["k"]);
        assert_eq!(plan.confirmed_lsn(), Lsn(1));
    }
}

#[test]
fn purges_and_messages_do_not_wait_for_each_other() {
    let mut plan = plan();
    transact(&mut plan, 1, &[(EDGE, "k"), (SITE, "k"), (TELL, "m")]);
    let edge = take(&mut plan, EDGE).unwrap();
    assert_eq!(done(&mut plan, TELL), ["m"]);
    assert_eq!(done(&mut plan, SITE), ["k"]);
    plan.done(LaneId(EDGE), edge);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
}

#[test]
fn a_purge_waits_for_lookups_and_for_what_they_find() {
    let mut plan = plan();
    transact(&mut plan, 1, &[(LOOKUP, "q"), (EDGE, "k")]);
    let batch = take(&mut plan, LOOKUP).unwrap();
    for (sink, verb, value) in [
        (CACHE[0], Verb::Delete, "found"),
        (EDGE, Verb::PurgeKey, "found"),
        (CACHE[1], Verb::Delete, "x"),
    ] {
        let action = Action { verb, value: value.as_bytes() };
        plan.answer(LaneId(LOOKUP), 0, &[SinkId(sink as u32)], action, Urgency::Prompt);
    }
    plan.done(LaneId(LOOKUP), batch);
    assert!(take(&mut plan, EDGE).is_none(), "what was found is not removed yet");
    done(&mut plan, CACHE[0]);
    assert_eq!(done(&mut plan, EDGE), ["k", "found"], "the other cache does not matter");
}

#[test]
fn a_purge_that_an_older_transaction_waits_with_is_sent_again_for_the_younger() {
    let mut plan = plan();
    transact(&mut plan, 1, &[(CACHE[0], "a"), (EDGE, "k")]);
    let first = take(&mut plan, CACHE[0]).unwrap();
    transact(&mut plan, 2, &[(CACHE[0], "b"), (EDGE, "k")]);
    plan.done(LaneId(CACHE[0]), first);
    assert_eq!(done(&mut plan, EDGE), ["k"], "the older one's caches are done");
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    done(&mut plan, CACHE[0]);
    assert_eq!(done(&mut plan, EDGE), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
}

#[test]
fn equal_purges_that_are_due_are_sent_once() {
    let mut plan = plan();
    transact(&mut plan, 1, &[(EDGE, "busy")]);
    let busy = take(&mut plan, EDGE).unwrap();
    for end_lsn in 2..5 {
        transact(&mut plan, end_lsn, &[(CACHE[0], "k"), (EDGE, "k")]);
        done(&mut plan, CACHE[0]);
    }
    plan.done(LaneId(EDGE), busy);
    let batch = take(&mut plan, EDGE).unwrap();
    assert_eq!(values(&batch), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    plan.done(LaneId(EDGE), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(4));
}

#[test]
fn purges_of_a_stream_that_broke_off_hold_no_position() {
    let mut plan = plan();
    plan.begin(Some((10, Hidden::All)));
    ask(&mut plan, EDGE, "hidden");
    plan.commit(Lsn(1));
    plan.begin(None);
    ask(&mut plan, EDGE, "open");
    plan.disconnect();
    assert!(plan.is_idle() && plan.has_room());
    transact(&mut plan, 2, &[(EDGE, "k")]);
    assert_eq!(done(&mut plan, EDGE), ["k"]);
}

#[test]
fn too_many_purges_of_one_transaction_become_one_of_everything() {
    for hidden in [None, Some((10, Hidden::All))] {
        let mut plan = plan();
        plan.begin(hidden);
        for number in 0..1_000_000 {
            ask(&mut plan, EDGE, &format!("/products/{number}"));
        }
        ask(&mut plan, CACHE[0], "k");
        assert!(plan.has_room() && !plan.is_crowded(RULE));
        plan.commit(Lsn(1));
        plan.show(snapshot(11, &[]));
        assert!(take(&mut plan, EDGE).is_none() && take(&mut plan, EDGE_ALL).is_none());
        done(&mut plan, CACHE[0]);
        assert_eq!(done(&mut plan, EDGE_ALL), ["*"]);
        assert!(plan.is_idle() && plan.confirmed_lsn() == Lsn(1));
        let (lane, collapsed) = plan.take_collapsed().unwrap();
        assert!(lane == LaneId(EDGE) && collapsed > 50_000, "{collapsed}");
        assert_eq!(plan.take_collapsed(), None);
    }
}

#[test]
fn purges_that_wait_for_a_cache_become_one_that_waits_for_all_of_them() {
    let mut plan = plan();
    plan.purges.actions_max = 10;
    let mut stuck = Vec::new();
    for number in 0..10 {
        transact(&mut plan, number + 1, &[(CACHE[0], "k"), (SITE, &format!("p{number}"))]);
        // Each deletes anew.
        if number < 9 {
            stuck.extend(take(&mut plan, CACHE[0]));
        }
    }
    assert_eq!(queued(&plan, SITE).actions, 1, "the one that was too many comes behind them");
    // What stands for them waits for no more than they did.
    transact(&mut plan, 11, &[(CACHE[1], "slow"), (SITE, "later")]);
    plan.done(LaneId(CACHE[0]), stuck.pop().unwrap());
    assert!(take(&mut plan, SITE).is_none(), "the youngest one's cache is not done");
    done(&mut plan, CACHE[0]);
    let batch = take(&mut plan, SITE).unwrap();
    assert_eq!(values(&batch), ["*"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    plan.done(LaneId(SITE), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(10));
    done(&mut plan, CACHE[1]);
    assert_eq!(done(&mut plan, SITE), ["later"]);
}

#[test]
fn a_purge_of_everything_waits_for_what_lookups_find_for_those_that_it_stands_for() {
    let mut plan = plan();
    plan.purges.actions_max = 4;
    transact(&mut plan, 1, &[(LOOKUP, "q"), (SITE, "a"), (SITE, "b"), (SITE, "c")]);
    transact(&mut plan, 2, &[(SITE, "d")]);
    assert_eq!(queued(&plan, SITE).actions, 0, "they have become one");
    done(&mut plan, SITE);
    let lookups = take(&mut plan, LOOKUP).unwrap();
    let found = Action { verb: Verb::Delete, value: b"found" };
    plan.answer(LaneId(LOOKUP), 0, &[SinkId(CACHE[0] as u32)], found, Urgency::Prompt);
    plan.done(LaneId(LOOKUP), lookups);
    assert!(take(&mut plan, SITE).is_none(), "what was found is not removed yet");
    done(&mut plan, CACHE[0]);
    assert_eq!(done(&mut plan, SITE), ["*"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
}

#[test]
fn a_purge_of_everything_is_not_starved_by_what_keeps_coming() {
    let mut plan = plan();
    plan.purges.actions_max = 10;
    let (mut purged, mut lsn) = (0, 0);
    for round in 0..50 {
        // More than the cache can keep up with: something is in flight all the time.
        let batch = take(&mut plan, CACHE[0]);
        for number in 0..25 {
            lsn += 1;
            let key = format!("{round}:{number}");
            transact(&mut plan, lsn, &[(CACHE[0], &key), (SITE, &key)]);
            assert!(plan.has_room());
        }
        batch.into_iter().for_each(|batch| plan.done(LaneId(CACHE[0]), batch));
        let confirmed = plan.confirmed_lsn();
        purged += done(&mut plan, SITE).iter().filter(|value| *value == "*").count();
        assert!(round < 3 || plan.confirmed_lsn() > confirmed, "nothing moves in round {round}");
    }
    assert!((20..=50).contains(&purged), "{purged}");
}

#[test]
fn what_is_due_and_too_much_is_purged_with_everything_at_once() {
    let mut plan = plan();
    plan.purges.actions_max = 10;
    transact(&mut plan, 1, &[(SITE, "down")]);
    let down = take(&mut plan, SITE).unwrap();
    for number in 2..100 {
        transact(&mut plan, number, &[(SITE, &format!("p{number}"))]);
        assert!(plan.waiting(LaneId(SITE)) < 10 && plan.has_room());
    }
    plan.done(LaneId(SITE), down);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    let batch = take(&mut plan, SITE).unwrap();
    assert_eq!(values(&batch), ["*"], "which stands for what came after it, too");
    transact(&mut plan, 100, &[(SITE, "late")]);
    plan.done(LaneId(SITE), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(99), "one in flight stands for nothing more");
    assert_eq!(done(&mut plan, SITE), ["late"]);
}

#[test]
fn a_purge_of_everything_rests_while_single_ones_go_out_and_takes_over_what_waits() {
    let (mut plan, start) = (plan(), Instant::now());
    transact(&mut plan, 1, &[(EDGE_ALL, "")]);
    let batch = plan.take(LaneId(EDGE_ALL), || start).unwrap();
    plan.done(LaneId(EDGE_ALL), batch);
    transact(&mut plan, 2, &[(EDGE_ALL, "")]);
    transact(&mut plan, 3, &[(EDGE, "at once")]);
    assert!(plan.take(LaneId(EDGE_ALL), || start + REST / 2).is_none());
    let slow = take(&mut plan, EDGE).unwrap();
    transact(&mut plan, 4, &[(EDGE, "waits")]);
    let batch = plan.take(LaneId(EDGE_ALL), || start + REST).unwrap();
    assert_eq!(plan.waiting(LaneId(EDGE)), 0);
    plan.done(LaneId(EDGE), slow);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    plan.done(LaneId(EDGE_ALL), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(4));
    assert!(plan.is_idle());
}

#[test]
fn single_purges_that_an_older_transaction_asked_for_are_confirmed_with_what_took_over() {
    let (mut plan, start) = (plan(), Instant::now());
    transact(&mut plan, 1, &[(EDGE, "busy")]);
    let busy = take(&mut plan, EDGE).unwrap();
    transact(&mut plan, 2, &[(EDGE, "old")]);
    transact(&mut plan, 3, &[(EDGE_ALL, "")]);
    let batch = plan.take(LaneId(EDGE_ALL), || start).unwrap();
    plan.done(LaneId(EDGE), busy);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    plan.done(LaneId(EDGE_ALL), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(3));
}

#[test]
fn what_a_purge_of_everything_stands_for_is_not_confirmed_before_it() {
    let mut plan = plan();
    transact(&mut plan, 1, &[(SITE, "busy")]);
    let busy = take(&mut plan, SITE).unwrap();
    plan.begin(Some((10, Hidden::All)));
    ask(&mut plan, SITE, "older");
    plan.commit(Lsn(2));
    plan.begin(None);
    plan.push(&[SinkId(SITE as u32)], Action::PURGE_ALL, Urgency::Prompt);
    plan.commit(Lsn(3));
    plan.show(snapshot(11, &[]));
    plan.done(LaneId(SITE), busy);
    assert_eq!(plan.confirmed_lsn(), Lsn(1), "it waits with what stands for it");
    assert_eq!(done(&mut plan, SITE), ["*"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(3));
}

#[test]
fn a_transaction_that_purges_everything_needs_no_single_purges() {
    let mut plan = plan();
    transact(&mut plan, 1, &[(EDGE, "before"), (EDGE_ALL, ""), (EDGE, "after"), (SITE, "k")]);
    assert!(take(&mut plan, EDGE).is_none());
    assert_eq!(done(&mut plan, EDGE_ALL), ["*"]);
    assert_eq!(done(&mut plan, SITE), ["k"], "another sink");
    assert!(plan.is_idle());
}

#[test]
fn a_wildcard_stands_for_the_single_paths_of_its_own_transaction() {
    let mut plan = plan();
    plan.begin(None);
    ask(&mut plan, CACHE[0], "k");
    for path in ["/products/1", "/about", "/products/*", "/products/2"] {
        let action = Action { verb: Verb::PurgePath, value: path.as_bytes() };
        plan.push(&[SinkId(EDGE as u32)], action, Urgency::Prompt);
    }
    ask(&mut plan, EDGE, "/products/key");
    plan.commit(Lsn(1));
    done(&mut plan, CACHE[0]);
    assert_eq!(done(&mut plan, EDGE), ["/about", "/products/*", "/products/key"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    assert!(plan.is_idle());
}

#[test]
fn purges_of_a_sink_that_cannot_purge_everything_stop_the_reader_and_go_out_in_parts() {
    let mut plan = plan();
    plan.purges.actions_max = 10;
    plan.begin(Some((10, Hidden::All)));
    ask(&mut plan, CACHE[0], "k");
    let mut asked = 0;
    while plan.has_room() {
        ask(&mut plan, PROXY, &format!("p{asked}"));
        asked += 1;
        assert!(asked <= 10, "no bound");
    }
    assert!(plan.is_full(LaneId(PROXY)));
    // The end of the transaction cannot arrive, but it becomes visible.
    plan.show(snapshot(11, &[]));
    assert!(take(&mut plan, PROXY).is_none());
    done(&mut plan, CACHE[0]);
    assert_eq!(done(&mut plan, PROXY).len(), 10);
    assert!(plan.has_room());
    plan.commit(Lsn(1));
    assert!(plan.is_idle());
}

#[test]
fn a_purge_waits_for_the_coarse_action_that_its_removals_became() {
    let mut plan = plan();
    transact(&mut plan, 1, &[(CACHE[0], "k1"), (CACHE[0], "k2"), (SITE, "p")]);
    let coarse = Action { verb: Verb::DeleteMatching, value: b"k*" };
    assert_eq!(plan.collapse(LaneId(CACHE[0]), |_| true, SinkId(CACHE[1] as u32), coarse), 2);
    assert!(take(&mut plan, SITE).is_none());
    assert_eq!(done(&mut plan, CACHE[1]), ["k*"]);
    assert_eq!(done(&mut plan, SITE), ["p"]);
}

#[test]
fn a_batch_of_purges_says_whose_it_is() {
    let mut plan = plan();
    transact(&mut plan, 5, &[(EDGE, "first")]);
    let first = take(&mut plan, EDGE).unwrap();
    assert_eq!(first.range, (Lsn(5), Lsn(5)));
    for end_lsn in [6, 7, 8] {
        transact(&mut plan, end_lsn, &[(EDGE, &end_lsn.to_string())]);
    }
    plan.done(LaneId(EDGE), first);
    let batch = take(&mut plan, EDGE).unwrap();
    assert_eq!(batch.range, (Lsn(6), Lsn(8)));
}

/// Transactions with a message each that all wait for the same removal.
fn many_wait(plan: &mut Plan, count: u64, message: impl Fn(u64) -> String) -> Batch {
    transact(plan, 1, &[(CACHE[0], "slow")]);
    let slow = take(plan, CACHE[0]).unwrap();
    for number in 0..count {
        let key = format!("k{}", number % 100);
        transact(plan, number + 2, &[(CACHE[0], &key), (TELL, &message(number))]);
    }
    slow
}

#[test]
fn messages_of_very_many_transactions_that_wait_do_not_stop_the_reader() {
    let mut plan = plan();
    let slow = many_wait(&mut plan, 100_000, |number| format!("message {number}"));
    assert!(plan.has_room() && plan.confirmed_lsn() == Lsn(0));
    plan.done(LaneId(CACHE[0]), slow);
    assert!(take(&mut plan, TELL).is_none());
    done(&mut plan, CACHE[0]);
    let mut told = 0;
    while let Some(batch) = take(&mut plan, TELL) {
        told += batch.len();
        plan.done(LaneId(TELL), batch);
    }
    assert_eq!(told, 100_000, "none is lost");
    assert_eq!(plan.confirmed_lsn(), Lsn(100_001));
}

#[test]
fn a_message_of_very_many_transactions_waits_for_those_that_it_was_joined_with() {
    let mut plan = plan();
    plan.afterwards.keep_bundles(1);
    transact(&mut plan, 1, &[(CACHE[0], "a"), (TELL, "m")]);
    let first = take(&mut plan, CACHE[0]).unwrap();
    transact(&mut plan, 2, &[(CACHE[0], "b"), (TELL, "m")]);
    plan.done(LaneId(CACHE[0]), first);
    assert!(take(&mut plan, TELL).is_none(), "the second was joined with the first");
    done(&mut plan, CACHE[0]);
    let batch = take(&mut plan, TELL).unwrap();
    assert_eq!(values(&batch), ["m"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    plan.done(LaneId(TELL), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
}

#[test]
fn very_many_that_wait_for_a_cache_that_is_down_delay_no_message_of_another() {
    let mut plan = plan();
    plan.afterwards.keep_bundles(1);
    transact(&mut plan, 1, &[(CACHE[0], "a"), (CACHE[1], "down"), (TELL, "stuck")]);
    let down = take(&mut plan, CACHE[1]).unwrap();
    for number in 0..2000 {
        let message = format!("m{number}");
        transact(&mut plan, 2 + number, &[(CACHE[0], "b"), (TELL, &message)]);
    }
    done(&mut plan, CACHE[0]);
    assert!(!taken_all(&mut plan, TELL).contains(&"stuck".to_owned()));
    plan.done(LaneId(CACHE[1]), down);
    assert_eq!(taken_all(&mut plan, TELL), ["stuck"]);
}

#[test]
fn what_joins_a_bundle_does_not_keep_it_from_being_due() {
    let mut plan = plan();
    plan.afterwards.keep_bundles(1);
    let mut told = 0;
    for number in 0..10_000 {
        // Something is in flight all the time.
        let batch = take(&mut plan, CACHE[0]);
        transact(&mut plan, 1 + number, &[(CACHE[0], &number.to_string()), (TELL, "m")]);
        batch.into_iter().for_each(|batch| plan.done(LaneId(CACHE[0]), batch));
        told += done(&mut plan, TELL).len();
    }
    assert!(told >= 5, "{told}");
}

#[test]
fn an_answer_for_one_of_very_many_transactions_waits_for_what_that_removes() {
    let mut plan = plan();
    plan.afterwards.keep_bundles(1);
    for number in 0..12_000u64 {
        let key = number.to_string();
        transact(&mut plan, number + 1, &[(LOOKUP, &key), (CACHE[0], &key), (TELL, "m")]);
    }
    let lookups = take(&mut plan, LOOKUP).unwrap();
    for index in 0..lookups.len() {
        let action = Action { verb: Verb::PurgeKey, value: b"found" };
        plan.answer(LaneId(LOOKUP), index, &[SinkId(EDGE as u32)], action, Urgency::Prompt);
    }
    plan.done(LaneId(LOOKUP), lookups);
    assert!(take(&mut plan, EDGE).is_none());
    for _ in 0..3 {
        done(&mut plan, CACHE[0]);
        done(&mut plan, LOOKUP);
    }
    while plan.confirmed_lsn() < Lsn(12_000) {
        let work = [LOOKUP, CACHE[0], EDGE, TELL].map(|lane| done(&mut plan, lane).len());
        assert!(work.iter().sum::<usize>() > 0, "stuck at {}", plan.confirmed_lsn());
    }
    assert!(plan.is_idle());
}
