//! What comes before what: lookups, then what they ask for, then what is told.

use super::*;

pub(super) const LOOKUP: usize = 0;
pub(super) const REMOVE: [usize; 2] = [1, 2];
pub(super) const TELL: usize = 3;
const RULE: RuleId = RuleId(0);

pub(super) fn ordered() -> Plan {
    let stages = [Stage::Lookup, Stage::Remove, Stage::Remove, Stage::Tell];
    let lane = PlannedLane::new;
    let route = |sink: SinkId, action: Action<'_>, _| match action.verb {
        Verb::Publish => LaneId(TELL),
        _ => LaneId(sink.0 as usize),
    };
    Plan::new(
        stages.into_iter().map(lane).collect(),
        Routes { actions: Box::new(route), lookups: HashMap::from([(RULE, LaneId(LOOKUP))]) },
    )
}

pub(super) fn ask(plan: &mut Plan, verb: Verb, lane: usize, value: &str) {
    let action = Action { verb, value: value.as_bytes() };
    match verb {
        Verb::Lookup => plan.look_up(RULE, action),
        _ => plan.push(&[SinkId(lane as u32)], action, Urgency::Prompt),
    }
}

fn taken(plan: &mut Plan, lane: usize) -> Vec<String> {
    take(plan, lane).map(|batch| values(&batch)).unwrap_or_default()
}

#[test]
fn a_message_waits_for_the_commit_and_for_everything_that_its_transaction_removes() {
    let mut plan = ordered();
    plan.begin(None);
    ask(&mut plan, Verb::Publish, 1, "m");
    REMOVE.iter().for_each(|&lane| ask(&mut plan, Verb::Delete, lane, "k"));
    done(&mut plan, REMOVE[0]);
    assert!(take(&mut plan, TELL).is_none());
    done(&mut plan, REMOVE[1]);
    assert!(take(&mut plan, TELL).is_none(), "the transaction is not complete");
    plan.commit(Lsn(1));
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    assert_eq!(done(&mut plan, TELL), ["m"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
}

#[test]
fn a_message_waits_for_no_other_transaction() {
    let mut plan = ordered();
    plan.begin(None);
    ask(&mut plan, Verb::Delete, 1, "slow");
    plan.commit(Lsn(1));
    let slow = take(&mut plan, 1).unwrap();
    plan.begin(None);
    ask(&mut plan, Verb::Publish, 1, "m");
    ask(&mut plan, Verb::Delete, 2, "k");
    plan.commit(Lsn(2));
    done(&mut plan, 2);
    assert_eq!(taken(&mut plan, TELL), ["m"]);
    plan.done(LaneId(1), slow);
}

#[test]
fn a_message_waits_for_the_removal_that_its_own_was_merged_with() {
    let mut plan = ordered();
    plan.begin(None);
    ask(&mut plan, Verb::Delete, 1, "first");
    plan.commit(Lsn(1));
    let first = take(&mut plan, 1).unwrap();
    for (end_lsn, message) in [(2, "m2"), (3, "m3")] {
        plan.begin(None);
        ask(&mut plan, Verb::Delete, 1, "k");
        ask(&mut plan, Verb::Publish, 1, message);
        plan.commit(Lsn(end_lsn));
    }
    plan.done(LaneId(1), first);
    assert!(take(&mut plan, TELL).is_none());
    done(&mut plan, 1);
    assert_eq!(taken(&mut plan, TELL), ["m2", "m3"]);
}

#[test]
fn a_message_waits_for_lookups_and_for_what_they_ask_for() {
    let mut plan = ordered();
    plan.begin(Some((10, Hidden::All)));
    ask(&mut plan, Verb::Lookup, 0, "q");
    ask(&mut plan, Verb::Publish, 1, "m");
    plan.commit(Lsn(1));
    plan.show(snapshot(11, &[]));
    let batch = take(&mut plan, LOOKUP).unwrap();
    assert!(take(&mut plan, TELL).is_none());
    for (verb, value) in [(Verb::Delete, "found"), (Verb::Publish, "told")] {
        let action = Action { verb, value: value.as_bytes() };
        plan.answer(LaneId(LOOKUP), 0, &[SinkId(1)], action, Urgency::Prompt);
    }
    plan.done(LaneId(LOOKUP), batch);
    assert!(take(&mut plan, TELL).is_none(), "what was found is not removed yet");
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    done(&mut plan, 1);
    assert_eq!(done(&mut plan, TELL), ["m", "told"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
}

#[test]
fn without_a_barrier_lookups_alone_wait_to_see_their_rows() {
    let mut plan = ordered();
    plan.begin(Some((10, Hidden::Lookups)));
    ask(&mut plan, Verb::Delete, 1, "k");
    ask(&mut plan, Verb::Lookup, 0, "q");
    ask(&mut plan, Verb::Publish, 1, "m");
    plan.commit(Lsn(1));
    done(&mut plan, 1);
    assert!(take(&mut plan, LOOKUP).is_none() && take(&mut plan, TELL).is_none());
    assert!(plan.wants_snapshot());
    plan.show(snapshot(11, &[]));
    done(&mut plan, LOOKUP);
    done(&mut plan, TELL);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
}

#[test]
fn a_message_waits_for_the_coarse_action_that_its_removals_became() {
    let mut plan = ordered();
    plan.begin(None);
    for number in 0..9000 {
        ask(&mut plan, Verb::Delete, 1, &format!("k{number}"));
    }
    ask(&mut plan, Verb::Publish, 1, "m");
    plan.commit(Lsn(1));
    let coarse = Action { verb: Verb::DeleteMatching, value: b"k*" };
    assert_eq!(plan.collapse(LaneId(1), |_| true, SinkId(2), coarse), 9000);
    assert!(take(&mut plan, 1).is_none() && take(&mut plan, TELL).is_none());
    done(&mut plan, 2);
    assert_eq!(taken(&mut plan, TELL), ["m"]);
}

#[test]
fn what_is_told_of_a_huge_transaction_goes_out_before_its_end() {
    let mut plan = ordered();
    plan.begin(None);
    let mut count = 0;
    while !plan.is_crowded(RULE) {
        ask(&mut plan, Verb::Publish, 1, &format!("message {count}"));
        count += 1;
    }
    assert!((10_000..1_000_000).contains(&count), "{count}");
    assert!(take(&mut plan, TELL).is_none(), "as long as a coarser action can take their place");
    for more in 0..count {
        ask(&mut plan, Verb::Publish, 1, &format!("message {}", count + more));
    }
    let mut told = 0;
    while let Some(batch) = take(&mut plan, TELL) {
        told += batch.len();
        plan.done(LaneId(TELL), batch);
    }
    assert!(told > count && plan.has_room(), "{told}");
    plan.commit(Lsn(1));
    while let Some(batch) = take(&mut plan, TELL) {
        told += batch.len();
        plan.done(LaneId(TELL), batch);
    }
    assert_eq!(told, 2 * count);
    assert!(plan.is_idle());
}

#[test]
fn lookups_that_pile_up_are_noticed_before_they_stop_the_reader() {
    let mut plan = ordered();
    plan.begin(None);
    let mut count = 0;
    while !plan.is_crowded(RULE) {
        ask(&mut plan, Verb::Lookup, 0, &format!("lookup {count}"));
        count += 1;
    }
    assert!(plan.has_room() && plan.has_room_for_answers(LaneId(LOOKUP)));
}

#[test]
fn a_message_waits_for_the_last_of_many_batches() {
    let mut plan = ordered();
    plan.begin(None);
    (0..PAGE_ACTIONS_MAX + 1).for_each(|key| ask(&mut plan, Verb::Delete, 1, &key.to_string()));
    ask(&mut plan, Verb::Publish, 1, "m");
    plan.commit(Lsn(1));
    done(&mut plan, 1);
    assert!(take(&mut plan, TELL).is_none());
    done(&mut plan, 1);
    assert_eq!(taken(&mut plan, TELL), ["m"]);
}

#[test]
fn what_only_an_answer_tells_waits_for_what_its_transaction_removes_besides() {
    let mut plan = ordered();
    plan.begin(None);
    ask(&mut plan, Verb::Lookup, 0, "q");
    ask(&mut plan, Verb::Delete, 1, "k");
    plan.commit(Lsn(1));
    let batch = take(&mut plan, LOOKUP).unwrap();
    let told = Action { verb: Verb::Publish, value: b"told" };
    plan.answer(LaneId(LOOKUP), 0, &[SinkId(1)], told, Urgency::Prompt);
    plan.done(LaneId(LOOKUP), batch);
    assert!(take(&mut plan, TELL).is_none());
    done(&mut plan, 1);
    assert_eq!(taken(&mut plan, TELL), ["told"]);
}

#[test]
fn every_part_of_a_huge_transaction_waits_for_what_was_to_be_removed_before() {
    let mut plan = ordered();
    plan.begin(None);
    ask(&mut plan, Verb::Delete, 1, "k");
    let message = "m".repeat(1 << 20);
    (0..30).for_each(|part| ask(&mut plan, Verb::Publish, 1, &format!("{message}{part}")));
    plan.commit(Lsn(1));
    assert!(take(&mut plan, TELL).is_none());
    done(&mut plan, 1);
    assert!(take(&mut plan, TELL).is_some());
}

#[test]
fn a_message_that_a_cut_stream_leaves_behind_a_hidden_lookup_holds_no_position() {
    let mut plan = ordered();
    plan.begin(Some((10, Hidden::Lookups)));
    ask(&mut plan, Verb::Lookup, 0, "q");
    ask(&mut plan, Verb::Publish, 1, "m");
    plan.commit(Lsn(1));
    plan.disconnect();
    assert!(plan.is_idle());
}

#[test]
fn a_part_of_what_an_answer_tells_waits_for_what_it_found() {
    let mut plan = ordered();
    plan.begin(None);
    ask(&mut plan, Verb::Lookup, 0, "q");
    let batch = take(&mut plan, LOOKUP).unwrap();
    let message = "m".repeat(9 << 20);
    for (verb, value) in [(Verb::Delete, "found"), (Verb::Publish, &message)] {
        let action = Action { verb, value: value.as_bytes() };
        plan.answer(LaneId(LOOKUP), 0, &[SinkId(1)], action, Urgency::Prompt);
    }
    assert!(take(&mut plan, TELL).is_none());
    done(&mut plan, 1);
    assert!(take(&mut plan, TELL).is_some());
    plan.done(LaneId(LOOKUP), batch);
}

/// Two rules that look something up, one sink and its messages.
fn two_lookups() -> Plan {
    let stages = [Stage::Lookup, Stage::Remove, Stage::Lookup, Stage::Tell];
    let lane = PlannedLane::new;
    let route =
        |_, action: Action<'_>, _| LaneId(if action.verb == Verb::Publish { TELL } else { 1 });
    let lookups = HashMap::from([(RULE, LaneId(LOOKUP)), (RuleId(1), LaneId(2))]);
    Plan::new(stages.into_iter().map(lane).collect(), Routes { actions: Box::new(route), lookups })
}

#[test]
fn a_message_waits_for_the_first_part_of_an_answer_whoever_else_is_answered_meanwhile() {
    let mut plan = two_lookups();
    plan.begin(None);
    ask(&mut plan, Verb::Lookup, 0, "q");
    ask(&mut plan, Verb::Publish, 1, "m");
    plan.commit(Lsn(1));
    plan.begin(None);
    plan.look_up(RuleId(1), Action { verb: Verb::Lookup, value: b"other" });
    plan.commit(Lsn(2));
    let (batch, other) = (take(&mut plan, LOOKUP).unwrap(), take(&mut plan, 2).unwrap());
    let found = Action { verb: Verb::Delete, value: b"first part" };
    plan.answer(LaneId(LOOKUP), 0, &[SinkId(0)], found, Urgency::Prompt);
    let slow = take(&mut plan, 1).unwrap();
    plan.done(LaneId(2), other);
    plan.done(LaneId(LOOKUP), batch);
    assert!(take(&mut plan, TELL).is_none(), "what was found is not removed yet");
    plan.done(LaneId(1), slow);
    assert_eq!(taken(&mut plan, TELL), ["m"]);
}

#[test]
fn what_one_lookup_tells_waits_for_what_another_one_of_its_transaction_has_found() {
    let mut plan = two_lookups();
    plan.begin(None);
    ask(&mut plan, Verb::Lookup, 0, "q");
    plan.look_up(RuleId(1), Action { verb: Verb::Lookup, value: b"other" });
    plan.commit(Lsn(1));
    let (batch, other) = (take(&mut plan, LOOKUP).unwrap(), take(&mut plan, 2).unwrap());
    let found = Action { verb: Verb::Delete, value: b"found" };
    plan.answer(LaneId(LOOKUP), 0, &[SinkId(0)], found, Urgency::Prompt);
    plan.done(LaneId(LOOKUP), batch);
    let told = Action { verb: Verb::Publish, value: b"told" };
    plan.answer(LaneId(2), 0, &[SinkId(0)], told, Urgency::Prompt);
    plan.done(LaneId(2), other);
    assert!(take(&mut plan, TELL).is_none(), "what was found is not removed yet");
    done(&mut plan, 1);
    assert_eq!(taken(&mut plan, TELL), ["told"]);
}

/// Lets the lookup in flight tell as much as there is room for.
fn tell_until_full(plan: &mut Plan) {
    let mut told = 0;
    while plan.has_room_for_answers(LaneId(LOOKUP)) {
        let message = format!("message {told}");
        let action = Action { verb: Verb::Publish, value: message.as_bytes() };
        plan.answer(LaneId(LOOKUP), 0, &[SinkId(1)], action, Urgency::Prompt);
        told += 1;
        assert!(told < 1_000_000, "no bound");
    }
}

fn finish_all(plan: &mut Plan, lane: usize) {
    while take(plan, lane).map(|batch| plan.done(LaneId(lane), batch)).is_some() {}
}

#[test]
fn what_an_answer_tells_of_an_open_transaction_is_bounded_too() {
    let mut plan = ordered();
    plan.begin(None);
    ask(&mut plan, Verb::Lookup, 0, "q");
    ask(&mut plan, Verb::Delete, 1, "k");
    let batch = take(&mut plan, LOOKUP).unwrap();
    done(&mut plan, 1);
    tell_until_full(&mut plan);
    finish_all(&mut plan, TELL);
    assert!(plan.has_room_for_answers(LaneId(LOOKUP)), "what is told makes room");
    plan.done(LaneId(LOOKUP), batch);
    plan.commit(Lsn(1));
    finish_all(&mut plan, TELL);
    assert!(plan.is_idle());
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
}

#[test]
fn what_an_answer_tells_of_a_complete_transaction_is_bounded_too() {
    let mut plan = ordered();
    plan.begin(None);
    ask(&mut plan, Verb::Lookup, 0, "q");
    plan.commit(Lsn(1));
    let batch = take(&mut plan, LOOKUP).unwrap();
    tell_until_full(&mut plan);
    // The next part of the answer needs room, and nothing but messages is in its way.
    finish_all(&mut plan, TELL);
    assert!(plan.has_room_for_answers(LaneId(LOOKUP)), "the rest of the lookup is never asked for");
    plan.done(LaneId(LOOKUP), batch);
    finish_all(&mut plan, TELL);
    assert!(plan.is_idle());
}

#[test]
fn lookups_go_on_when_everything_that_fills_the_room_waits_for_them() {
    let mut plan = ordered();
    // In flight, so that the others wait.
    plan.begin(None);
    ask(&mut plan, Verb::Lookup, 0, "first");
    plan.commit(Lsn(1));
    let first = take(&mut plan, LOOKUP).unwrap();
    let message = "m".repeat(1 << 20);
    for number in 0..20 {
        plan.begin(Some((10, Hidden::All)));
        ask(&mut plan, Verb::Lookup, 0, &format!("lookup {number}"));
        ask(&mut plan, Verb::Publish, 1, &format!("{message}{number}"));
        plan.commit(Lsn(2 + number));
    }
    plan.show(snapshot(11, &[]));
    plan.done(LaneId(LOOKUP), first);
    assert!(!plan.has_room());
    assert!(plan.has_room_for_answers(LaneId(LOOKUP)), "nobody else makes room");
    done(&mut plan, LOOKUP);
    finish_all(&mut plan, TELL);
    assert!(plan.is_idle());
}
