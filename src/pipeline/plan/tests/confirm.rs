//! What is confirmed, with every kind of lane, both kinds of messages, retries and reconnects.
//!
//! The model is a ledger of what each streamed transaction has asked for, and of what a lane has
//! done since then.

use std::collections::HashSet;
use std::time::Duration;

use proptest::test_runner::{Config, TestRunner};

use super::*;

const LOOKUP: usize = 0;
const PACED: usize = 3;
const TELL: usize = 4;
const COUNT: usize = 5;
const RULE: RuleId = RuleId(0);

fn plan() -> Plan {
    let lane = PlannedLane::new;
    let pace: Pace = Box::new(|_| Duration::from_secs(5));
    let lanes = vec![
        lane(Stage::Lookup),
        lane(Stage::Remove),
        lane(Stage::Remove),
        PlannedLane { pace: Some(pace), ..PlannedLane::new(Stage::Remove) },
        lane(Stage::Tell),
    ];
    let route = |sink: SinkId, verb, urgency| match (verb, urgency) {
        (Verb::Publish, _) => LaneId(TELL),
        (_, Urgency::Paced) => LaneId(PACED),
        _ => LaneId(sink.0 as usize),
    };
    Plan::new(
        lanes,
        Routes { actions: Box::new(route), lookups: HashMap::from([(RULE, LaneId(LOOKUP))]) },
    )
}

fn ask(plan: &mut Plan, lane: usize, key: u8) {
    let value = [b'0' + key];
    let action = |verb| Action { verb, value: &value };
    match lane {
        LOOKUP => plan.look_up(RULE, action(Verb::Lookup)),
        PACED => plan.push(&[SinkId(1)], action(Verb::DeleteMatching), Urgency::Paced),
        TELL => plan.push(&[SinkId(1)], action(Verb::Publish), Urgency::Prompt),
        _ => plan.push(&[SinkId(lane as u32)], action(Verb::Delete), Urgency::Prompt),
    }
}

fn keys(batch: &Batch) -> Vec<u8> {
    batch.iter().map(|action| action.value[0] - b'0').collect()
}

#[derive(Clone, Debug)]
enum Step {
    Begin,
    /// In a lane, for a key.
    Ask(usize, u8),
    Commit,
    /// A message that is no part of a transaction.
    Message(usize, u8),
    /// Something that has no position: a look at the catalog brings it.
    Unplaced(u8),
    Keepalive,
    Show(Vec<prop::sample::Index>),
    Take(usize),
    /// A batch fails, and its lane goes on trying.
    Fail(usize),
    /// A lane's batch is done; a lookup finds a key, for a lane.
    Done(usize, u8, usize),
    Disconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let hidden = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    let answers = prop::sample::select(vec![1, 2, PACED, TELL]);
    prop_oneof![
        3 => Just(Step::Begin),
        8 => (0..COUNT, 0..5u8).prop_map(|(lane, key)| Step::Ask(lane, key)),
        3 => Just(Step::Commit),
        2 => (0..COUNT, 0..5u8).prop_map(|(lane, key)| Step::Message(lane, key)),
        1 => (0..5u8).prop_map(Step::Unplaced),
        1 => Just(Step::Keepalive),
        3 => hidden.prop_map(Step::Show),
        6 => (0..COUNT).prop_map(Step::Take),
        1 => (0..COUNT).prop_map(Step::Fail),
        6 => (0..COUNT, 0..5u8, answers).prop_map(|(lane, key, to)| Step::Done(lane, key, to)),
        1 => Just(Step::Disconnect),
    ]
}

/// What the server sends, again after each disconnect until it is confirmed.
#[derive(Clone, Debug)]
struct Sent {
    /// `None`: a message.
    xid: Option<u32>,
    lsn: Lsn,
    asked: Vec<(usize, u8)>,
}

/// What one stream has brought of it.
#[derive(Debug)]
struct Streamed {
    sent: usize,
    is_closed: bool,
    is_hidden: bool,
    asks: Vec<Ask>,
}

#[derive(Debug)]
struct Ask {
    lane: usize,
    key: u8,
    /// When a batch could first hold it.
    entered: Option<u64>,
    is_done: bool,
}

struct Model {
    plan: Plan,
    start: Instant,
    clock: u64,
    log: Vec<Sent>,
    /// What this stream has brought.
    streamed: Vec<Streamed>,
    visible: HashSet<u32>,
    shown: HashSet<u32>,
    in_flight: [Option<(Batch, u64)>; COUNT],
    resend: std::ops::Range<usize>,
    is_open: bool,
    /// What the server was told in any stream, and in this one.
    told: Lsn,
    confirmed: Lsn,
    told_before: Lsn,
}

impl Model {
    fn new(broken: Option<Failpoint>) -> Self {
        let mut plan = plan();
        plan.break_as(broken);
        Model {
            plan,
            start: Instant::now(),
            clock: 0,
            log: Vec::new(),
            streamed: Vec::new(),
            visible: HashSet::new(),
            shown: HashSet::new(),
            in_flight: Default::default(),
            resend: 0..0,
            is_open: false,
            told: Lsn::ZERO,
            confirmed: Lsn::ZERO,
            told_before: Lsn::ZERO,
        }
    }

    /// The next thing that the server sends: of the past, or new.
    fn next(&mut self, is_message: bool) -> usize {
        if let Some(sent) = self.resend.next() {
            return sent;
        }
        let number = self.log.len() as u64;
        let xid = (!is_message).then_some(10 + number as u32);
        self.log.push(Sent { xid, lsn: Lsn(10 * (number + 1)), asked: Vec::new() });
        self.log.len() - 1
    }

    fn begin(&mut self, sent: usize) {
        let xid = self.log[sent].xid;
        self.plan.begin(xid.map(|xid| (xid, Hidden::All)));
        let is_hidden = xid.is_some_and(|xid| !self.shown.contains(&xid));
        self.streamed.push(Streamed { sent, is_closed: false, is_hidden, asks: Vec::new() });
        self.is_open = true;
        for (lane, key) in self.log[sent].asked.clone() {
            self.ask(lane, key);
        }
    }

    fn ask(&mut self, lane: usize, key: u8) {
        ask(&mut self.plan, lane, key);
        let streamed = self.streamed.last_mut().unwrap();
        let entered = (!streamed.is_hidden).then_some(self.clock);
        streamed.asks.push(Ask { lane, key, entered, is_done: false });
    }

    fn commit(&mut self) {
        let streamed = self.streamed.last_mut().unwrap();
        streamed.is_closed = true;
        self.plan.commit(self.log[streamed.sent].lsn);
        self.is_open = false;
    }

    fn send_whole(&mut self, sent: usize) {
        self.begin(sent);
        self.commit();
    }

    fn show(&mut self, hidden: &[u32]) {
        let xmax = 10 + self.log.len() as u32;
        self.plan.show(snapshot(xmax, hidden));
        let all = self.log.iter().filter_map(|sent| sent.xid);
        self.shown = all.filter(|xid| !hidden.contains(xid)).collect();
        self.visible.extend(&self.shown);
        for streamed in &mut self.streamed {
            let xid = self.log[streamed.sent].xid;
            if streamed.is_hidden && xid.is_some_and(|xid| self.shown.contains(&xid)) {
                streamed.is_hidden = false;
                for ask in &mut streamed.asks {
                    ask.entered = Some(self.clock);
                }
            }
        }
    }

    fn take(&mut self, lane: usize) -> bool {
        let now = self.start + Duration::from_secs(self.clock);
        let Some(batch) = self.plan.take(LaneId(lane), || now) else { return false };
        assert!(self.in_flight[lane].is_none(), "one batch in flight");
        self.in_flight[lane] = Some((batch, self.clock));
        true
    }

    fn done(&mut self, lane: usize, found: u8, in_lane: usize) {
        let Some((batch, since)) = self.in_flight[lane].take() else { return };
        let keys = keys(&batch);
        let is_done = |ask: &Ask| {
            !ask.is_done
                && ask.lane == lane
                && keys.contains(&ask.key)
                && ask.entered.is_some_and(|entered| entered <= since)
        };
        if lane == LOOKUP {
            let value = [b'0' + found];
            let (verb, urgency) = match in_lane {
                TELL => (Verb::Publish, Urgency::Prompt),
                PACED => (Verb::DeleteMatching, Urgency::Paced),
                _ => (Verb::Delete, Urgency::Prompt),
            };
            let (sinks, action) = ([SinkId(in_lane.min(2) as u32)], Action { verb, value: &value });
            for index in 0..keys.len() {
                self.plan.answer(LaneId(lane), index, &sinks, action, urgency);
            }
            for streamed in &mut self.streamed {
                let answers = streamed.asks.iter().filter(|ask| is_done(ask)).count();
                let entered = Some(self.clock);
                let answer = || Ask { lane: in_lane, key: found, entered, is_done: false };
                streamed.asks.extend((0..answers).map(|_| answer()));
            }
        }
        for streamed in &mut self.streamed {
            streamed.asks.iter_mut().filter(|ask| is_done(ask)).for_each(|ask| ask.is_done = true);
        }
        self.plan.done(LaneId(lane), batch);
    }

    fn disconnect(&mut self) {
        self.plan.disconnect();
        // A message at the very position that was told is sent again.
        let is_due = |sent: &Sent| match sent.xid {
            Some(_) => sent.lsn > self.told,
            None => sent.lsn >= self.told,
        };
        let first = self.log.iter().position(is_due).unwrap_or(self.log.len());
        self.resend = first..self.log.len();
        self.streamed.clear();
        self.shown.clear();
        self.is_open = false;
        self.confirmed = Lsn::ZERO;
        self.told_before = self.told;
    }

    fn step(&mut self, step: Step) {
        self.clock += 1;
        match step {
            Step::Begin if !self.is_open => {
                let sent = self.next(false);
                match self.log[sent].xid {
                    Some(_) => self.begin(sent),
                    None => self.send_whole(sent),
                }
            }
            // A transaction that is sent again is the same as before.
            Step::Ask(lane, key) if self.is_open => {
                let sent = self.streamed.last().unwrap().sent;
                if sent + 1 == self.log.len() {
                    self.log[sent].asked.push((lane, key));
                    self.ask(lane, key);
                }
            }
            Step::Commit if self.is_open => self.commit(),
            Step::Message(lane, key) if !self.is_open && self.resend.is_empty() => {
                let sent = self.next(true);
                self.log[sent].asked.push((lane, key));
                self.send_whole(sent);
            }
            Step::Unplaced(key) if !self.is_open => {
                self.plan.begin(None);
                ask(&mut self.plan, 1, key);
                self.plan.commit(Lsn::ZERO);
            }
            Step::Keepalive if !self.is_open && self.resend.is_empty() => {
                let end = self.log.last().map_or(Lsn(1), |sent| Lsn(sent.lsn.0 + 1));
                self.plan.advance(end);
            }
            Step::Show(still_invisible) => {
                let all: Vec<u32> = self.log.iter().filter_map(|sent| sent.xid).collect();
                let mut hidden: Vec<u32> = match all.is_empty() {
                    true => Vec::new(),
                    false => still_invisible.iter().map(|index| *index.get(&all)).collect(),
                };
                // What was visible once stays so.
                hidden.retain(|xid| !self.visible.contains(xid));
                self.show(&hidden);
            }
            Step::Take(lane) => drop(self.take(lane)),
            Step::Fail(lane) if self.in_flight[lane].is_some() => {
                assert!(!self.take(lane), "the lane is busy");
            }
            Step::Done(lane, found, in_lane) => self.done(lane, found, in_lane),
            Step::Disconnect => self.disconnect(),
            _ => {}
        }
        self.check();
    }

    fn check(&mut self) {
        let confirmed = self.plan.confirmed_lsn();
        assert!(confirmed >= self.confirmed, "it has gone back");
        self.confirmed = confirmed;
        self.told = self.told.max(confirmed);
        for (at, sent) in self.log.iter().enumerate() {
            if sent.lsn > confirmed || sent.lsn <= self.told_before {
                continue;
            }
            let streamed = self.streamed.iter().find(|streamed| streamed.sent == at);
            let is_finished = streamed.is_some_and(|streamed| {
                streamed.is_closed && streamed.asks.iter().all(|ask| ask.is_done)
            });
            assert!(is_finished, "{confirmed} is too early for {sent:?}: {streamed:?}");
        }
    }

    /// When all is streamed, visible and answered, everything is confirmed.
    fn finish(mut self) {
        if self.is_open {
            self.commit();
        }
        for sent in self.resend.clone() {
            self.send_whole(sent);
        }
        self.show(&[]);
        for round in 0.. {
            assert!(round < 100, "it never ends");
            // Long enough for whatever has a pace.
            self.clock += 10;
            let mut is_busy = false;
            for lane in 0..COUNT {
                is_busy |= self.in_flight[lane].is_some() | self.take(lane);
                self.done(lane, 0, 1);
                self.check();
            }
            if !is_busy {
                break;
            }
        }
        assert!(self.plan.is_idle());
        assert!(self.told >= self.log.last().map_or(Lsn::ZERO, |sent| sent.lsn));
    }
}

fn run(broken: Option<Failpoint>, steps: Vec<Step>) {
    let mut model = Model::new(broken);
    steps.into_iter().for_each(|step| model.step(step));
    model.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_confirmed_never_goes_back_nor_past_what_is_unfinished(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        run(None, steps);
    }
}

#[test]
fn a_plan_that_is_broken_is_caught() {
    for broken in [Failpoint::MergeNewest, Failpoint::MergeInFlight] {
        let config = Config { failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let caught = TestRunner::new(config).run(&prop::collection::vec(step(), 0..150), |steps| {
            run(Some(broken), steps);
            Ok(())
        });
        let caught = caught.expect_err("nobody has noticed").to_string();
        assert!(caught.contains("is too early for"), "{broken:?}: {caught}");
    }
}
