//! What comes before what: lookups, then what they ask for, then what is told.

use super::*;

const LOOKUP: usize = 0;
const REMOVE: [usize; 2] = [1, 2];
const TELL: usize = 3;
const RULE: RuleId = RuleId(0);

fn ordered() -> Plan {
    let stages = [Stage::Lookup, Stage::Remove, Stage::Remove, Stage::Tell];
    let lane = |stage| PlannedLane { stage, pace: None };
    let route = |sink: SinkId, verb, _| match verb {
        Verb::Publish => LaneId(TELL),
        _ => LaneId(sink.0 as usize),
    };
    Plan::new(
        stages.into_iter().map(lane).collect(),
        Routes { actions: Box::new(route), lookups: HashMap::from([(RULE, LaneId(LOOKUP))]) },
    )
}

fn ask(plan: &mut Plan, verb: Verb, lane: usize, value: &str) {
    let action = Action { verb, value: value.as_bytes() };
    match verb {
        Verb::Lookup => plan.look_up(RULE, action),
        _ => plan.push(&[SinkId(lane as u32)], action, Urgency::Prompt),
    }
}

fn take(plan: &mut Plan, lane: usize) -> Option<Batch> {
    plan.take(LaneId(lane), Instant::now)
}

fn taken(plan: &mut Plan, lane: usize) -> Vec<String> {
    take(plan, lane).map(|batch| values(&batch)).unwrap_or_default()
}

fn finish(plan: &mut Plan, lane: usize) {
    if let Some(batch) = take(plan, lane) {
        plan.done(LaneId(lane), batch);
    }
}

#[test]
fn a_message_waits_for_the_commit_and_for_everything_that_its_transaction_removes() {
    let mut plan = ordered();
    plan.begin(None);
    ask(&mut plan, Verb::Publish, 1, "m");
    REMOVE.iter().for_each(|&lane| ask(&mut plan, Verb::Delete, lane, "k"));
    finish(&mut plan, REMOVE[0]);
    assert!(take(&mut plan, TELL).is_none());
    finish(&mut plan, REMOVE[1]);
    assert!(take(&mut plan, TELL).is_none(), "the transaction is not complete");
    plan.commit(Lsn(1));
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    let batch = take(&mut plan, TELL).unwrap();
    assert_eq!(values(&batch), ["m"]);
    plan.done(LaneId(TELL), batch);
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
    finish(&mut plan, 2);
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
    finish(&mut plan, 1);
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
    finish(&mut plan, 1);
    let batch = take(&mut plan, TELL).unwrap();
    assert_eq!(values(&batch), ["m", "told"]);
    plan.done(LaneId(TELL), batch);
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
    finish(&mut plan, 1);
    assert!(take(&mut plan, LOOKUP).is_none() && take(&mut plan, TELL).is_none());
    assert!(plan.wants_snapshot());
    plan.show(snapshot(11, &[]));
    finish(&mut plan, LOOKUP);
    finish(&mut plan, TELL);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
}

#[test]
fn a_message_waits_for_the_coarse_action_that_its_removals_became() {
    let mut plan = ordered();
    plan.begin(None);
    for number in 0..3000 {
        ask(&mut plan, Verb::Delete, 1, &format!("k{number}"));
    }
    ask(&mut plan, Verb::Publish, 1, "m");
    plan.commit(Lsn(1));
    let coarse = Action { verb: Verb::DeleteMatching, value: b"k*" };
    assert_eq!(plan.collapse(LaneId(1), |_| true, SinkId(2), coarse), 3000);
    assert!(take(&mut plan, 1).is_none() && take(&mut plan, TELL).is_none());
    finish(&mut plan, 2);
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
    (0..2000).for_each(|key| ask(&mut plan, Verb::Delete, 1, &key.to_string()));
    ask(&mut plan, Verb::Publish, 1, "m");
    plan.commit(Lsn(1));
    finish(&mut plan, 1);
    assert!(take(&mut plan, TELL).is_none());
    finish(&mut plan, 1);
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
    finish(&mut plan, 1);
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
    finish(&mut plan, 1);
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
    finish(&mut plan, 1);
    assert!(take(&mut plan, TELL).is_some());
    plan.done(LaneId(LOOKUP), batch);
}

/// Two rules that look something up, one sink and its messages.
fn two_lookups() -> Plan {
    let stages = [Stage::Lookup, Stage::Remove, Stage::Lookup, Stage::Tell];
    let lane = |stage| PlannedLane { stage, pace: None };
    let route = |_, verb, _| LaneId(if verb == Verb::Publish { TELL } else { 1 });
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
fn what_an_answer_tells_of_an_open_transaction_is_bounded_too() {
    let mut plan = ordered();
    plan.begin(None);
    ask(&mut plan, Verb::Lookup, 0, "q");
    ask(&mut plan, Verb::Delete, 1, "k");
    let batch = take(&mut plan, LOOKUP).unwrap();
    finish(&mut plan, 1);
    let mut told = 0;
    while plan.has_room_for_answers(LaneId(LOOKUP)) {
        let message = format!("message {told}");
        let action = Action { verb: Verb::Publish, value: message.as_bytes() };
        plan.answer(LaneId(LOOKUP), 0, &[SinkId(1)], action, Urgency::Prompt);
        told += 1;
        assert!(told < 1_000_000, "no bound");
    }
    while take(&mut plan, TELL).map(|batch| plan.done(LaneId(TELL), batch)).is_some() {}
    assert!(plan.has_room_for_answers(LaneId(LOOKUP)), "what is told makes room");
    plan.done(LaneId(LOOKUP), batch);
    plan.commit(Lsn(1));
    while take(&mut plan, TELL).map(|batch| plan.done(LaneId(TELL), batch)).is_some() {}
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
    let mut told = 0;
    while plan.has_room_for_answers(LaneId(LOOKUP)) {
        let message = format!("message {told}");
        let action = Action { verb: Verb::Publish, value: message.as_bytes() };
        plan.answer(LaneId(LOOKUP), 0, &[SinkId(1)], action, Urgency::Prompt);
        told += 1;
        assert!(told < 1_000_000, "no bound");
    }
    // The next part of the answer needs room, and nothing but messages is in its way.
    while take(&mut plan, TELL).map(|batch| plan.done(LaneId(TELL), batch)).is_some() {}
    assert!(plan.has_room_for_answers(LaneId(LOOKUP)), "the rest of the lookup is never asked for");
    plan.done(LaneId(LOOKUP), batch);
    while take(&mut plan, TELL).map(|batch| plan.done(LaneId(TELL), batch)).is_some() {}
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
    finish(&mut plan, LOOKUP);
    while take(&mut plan, TELL).map(|batch| plan.done(LaneId(TELL), batch)).is_some() {}
    assert!(plan.is_idle());
}

#[derive(Clone, Debug)]
enum Event {
    Begin {
        is_hidden: bool,
    },
    Ask {
        verb: Verb,
        lane: usize,
        key: u8,
    },
    Commit,
    Show {
        still_invisible: Vec<prop::sample::Index>,
    },
    Take {
        lane: usize,
    },
    /// A lookup finds the key of this number, in this lane.
    Done {
        lane: usize,
        found: u8,
        in_lane: usize,
    },
    Disconnect,
}

fn event() -> impl Strategy<Value = Event> {
    let remove = prop::sample::select(&REMOVE[..]);
    let verb = prop::sample::select(&[Verb::Delete, Verb::Delete, Verb::Lookup, Verb::Publish][..]);
    prop_oneof![
        3 => any::<bool>().prop_map(|is_hidden| Event::Begin { is_hidden }),
        9 => (verb, remove.clone(), 0..4u8)
            .prop_map(|(verb, lane, key)| Event::Ask { verb, lane, key }),
        3 => Just(Event::Commit),
        2 => prop::collection::vec(any::<prop::sample::Index>(), 0..2)
            .prop_map(|still_invisible| Event::Show { still_invisible }),
        6 => (0..4usize).prop_map(|lane| Event::Take { lane }),
        6 => (0..4usize, 0..4u8, remove)
            .prop_map(|(lane, found, in_lane)| Event::Done { lane, found, in_lane }),
        1 => Just(Event::Disconnect),
    ]
}

/// What one transaction has to have removed before a message of it goes out.
#[derive(Debug, Default)]
struct Owed {
    xid: u32,
    is_complete: bool,
    is_gone: bool,
    /// The lane, the key, and when it was asked for.
    removals: Vec<(usize, String, usize)>,
    lookups: Vec<String>,
    messages: Vec<String>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Every message is a key of its own transaction, so that it is known whose it is.
    #[test]
    fn nothing_is_told_before_all_of_its_transaction_is_removed(
        events in prop::collection::vec(event(), 0..150),
    ) {
        let mut plan = ordered();
        let mut all: Vec<Owed> = Vec::new();
        let mut in_flight: [Option<(Batch, usize)>; 4] = Default::default();
        let (mut is_open, mut hidden) = (false, Vec::new());
        for (now, event) in events.into_iter().enumerate() {
            match event {
                Event::Begin { is_hidden } if !is_open => {
                    let xid = 10 + all.len() as u32;
                    plan.begin(is_hidden.then_some((xid, Hidden::All)));
                    if is_hidden {
                        hidden.push(xid);
                    }
                    all.push(Owed { xid, ..Owed::default() });
                    is_open = true;
                }
                Event::Ask { verb, lane, key } if is_open => {
                    let owed = all.last_mut().unwrap();
                    let value = match verb {
                        Verb::Delete => key.to_string(),
                        _ => format!("{}:{key}", owed.xid),
                    };
                    ask(&mut plan, verb, lane, &value);
                    match verb {
                        Verb::Delete => owed.removals.push((lane, value, now)),
                        Verb::Lookup => owed.lookups.push(value),
                        _ => owed.messages.push(value),
                    }
                }
                Event::Commit if is_open => {
                    let owed = all.last_mut().unwrap();
                    owed.is_complete = true;
                    plan.commit(Lsn(owed.xid.into()));
                    is_open = false;
                }
                Event::Show { still_invisible } => {
                    let keep: Vec<u32> = match hidden.is_empty() {
                        true => Vec::new(),
                        false => still_invisible.iter().map(|at| *at.get(&hidden)).collect(),
                    };
                    plan.show(snapshot(10 + all.len() as u32, &keep));
                    hidden.retain(|xid| keep.contains(xid));
                }
                Event::Take { lane } => {
                    let Some(batch) = take(&mut plan, lane) else { continue };
                    if lane == TELL {
                        for message in values(&batch) {
                            let owed = all.iter().find(|o| o.messages.contains(&message)).unwrap();
                            prop_assert!(owed.is_complete || owed.is_gone, "{message}: {all:?}");
                            prop_assert!(owed.removals.is_empty(), "{message}: {all:?}");
                            prop_assert!(owed.lookups.is_empty(), "{message}: {all:?}");
                        }
                    }
                    in_flight[lane] = Some((batch, now));
                }
                Event::Done { lane, found, in_lane } => {
                    let Some((batch, since)) = in_flight[lane].take() else { continue };
                    if lane == LOOKUP {
                        for (index, lookup) in values(&batch).iter().enumerate() {
                            let value = found.to_string();
                            let action = Action { verb: Verb::Delete, value: value.as_bytes() };
                            let sinks = [SinkId(in_lane as u32)];
                            plan.answer(LaneId(lane), index, &sinks, action, Urgency::Prompt);
                            for owed in all.iter_mut().filter(|o| o.lookups.contains(lookup)) {
                                owed.lookups.retain(|other| other != lookup);
                                owed.removals.push((in_lane, value.clone(), now));
                            }
                        }
                    } else {
                        // What was asked for after the batch was taken is not done by it.
                        let keys = values(&batch);
                        for owed in &mut all {
                            owed.removals.retain(|(of, key, asked)| {
                                *of != lane || *asked > since || !keys.contains(key)
                            });
                        }
                    }
                    plan.done(LaneId(lane), batch);
                }
                Event::Disconnect => {
                    plan.disconnect();
                    for owed in &mut all {
                        owed.is_gone = true;
                    }
                    hidden.clear();
                    is_open = false;
                }
                _ => {}
            }
        }
    }
}
