//! What is purged when: after the caches that its edge fills from, and equal ones together.

mod bundles;
mod everything;

use std::time::Duration;

use super::*;

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
