//! What waits for replicas, what is owed to them, and how that stays bounded.

use std::time::Duration;

use super::*;
use crate::rules::RuleSet;

const WAIT: Duration = Duration::from_secs(5);

/// Beyond it, fallbacks take the place of what is owed.
const OWED_BYTES: usize = WAITING_BYTES_MAX / 2;

/// A rule whose fallback is `product:*`, at the second lane.
fn rules() -> RuleSet {
    let text = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
        [[rule]]\ntable = 's.t'\ndelete = ['product:{id}']\n";
    crate::config::parse("t", text).unwrap().rules
}

/// Exact keys go to the first lane, patterns to the second.
fn plan() -> Plan {
    let lane = || PlannedLane::new(Stage::Remove);
    let route = |_, action: Action<'_>, _| LaneId(usize::from(action.verb == Verb::DeleteMatching));
    let routes = Routes { actions: Box::new(route), lookups: HashMap::new() };
    let mut plan = Plan::new(vec![lane(), lane()], routes);
    plan.await_replicas(&rules());
    plan
}

fn commit(plan: &mut Plan, xid: u32, value: &str, end_lsn: u64) {
    plan.begin_until(Some((xid, Hidden::All)), Lsn(end_lsn));
    push(plan, 0, value);
    plan.commit(Lsn(end_lsn));
}

#[test]
fn nothing_runs_before_it_is_visible_and_replayed() {
    let (mut plan, now) = (plan(), Instant::now());
    commit(&mut plan, 10, "a", 100);
    assert!(plan.wants_replicas() && plan.wants_snapshot());
    plan.replayed(Lsn(100), now, WAIT);
    assert!(done_all(&mut plan, 0).is_empty(), "nobody sees it on the primary");
    plan.show(snapshot(11, &[]));
    assert_eq!(done_all(&mut plan, 0), ["a"]);
    commit(&mut plan, 11, "b", 101);
    plan.show(snapshot(12, &[]));
    assert!(plan.wants_replicas() && !plan.wants_snapshot());
    plan.replayed(Lsn(100), now, WAIT);
    assert!(done_all(&mut plan, 0).is_empty(), "one record is missing");
    plan.replayed(Lsn(101), now, WAIT);
    assert_eq!(done_all(&mut plan, 0), ["b"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(101));
    assert!(!plan.wants_replicas() && plan.is_idle());
}

#[test]
fn what_a_known_snapshot_shows_waits_for_replicas_alone() {
    let mut plan = plan();
    plan.show(snapshot(12, &[]));
    commit(&mut plan, 11, "a", 100);
    assert!(plan.wants_replicas() && !plan.wants_snapshot());
    assert!(done_all(&mut plan, 0).is_empty());
    plan.replayed(Lsn(200), Instant::now(), WAIT);
    assert_eq!(done_all(&mut plan, 0), ["a"]);
    // That is known from now on.
    commit(&mut plan, 11, "b", 200);
    assert_eq!(done_all(&mut plan, 0), ["b"]);
}

#[test]
fn what_waits_too_long_runs_stays_owed_and_runs_again() {
    let (mut plan, start) = (plan(), Instant::now());
    plan.show(snapshot(20, &[]));
    commit(&mut plan, 10, "a", 100);
    plan.replayed(Lsn(1), start, WAIT);
    plan.replayed(Lsn(1), start + WAIT - Duration::from_millis(1), WAIT);
    assert!(done_all(&mut plan, 0).is_empty());
    plan.replayed(Lsn(1), start + WAIT, WAIT);
    assert_eq!(done_all(&mut plan, 0), ["a"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(0), "it is owed");
    plan.replayed(Lsn(1), start + 2 * WAIT, WAIT);
    assert!(done_all(&mut plan, 0).is_empty(), "once is enough");
    plan.replayed(Lsn(100), start + 3 * WAIT, WAIT);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    assert_eq!(done_all(&mut plan, 0), ["a"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(100));
}

#[test]
fn a_transaction_that_is_still_streamed_waits_too() {
    let (mut plan, start) = (plan(), Instant::now());
    plan.show(snapshot(20, &[]));
    plan.begin_until(Some((10, Hidden::All)), Lsn(100));
    push(&mut plan, 0, "a");
    plan.replayed(Lsn(99), start, WAIT);
    assert!(done_all(&mut plan, 0).is_empty());
    plan.replayed(Lsn(100), start, WAIT);
    push(&mut plan, 0, "b");
    assert_eq!(done_all(&mut plan, 0), ["a", "b"]);
    plan.commit(Lsn(100));
    // One that waits too long is owed all that it may ask for.
    plan.begin_until(Some((11, Hidden::All)), Lsn(200));
    push(&mut plan, 0, "c");
    plan.replayed(Lsn(100), start, WAIT);
    plan.replayed(Lsn(100), start + WAIT, WAIT);
    push(&mut plan, 0, "d");
    plan.commit(Lsn(200));
    assert_eq!(done_all(&mut plan, 0), ["c", "d"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(100));
    plan.replayed(Lsn(200), start + WAIT, WAIT);
    assert_eq!(done_all(&mut plan, 1), ["product:*"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(200));
}

#[test]
fn too_much_that_is_owed_becomes_two_fallbacks_and_stops_nobody() {
    let (mut plan, start) = (plan(), Instant::now());
    plan.show(snapshot(2_000_000, &[]));
    let mut now = start;
    let mut end = 0u64;
    for _ in 0..40_000 {
        end += 1;
        commit(&mut plan, 10, &format!("product:{end}"), end);
        if end.is_multiple_of(500) {
            plan.replayed(Lsn(1), now, WAIT);
            now += WAIT;
            plan.replayed(Lsn(1), now, WAIT);
            let _ = done_all(&mut plan, 0);
        }
        assert!(plan.has_room(), "{end}");
    }
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    // The first stands for what came first alone, so that a replica that stays behind gets it.
    let mut coarse = Vec::new();
    for lsn in 1..=end {
        plan.replayed(Lsn(lsn), now, WAIT);
        let _ = done_all(&mut plan, 0);
        if !done_all(&mut plan, 1).is_empty() {
            coarse.push(lsn);
        }
    }
    assert_eq!(coarse.len(), 2, "{coarse:?}");
    assert!(coarse[0] < 20_000, "{coarse:?}");
    assert_eq!(plan.confirmed_lsn(), Lsn(end));
    assert!(plan.is_idle() && plan.unreplayed_bytes() == 0);
}

#[test]
fn a_stream_that_breaks_off_drops_what_waits_for_replicas() {
    let (mut plan, start) = (plan(), Instant::now());
    plan.show(snapshot(20, &[]));
    commit(&mut plan, 10, "a", 100);
    plan.replayed(Lsn(1), start, WAIT);
    plan.replayed(Lsn(1), start + WAIT, WAIT);
    commit(&mut plan, 10, "b", 101);
    plan.disconnect();
    assert_eq!(done_all(&mut plan, 0), ["a"], "that was on its way");
    plan.replayed(Lsn(200), start, WAIT);
    assert!(plan.is_idle() && plan.unreplayed_bytes() == 0 && done_all(&mut plan, 0).is_empty());
}

#[test]
fn fallbacks_are_owed_until_a_position_is_replayed() {
    let (mut plan, start) = (plan(), Instant::now());
    let order = plan.owe_fallbacks(Lsn(50));
    plan.replayed(Lsn(49), start, WAIT);
    assert!(done_all(&mut plan, 1).is_empty());
    assert_eq!(plan.oldest(), Some(order));
    plan.replayed(Lsn(50), start, WAIT);
    assert_eq!(done_all(&mut plan, 1), ["product:*"]);
    assert!(plan.is_idle());
    // Where no replica is configured, none are.
    let mut plan = super::plan();
    plan.owe_fallbacks(Lsn(50));
    assert!(plan.is_idle() && !plan.wants_replicas());
}

/// Exact keys, patterns, and messages, which come after both.
fn plan_that_tells(rule: &str) -> Plan {
    let lanes = [Stage::Remove, Stage::Remove, Stage::Tell].map(PlannedLane::new).into();
    let route = |_, action: Action<'_>, _| match action.verb {
        Verb::DeleteMatching => LaneId(1),
        Verb::Publish => LaneId(2),
        _ => LaneId(0),
    };
    let routes = Routes { actions: Box::new(route), lookups: HashMap::new() };
    let mut plan = Plan::new(lanes, routes);
    let text = format!(
        "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
         [[rule]]\ntable = 's.t'\n{rule}\n"
    );
    plan.await_replicas(&crate::config::parse("t", &text).unwrap().rules);
    plan
}

#[test]
fn what_is_owed_for_a_transaction_that_is_still_streamed_runs_all_of_it() {
    let publish = "publish = { channel = 'c', message = 'product:{id}' }";
    let mut plan = plan_that_tells(&format!("delete = ['product:{{id}}']\n{publish}"));
    let start = Instant::now();
    plan.show(snapshot(20, &[]));
    plan.begin_until(Some((10, Hidden::All)), Lsn(100));
    push(&mut plan, 0, "a");
    plan.replayed(Lsn(1), start, WAIT);
    plan.replayed(Lsn(1), start + WAIT, WAIT);
    // The replica has caught up, and the stream is still within the transaction.
    plan.replayed(Lsn(100), start + WAIT, WAIT);
    push(&mut plan, 0, "b");
    assert_eq!(done_all(&mut plan, 0), ["a", "b"]);
    plan.commit(Lsn(100));
    plan.replayed(Lsn(100), start + WAIT, WAIT);
    assert_eq!(done_all(&mut plan, 1), ["product:*"]);
    assert_eq!(done_all(&mut plan, 2).len(), 1);
    assert_eq!(plan.confirmed_lsn(), Lsn(100));
    assert!(plan.is_idle());
}

#[test]
fn without_fallbacks_nothing_is_owed_and_nothing_is_early() {
    let mut plan = plan_that_tells("delete = ['product:{id}']\nfallback = 'none'");
    plan.owe_fallbacks(Lsn(50));
    assert!(plan.is_idle());
    plan.begin_until(Some((10, Hidden::All)), Lsn(100));
    push(&mut plan, 0, "a");
    plan.replayed(Lsn(50), Instant::now(), WAIT);
    push(&mut plan, 0, "b");
    assert!(done_all(&mut plan, 0).is_empty(), "nobody sees it");
    plan.commit(Lsn(100));
    plan.show(snapshot(20, &[]));
    plan.replayed(Lsn(100), Instant::now(), WAIT);
    assert_eq!(done_all(&mut plan, 0), ["a", "b"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(100));
}

#[test]
fn a_transaction_that_is_still_streamed_waits_for_its_end_if_no_fallback_can_be_owed() {
    let mut plan = plan_that_tells("delete = ['product:{id}']\nfallback = 'none'");
    let start = Instant::now();
    plan.show(snapshot(20, &[]));
    plan.begin_until(Some((10, Hidden::All)), Lsn(100));
    push(&mut plan, 0, "a");
    plan.replayed(Lsn(1), start, WAIT);
    plan.replayed(Lsn(1), start + WAIT, WAIT);
    push(&mut plan, 0, "b");
    plan.commit(Lsn(100));
    plan.replayed(Lsn(1), start + WAIT, WAIT);
    assert_eq!(done_all(&mut plan, 0), ["a", "b"]);
    plan.replayed(Lsn(100), start + WAIT, WAIT);
    assert_eq!(done_all(&mut plan, 0), ["a", "b"], "the replica shows it only now");
    assert_eq!(plan.confirmed_lsn(), Lsn(100));
}

#[test]
fn what_no_rule_covers_is_never_replaced_by_fallbacks() {
    let (mut plan, start) = (plan(), Instant::now());
    plan.show(snapshot(20, &[]));
    plan.begin_until(Some((10, Hidden::All)), Lsn(1));
    plan.keep_exact();
    push(&mut plan, 0, "told");
    // It is still streamed.
    plan.replayed(Lsn(0), start, WAIT);
    plan.replayed(Lsn(0), start + WAIT, WAIT);
    plan.commit(Lsn(1));
    let mut end = 1;
    while plan.unreplayed_bytes() + 4096 < OWED_BYTES {
        end += 1;
        commit(&mut plan, 10, &format!("product:{end}"), end);
    }
    plan.replayed(Lsn(0), start + WAIT, WAIT);
    plan.replayed(Lsn(0), start + 2 * WAIT, WAIT);
    assert!(done_all(&mut plan, 0).contains(&"told".to_owned()));
    for _ in 0..10 {
        end += 1;
        commit(&mut plan, 10, &format!("product:{end}"), end);
    }
    plan.replayed(Lsn(0), start + 3 * WAIT, WAIT);
    assert!(plan.unreplayed_bytes() < OWED_BYTES / 2, "fallbacks have taken their place");
    let _ = done_all(&mut plan, 0);
    plan.replayed(Lsn(end), start + 3 * WAIT, WAIT);
    assert!(done_all(&mut plan, 0).contains(&"told".to_owned()));
    assert_eq!(done_all(&mut plan, 1), ["product:*"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(end));
}
