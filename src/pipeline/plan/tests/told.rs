//! Under random interleavings nothing is told before all of its transaction is removed.

use super::order::{LOOKUP, REMOVE, TELL, ask, ordered};
use super::*;

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
