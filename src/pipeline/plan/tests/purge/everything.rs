//! Where single purges are too many, everything is purged: not before all that it stands for is
//! due, and not without end.

use super::*;
use crate::pipeline::afterwards::Load;

fn queued(plan: &Plan, lane: usize) -> Load {
    plan.afterwards.queue(LaneId(lane)).load()
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
