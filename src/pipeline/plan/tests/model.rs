//! The plan beside a model that forgets nothing, under random interleavings.

use std::collections::HashSet;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Begin,
    Push { lane: usize, key: u8 },
    Commit,
    Keepalive,
    Show { still_invisible: Vec<prop::sample::Index> },
    Take { lane: usize },
    Done { lane: usize },
    Disconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Begin),
        8 => (0..LANES, 0..6u8).prop_map(|(lane, key)| Step::Push { lane, key }),
        3 => Just(Step::Commit),
        1 => Just(Step::Keepalive),
        3 => prop::collection::vec(any::<prop::sample::Index>(), 0..3)
            .prop_map(|still_invisible| Step::Show { still_invisible }),
        4 => (0..LANES).prop_map(|lane| Step::Take { lane }),
        4 => (0..LANES).prop_map(|lane| Step::Done { lane }),
        1 => Just(Step::Disconnect),
    ]
}

/// A transaction as the server has it: sent again after every disconnect until it is confirmed.
#[derive(Clone, Debug)]
struct Sent {
    xid: u32,
    end_lsn: Lsn,
    asked: Vec<(usize, u8)>,
}

/// What one session has streamed of a transaction, and what became of each of its actions.
#[derive(Debug)]
struct Streamed {
    sent: usize,
    is_closed: bool,
    /// Whether a snapshot of this session has shown it.
    is_shown: bool,
    actions: Vec<((usize, u8), Fate)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Waiting,
    InFlight,
    Done,
    /// Forgotten when its session ended.
    Dropped,
}

#[derive(Default)]
struct Model {
    /// Everything the server has committed, in commit order.
    log: Vec<Sent>,
    /// Every session's transactions, in stream order.
    streamed: Vec<Streamed>,
    visible: HashSet<u32>,
    /// What this session's last snapshot shows.
    shown: HashSet<u32>,
    in_flight: [Option<Batch>; LANES],
    /// What the server was told.
    told: Lsn,
}

impl Model {
    fn check(&mut self, plan: &Plan) {
        let confirmed = plan.confirmed_lsn();
        self.told = self.told.max(confirmed);
        for (at, _) in self.log.iter().enumerate().filter(|(_, sent)| sent.end_lsn <= confirmed) {
            let is_finished = self.streamed.iter().any(|streamed| {
                streamed.sent == at
                    && streamed.is_closed
                    && streamed.actions.iter().all(|(_, fate)| *fate == Fate::Done)
            });
            assert!(is_finished, "{confirmed} is confirmed too early: {self:?}");
        }
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#?} {:#?}", self.log, self.streamed)
    }
}

fn run(steps: Vec<Step>) {
    let mut plan = plan();
    let mut model = Model::default();
    // What the session has still to stream again.
    let mut resend = 0..0;
    let mut is_open = false;
    for step in steps {
        match step {
            Step::Begin if !is_open => {
                let sent = resend.next().unwrap_or_else(|| {
                    let xid = 10 + model.log.len() as u32;
                    let end_lsn = Lsn(10 * u64::from(xid));
                    model.log.push(Sent { xid, end_lsn, asked: Vec::new() });
                    model.log.len() - 1
                });
                plan.begin(Some((model.log[sent].xid, Hidden::All)));
                is_open = true;
                let is_shown = model.shown.contains(&model.log[sent].xid);
                let actions = Vec::new();
                model.streamed.push(Streamed { sent, is_closed: false, is_shown, actions });
                for (lane, key) in model.log[sent].asked.clone() {
                    push(&mut plan, lane, &key.to_string());
                    let streamed = model.streamed.last_mut().unwrap();
                    streamed.actions.push(((lane, key), Fate::Waiting));
                }
            }
            Step::Push { lane, key } if is_open => {
                let streamed = model.streamed.last_mut().unwrap();
                // A transaction that is sent again is the same as before.
                if streamed.sent + 1 == model.log.len() {
                    push(&mut plan, lane, &key.to_string());
                    streamed.actions.push(((lane, key), Fate::Waiting));
                    model.log[streamed.sent].asked.push((lane, key));
                }
            }
            Step::Commit if is_open => {
                let streamed = model.streamed.last_mut().unwrap();
                streamed.is_closed = true;
                plan.commit(model.log[streamed.sent].end_lsn);
                is_open = false;
            }
            Step::Keepalive if !is_open && resend.is_empty() => {
                let end = model.log.last().map_or(Lsn(1), |sent| Lsn(sent.end_lsn.0 + 1));
                plan.advance(end);
            }
            Step::Show { still_invisible } => {
                let all: Vec<u32> = model.log.iter().map(|sent| sent.xid).collect();
                let mut hidden: Vec<u32> = match all.is_empty() {
                    true => Vec::new(),
                    false => still_invisible.iter().map(|index| *index.get(&all)).collect(),
                };
                // What was visible once stays so.
                hidden.retain(|xid| !model.visible.contains(xid));
                plan.show(snapshot(10 + model.log.len() as u32, &hidden));
                model.shown = all.into_iter().filter(|xid| !hidden.contains(xid)).collect();
                model.visible.extend(&model.shown);
                for streamed in &mut model.streamed {
                    streamed.is_shown |= model.shown.contains(&model.log[streamed.sent].xid);
                }
            }
            Step::Take { lane } => {
                let Some(batch) = plan.take(LaneId(lane), Instant::now) else { continue };
                assert!(model.in_flight[lane].is_none(), "one batch in flight");
                let keys = values(&batch);
                let unique: HashSet<_> = keys.iter().collect();
                assert_eq!(unique.len(), keys.len(), "merged while waiting");
                for key in &keys {
                    let asked = (lane, key.parse::<u8>().unwrap());
                    let was_visible = model.log.iter().any(|sent| {
                        model.visible.contains(&sent.xid) && sent.asked.contains(&asked)
                    });
                    assert!(was_visible, "{asked:?} runs early: {model:?}");
                    for streamed in model.streamed.iter_mut().filter(|streamed| streamed.is_shown) {
                        for (action, fate) in &mut streamed.actions {
                            if *action == asked && *fate == Fate::Waiting {
                                *fate = Fate::InFlight;
                            }
                        }
                    }
                }
                model.in_flight[lane] = Some(batch);
            }
            Step::Done { lane } => {
                let Some(batch) = model.in_flight[lane].take() else { continue };
                plan.done(LaneId(lane), batch);
                for streamed in &mut model.streamed {
                    for ((of, _), fate) in &mut streamed.actions {
                        if *of == lane && *fate == Fate::InFlight {
                            *fate = Fate::Done;
                        }
                    }
                }
            }
            Step::Disconnect => {
                plan.disconnect();
                let first = model.log.iter().position(|sent| sent.end_lsn > model.told);
                resend = first.unwrap_or(model.log.len())..model.log.len();
                for streamed in model.streamed.iter_mut().filter(|streamed| !streamed.is_shown) {
                    for (_, fate) in &mut streamed.actions {
                        *fate = Fate::Dropped;
                    }
                }
                model.shown.clear();
                is_open = false;
            }
            _ => {}
        }
        model.check(&plan);
    }
    // When all is streamed, visible and answered, everything is confirmed.
    if is_open {
        plan.commit(model.log[model.streamed.last().unwrap().sent].end_lsn);
    }
    for sent in resend {
        plan.begin(Some((model.log[sent].xid, Hidden::All)));
        for &(lane, key) in &model.log[sent].asked {
            push(&mut plan, lane, &key.to_string());
        }
        plan.commit(model.log[sent].end_lsn);
    }
    plan.show(snapshot(10 + model.log.len() as u32, &[]));
    for lane in 0..LANES {
        if let Some(batch) = model.in_flight[lane].take() {
            plan.done(LaneId(lane), batch);
        }
        while let Some(batch) = plan.take(LaneId(lane), Instant::now) {
            plan.done(LaneId(lane), batch);
        }
    }
    assert!(plan.is_idle());
    assert!(
        model.told.max(plan.confirmed_lsn())
            >= model.log.last().map_or(Lsn(0), |sent| sent.end_lsn)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_is_lost_early_or_starved(steps in prop::collection::vec(step(), 0..120)) {
        run(steps);
    }
}
