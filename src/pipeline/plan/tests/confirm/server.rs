//! A server that sends again what is not confirmed, lanes that fail, and the ledger of both.

use std::collections::HashSet;

use super::ledger::{Ask, Sent, Streamed};
use super::*;

/// The server, the stream, the plan and its lanes, and the ledger of them.
pub(super) struct Model {
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
    /// How often the stream broke off.
    streams: u8,
    /// What the server was told in any stream, and in this one.
    told: Lsn,
    confirmed: Lsn,
    told_before: Lsn,
}

impl Model {
    pub(super) fn new(broken: Option<Failpoint>, few: usize) -> Self {
        let mut plan = plan(few);
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
            streams: 0,
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
        let (is_closed, whose, asks) = (false, [sent as u8, self.streams], Vec::new());
        self.streamed.push(Streamed { sent, is_closed, is_hidden, whose, asks });
        self.is_open = true;
        for (lane, key) in self.log[sent].asked.clone() {
            self.ask(lane, key);
        }
    }

    fn ask(&mut self, lane: usize, key: u8) {
        let streamed = self.streamed.last_mut().unwrap();
        ask(&mut self.plan, lane, key, streamed.whose);
        let is_first = before(lane).is_empty();
        let entered = (is_first && !streamed.is_hidden).then_some(self.clock);
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
                for ask in streamed.asks.iter_mut().filter(|ask| before(ask.lane).is_empty()) {
                    ask.entered = Some(self.clock);
                }
            }
        }
    }

    fn take(&mut self, lane: usize) -> bool {
        let now = self.start + Duration::from_secs(self.clock);
        self.streamed.iter_mut().for_each(|streamed| streamed.settle(self.clock));
        let Some(batch) = self.plan.take(LaneId(lane), || now) else { return false };
        self.check_order(lane, &batch);
        assert!(self.in_flight[lane].is_none(), "one batch in flight");
        self.in_flight[lane] = Some((batch, self.clock));
        true
    }

    /// Whatever comes afterwards is due for somebody. What an earlier stream has left is not known
    /// any more.
    fn check_order(&self, lane: usize, batch: &Batch) {
        if before(lane).is_empty() || self.streams > 0 {
            return;
        }
        for action in batch.iter() {
            let mut one = Batch::default();
            one.push(action);
            let is_due = self.streamed.iter().any(|streamed| {
                let is_due = |ask: &Ask| ask.is_reached_by(lane, &one, self.clock, streamed.whose);
                streamed.asks.iter().any(is_due)
            });
            assert!(is_due, "{one:?} of lane {lane} runs early: {:?}", self.streamed);
        }
    }

    fn done(&mut self, lane: usize, found: u8, in_lane: usize) {
        let Some((batch, since)) = self.in_flight[lane].take() else { return };
        let clock = self.clock;
        if lane == LOOKUP {
            for (index, lookup) in batch.iter().enumerate() {
                let is_shared = lookup.value.len() == 1;
                let in_lane = if is_shared { in_lane.min(PACED) } else { in_lane };
                let Some((sink, verb, urgency)) = asked(in_lane, found) else { continue };
                let value = value(verb, found, [0; 2]);
                let action = Action { verb, value: &value };
                self.plan.answer(LaneId(lane), index, &[sink], action, urgency);
                let mut one = Batch::default();
                one.push(lookup);
                for streamed in &mut self.streamed {
                    let Streamed { asks, whose, .. } = streamed;
                    let is_asked = |ask: &&Ask| ask.is_done_by(lane, &one, since, *whose);
                    let answers = asks.iter().filter(is_asked).count();
                    let entered = before(in_lane).is_empty().then_some(clock);
                    let answer = || Ask { lane: in_lane, key: found, entered, is_done: false };
                    asks.extend((0..answers).map(|_| answer()));
                }
            }
        }
        for Streamed { asks, whose, .. } in &mut self.streamed {
            let is_done = |ask: &&mut Ask| ask.is_done_by(lane, &batch, since, *whose);
            asks.iter_mut().filter(is_done).for_each(|ask| ask.is_done = true);
        }
        self.plan.done(LaneId(lane), batch);
    }

    /// What waits for the first cache becomes one action of the second one's lane.
    fn collapse(&mut self) {
        let coarse = Action { verb: Verb::DeleteMatching, value: &[b'0' + COARSE_KEY] };
        self.plan.collapse(LaneId(1), |_| true, SinkId(2), coarse);
        let in_flight = self.in_flight[1].as_ref();
        for Streamed { asks, whose, .. } in &mut self.streamed {
            for ask in asks.iter_mut().filter(|ask| ask.lane == 1 && !ask.is_done) {
                let is_sent = in_flight
                    .is_some_and(|(batch, since)| ask.is_done_by(1, batch, *since, *whose));
                if ask.entered.is_some() && !is_sent {
                    *ask =
                        Ask { lane: 2, key: COARSE_KEY, entered: Some(self.clock), is_done: false };
                }
            }
        }
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
        self.streams += 1;
        self.is_open = false;
        self.confirmed = Lsn::ZERO;
        self.told_before = self.told;
    }

    pub(super) fn step(&mut self, step: Step) {
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
                ask(&mut self.plan, 1, key, [0; 2]);
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
            Step::Collapse => self.collapse(),
            Step::Disconnect => self.disconnect(),
            _ => {}
        }
        self.check();
    }

    fn check(&mut self) {
        assert!(self.plan.has_room(), "it stops the reader");
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
    pub(super) fn finish(mut self) {
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
