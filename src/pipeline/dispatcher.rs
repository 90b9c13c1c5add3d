//! The plan and the lanes that carry it out.
//!
//! It gives every idle lane what waits for it, and tells the plan what is finished. One task owns
//! it; batches travel to the lanes' drivers and back, so nothing is shared and nothing is locked.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, warn};

use super::driver::{Driver, Outcome};
use super::lane::Stage;
use super::paced::Pace;
use super::plan::{LaneId, Manner, Plan, PlannedLane, RedeletedBy, Repeats, Routes};
use super::trace::trace;
use crate::action::{Action, Batch};
use crate::failpoint::{Failpoint, Place};
use crate::metrics::{Arrivals, Counts, Tally, Why};
use crate::parked::{Parked, Record};
use crate::rules::lookup::Found;
use crate::rules::{Bulk, Coarse, Cover, Facts, Rule, RuleId, RuleSet, SinkId};
use crate::sinks::{Charges, Lane};
use crate::status::{ErrorStatus, PastError, SinkState};
use crate::tail::Tap;

/// How many waiting actions are looked at to find out which coarse one reaches most of them.
const SAMPLE: usize = 1024;

/// How many transactions' lookups are counted at most. Beyond, counting begins anew.
const BULKS_MAX: usize = 10_000;

/// How many of their values are remembered at most, but for those of the youngest transaction: its
/// rules bound them. Beyond, counting begins anew for the others.
const BULK_VALUES_MAX: usize = 500_000;

/// How much memory what is to be deleted again may take, in bytes, before fallbacks take its place:
/// some 60,000 keys for each list of times.
const REPEATS_BYTES_MAX: usize = 8 << 20;

/// A plan with lanes.
pub struct Dispatcher {
    plan: Plan,
    rules: Arc<RuleSet>,
    lanes: Vec<LaneHandle>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    done: Done,
    parked: Parked,
    /// What each transaction's lookups have asked for, by its place in the stream.
    bulks: HashMap<u64, Bulk>,
    counts: Arc<Counts>,
    tap: Tap,
    /// When what waits came.
    arrivals: Arrivals,
    /// From where on it is tried to make less of what is to be deleted again, in bytes.
    repeats_bytes_max: usize,
    /// Aborted when the dispatcher is dropped.
    _drivers: JoinSet<()>,
}

/// A lane to be driven.
pub struct LaneSpec {
    /// The sink's name.
    pub sink: String,
    /// What sends its batches.
    pub lane: Lane,
    /// When its actions run.
    pub stage: Stage,
    /// How often; `None`: as soon as it is idle.
    pub pace: Option<Pace>,
    /// For [`Stage::Purge`]: the lanes of the caches from which its edge fills.
    pub after: Vec<LaneId>,
    /// For [`Stage::Purge`]: whether its sink can purge everything, so that nothing of it needs to
    /// stop the stream.
    pub purges_all: bool,
    /// Whether what it does is done again, later.
    pub again: Option<Repeats>,
    /// Which lanes do its actions that are to be done again.
    pub redeleted_by: Vec<RedeletedBy>,
    /// The lane that does what it does once more, when repeats that are owed then are done.
    pub once_more: Option<LaneId>,
    /// For [`Stage::Purge`]: how many purges one request of its sink holds, if they are bounded.
    pub request_actions: Option<usize>,
    /// Whether it shares its bound with the lane before it: both are shards of one class.
    pub joins_pool: bool,
}

impl LaneSpec {
    /// A lane without a pace, and which comes after no single one.
    pub fn new(sink: impl Into<String>, lane: Lane, stage: Stage) -> Self {
        let (pace, after, purges_all, again) = (None, Vec::new(), false, None);
        let (sink, request_actions) = (sink.into(), None);
        let (redeleted_by, once_more) = (Vec::new(), None);
        LaneSpec {
            sink,
            lane,
            stage,
            pace,
            after,
            purges_all,
            again,
            redeleted_by,
            once_more,
            request_actions,
            joins_pool: false,
        }
    }
}

struct LaneHandle {
    sink: String,
    batches: mpsc::Sender<(Batch, usize)>,
    health: Health,
    /// What went wrong, until it works again.
    trouble: Option<Box<(SinkState, ErrorStatus)>>,
    /// What went wrong before, and is over.
    past: Option<Box<PastError>>,
    /// Its actions are dropped.
    is_off: bool,
    stage: Stage,
    /// `None`: it is no sink's.
    sink_id: Option<SinkId>,
    /// Whether it was said that the stream stops for it.
    is_stopping: bool,
    /// How many of its actions are finished.
    done: u64,
    /// A batch of which a part is done, and where to go on.
    rest: Option<(Batch, usize)>,
    /// It does again what others have done.
    repeats: bool,
    /// What its sink is charged, where it is.
    charges: Option<Arc<Charges>>,
}

/// How a lane's last attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Working,
    Failing,
}

/// What was done since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Finished actions.
    pub actions: u64,
    /// Keys and items that they asked for.
    pub requested: u64,
    /// Those of them that existed.
    pub removed: u64,
    /// Actions that were given up.
    pub rejected: u64,
}

impl Dispatcher {
    /// Starts a driver for each of `lanes`, to which `routes` must lead. Must be called within a
    /// runtime.
    pub fn new(lanes: Vec<LaneSpec>, routes: Routes, rules: Arc<RuleSet>, parked: Parked) -> Self {
        let (sender, outcomes) = mpsc::unbounded_channel();
        let mut drivers = JoinSet::new();
        let (mut handles, mut planned, mut repeating) = (Vec::new(), Vec::new(), Vec::new());
        let mut pools = Vec::new();
        for (at, spec) in lanes.into_iter().enumerate() {
            let LaneSpec { sink, lane, stage, pace, after, .. } = spec;
            let LaneSpec { purges_all, again, redeleted_by, once_more, .. } = spec;
            let joins_pool = spec.joins_pool;
            let request_actions = spec.request_actions;
            repeating.extend(once_more);
            repeating.extend(again.as_ref().map(|again| again.to));
            if joins_pool {
                join_pool(&mut pools, at);
            }
            let (batches, receiver) = mpsc::channel(1);
            let (id, outcomes) = (LaneId(at), sender.clone());
            let is_off = matches!(lane, Lane::Left);
            let (name, charges) = (sink.clone(), lane.charges());
            drivers.spawn(Driver { id, sink: name, lane, batches: receiver, outcomes }.run());
            let of_name = rules.sinks().iter().position(|known| known.name == sink);
            let sink_id = of_name.filter(|_| stage != Stage::Lookup).map(|at| SinkId(at as u32));
            handles.push(LaneHandle {
                sink,
                batches,
                health: Health::Working,
                trouble: None,
                past: None,
                is_off,
                stage,
                sink_id,
                is_stopping: false,
                done: 0,
                rest: None,
                repeats: false,
                charges,
            });
            let purge_all = sink_id.filter(|_| purges_all);
            planned.push(PlannedLane {
                stage,
                pace,
                after,
                purge_all,
                again,
                redeleted_by,
                once_more,
                request_actions,
            });
        }
        for lane in repeating {
            handles[lane.0].repeats = true;
        }
        let lookups = routes.lookups.clone();
        let mut plan = Plan::new(planned, routes);
        plan.know_pools(pools);
        plan.break_as(Failpoint::set());
        plan.know_sinks(rules.sinks().len(), served(&handles, &lookups, &rules));
        Dispatcher {
            plan,
            counts: Arc::new(Counts::new(&rules)),
            rules,
            lanes: handles,
            outcomes,
            done: Done::default(),
            parked,
            bulks: HashMap::new(),
            tap: Tap::default(),
            arrivals: Arrivals::default(),
            repeats_bytes_max: REPEATS_BYTES_MAX,
            _drivers: drivers,
        }
    }

    /// What is planned.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What is planned, for the stream and the barrier to change.
    pub fn plan_mut(&mut self) -> &mut Plan {
        self.plan.tick(now());
        &mut self.plan
    }

    /// What was done since the start.
    pub fn done(&self) -> Done {
        self.done
    }

    /// How many actions of each sink were finished since the start, in the order of the sinks.
    pub fn done_by_sink(&self) -> Vec<(&str, u64)> {
        let mut done: Vec<(&str, u64)> = Vec::new();
        for lane in self.lanes.iter().filter(|lane| lane.stage != Stage::Lookup) {
            match done.iter_mut().find(|(sink, _)| *sink == lane.sink) {
                Some((_, actions)) => *actions += lane.done,
                None => done.push((&lane.sink, lane.done)),
            }
        }
        done
    }

    /// Keeps what the stream brought and nobody can do. To be called before its transaction is
    /// confirmed.
    pub fn park(&mut self, record: &Record) {
        self.parked.park(record);
    }

    /// Gives every idle lane what waits for it. A lane with a pace gets nothing before its time, so
    /// this is to be called now and then even if nothing happens.
    pub fn dispatch(&mut self) {
        while let Some((lane, actions)) = self.plan.take_collapsed() {
            let sink = &self.lanes[lane.0].sink;
            let hint = "the WAL is held until it is done";
            warn!(sink, actions, hint, "too much waits to be purged: everything is purged instead");
        }
        self.bound_repeats();
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            if lane.stage == Stage::Lookup && !self.plan.has_room_for_answers(LaneId(at)) {
                continue;
            }
            let next = lane
                .rest
                .take()
                .or_else(|| self.plan.take(LaneId(at), now).map(|batch| (batch, 0)));
            if let Some(next) = next {
                // An idle lane's channel is empty, and its driver ends only with the dispatcher.
                let sent = lane.batches.try_send(next);
                debug_assert!(sent.is_ok(), "an idle lane takes a batch");
            }
        }
    }

    /// Gives every idle lane what waits for it, waits for the next outcome, and dispatches what it
    /// makes room for.
    ///
    /// Cancel safe: an outcome is applied at once when it is received.
    pub async fn turn(&mut self) {
        self.dispatch();
        let due = self.plan.next_repeat().map(tokio::time::Instant::from_std);
        tokio::select! {
            outcome = self.outcomes.recv() => match outcome {
                Some(outcome) => self.apply(outcome),
                // The drivers hold the other end as long as the dispatcher lives.
                None => std::future::pending().await,
            },
            () = at(due) => {}
        }
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.apply(outcome);
        }
        self.dispatch();
    }

    fn apply(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done(lane, batch, report) => {
                self.works(lane);
                self.lanes[lane.0].is_stopping = false;
                self.done.requested += report.requested;
                self.done.removed += report.removed;
                self.done.rejected += report.rejected.len() as u64;
                for rejected in &report.rejected {
                    let (sink, action) = (&self.lanes[lane.0].sink, batch.get(rejected.index));
                    self.parked.park(&Record::action(sink, &rejected.reason, action));
                }
                if !report.found.is_empty() {
                    Place::BeforeAnswer.pass();
                    self.answer(lane, &report.found);
                    Place::AfterAnswer.pass();
                }
                if let Some(rest) = report.rest {
                    self.lanes[lane.0].rest = Some((batch, rest));
                    return;
                }
                self.count(lane, &batch, &report);
                self.done.actions += batch.len() as u64;
                self.lanes[lane.0].done += batch.len() as u64;
                let is_done = |at| report.rejected.iter().all(|rejected| rejected.index != at);
                self.plan.repeat(lane, &batch, is_done, now);
                self.plan.done(lane, batch);
                if cfg!(debug_assertions) && self.is_another_sink_busy(lane) {
                    Place::BetweenSinks.pass();
                }
                if !self.bulks.is_empty() {
                    self.forget_bulks();
                }
            }
            Outcome::Failing(lane, failure) => self.failing(lane, failure),
            Outcome::Working(lane) => {
                self.lanes[lane.0].health = Health::Working;
                self.lanes[lane.0].trouble = None;
            }
        }
    }

    /// Makes room where a sink is down: what waits for it becomes coarser, as far as rules have a
    /// fallback. A sink that works is waited for instead. Purges become one of everything by
    /// themselves, unless their sink has no such thing.
    pub fn relieve(&mut self) {
        for at in 0..self.lanes.len() {
            let is_down = self.lanes[at].health == Health::Failing;
            let has_bound = matches!(self.lanes[at].stage, Stage::Remove | Stage::Purge);
            if is_down && has_bound && self.plan.is_full(LaneId(at)) {
                self.collapse(LaneId(at));
            }
        }
    }

    /// Makes what is to be deleted again coarser, where it is too much.
    fn bound_repeats(&mut self) {
        let Some(lane) = self.plan.crowded_repeats(self.repeats_bytes_max) else {
            self.repeats_bytes_max = REPEATS_BYTES_MAX;
            return;
        };
        let rules = Arc::clone(&self.rules);
        let Some(sink) = self.lanes[lane.0].sink_id else { return };
        let best = coarsest(&rules, sink, |look| self.plan.sample_repeats(lane, SAMPLE, look));
        let collapsed = best.map_or(0, |(rule, coarse, cover)| {
            let is_reached = |action: Action<'_>| cover.reaches(action);
            let action = coarse.action();
            let actions = self.plan.collapse_repeats(lane, is_reached, sink, action);
            let (sink, rule) = (&self.lanes[lane.0].sink, &rule.name);
            warn!(sink, rule, actions, "too much is to be deleted again: a fallback is instead");
            actions
        });
        if collapsed == 0 {
            // The reader stops at the bound of all that waits. Not asked again for each batch.
            self.repeats_bytes_max += REPEATS_BYTES_MAX / 8;
        }
    }

    /// Replaces the largest part of what waits for a lane that one coarse action reaches.
    fn collapse(&mut self, lane: LaneId) {
        let rules = Arc::clone(&self.rules);
        let Some(sink) = self.lanes[lane.0].sink_id else { return };
        let best = coarsest(&rules, sink, |look| self.plan.sample(lane, SAMPLE, look));
        let Some((rule, coarse, cover)) = best else {
            return self.cannot_collapse(lane, sink, &rules);
        };
        let action = coarse.action();
        let actions = self.plan.collapse(lane, |action| cover.reaches(action), sink, action);
        if let Some(at) = rules.rules().iter().position(|known| std::ptr::eq(known, rule)) {
            self.counts.fallback(RuleId(at as u32), Why::Outage);
        }
        let (sink, rule) = (&self.lanes[lane.0].sink, &rule.name);
        let hint = "the WAL is held until it is done";
        warn!(
            sink,
            rule,
            actions,
            hint,
            "the sink is down: a rule's fallback takes the place of what waits"
        );
    }

    fn cannot_collapse(&mut self, lane: LaneId, sink: SinkId, rules: &RuleSet) {
        let handle = &mut self.lanes[lane.0];
        if std::mem::replace(&mut handle.is_stopping, true) {
            return;
        }
        let needs = |rule: &&Rule| {
            rule.fallback.is_empty() && rule.steps.iter().any(|step| step.sinks.contains(&sink))
        };
        let named = rules.rules().iter().filter(needs).map(|rule| rule.name.as_str());
        let rules = named.collect::<Vec<_>>().join(", ");
        let hint = match handle.stage {
            Stage::Purge => "give the sink purge_all, or mend it",
            _ => "give these rules a fallback, or mend the sink",
        };
        error!(
            sink = handle.sink,
            rules,
            hint,
            "the sink is down, and what waits for it has no fallback: the stream stops for all sinks"
        );
    }

    fn is_another_sink_busy(&self, lane: LaneId) -> bool {
        let sink = &self.lanes[lane.0].sink;
        let mut others = self.lanes.iter().enumerate().filter(|(_, other)| other.sink != *sink);
        others.any(|(at, _)| !self.plan.is_lane_idle(LaneId(at)))
    }

    /// Hands on what lookups ask for, for the transactions that asked for them.
    fn answer(&mut self, lane: LaneId, found: &Found) {
        let Dispatcher { plan, rules, bulks, counts, tap, .. } = self;
        bulks.values_mut().for_each(Bulk::next_answer);
        let (mut last, mut tally) = (usize::MAX, Tally::default());
        found.emissions(rules, |lookup, emission| {
            let Some(order) = plan.asker(lane, lookup) else { return };
            let bulk = bulks.entry(order).or_default();
            if lookup != last {
                (last, tally) = (lookup, Tally::default());
            }
            bulk.found(rules, &emission, |emission| {
                tally.action(counts, emission);
                if tap.is_open() {
                    tap.tell(rules, emission, Facts::default(), None);
                }
                if tracing::enabled!(tracing::Level::DEBUG) {
                    trace(rules, emission, Facts::default());
                }
                let manner = Manner::of(rules, emission);
                plan.answer(lane, lookup, emission.sinks, emission.action, manner);
                Place::AmidAnswer.pass();
            });
        });
    }

    /// Forgets what was counted of transactions that are finished.
    fn forget_bulks(&mut self) {
        let oldest = self.plan.oldest();
        self.bulks.retain(|&order, _| oldest.is_some_and(|oldest| order >= oldest));
        let values: usize = self.bulks.values().map(Bulk::remembered).sum();
        if self.bulks.len() > BULKS_MAX || values > BULK_VALUES_MAX {
            let youngest = self.bulks.keys().copied().max();
            self.bulks.retain(|&order, _| Some(order) == youngest);
        }
    }

    /// Lets every lane work as fast as it can, for the end.
    pub fn hurry(&mut self) {
        self.plan.hurry();
    }

    /// Whether every lane that still has something to do is failing: waiting longer is of no use.
    pub fn is_stuck_or_idle(&self) -> bool {
        self.lanes
            .iter()
            .enumerate()
            .all(|(at, lane)| lane.health == Health::Failing || self.plan.is_lane_idle(LaneId(at)))
    }
}

/// The time, as timers count it: tests stop it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits until then; without a time, for ever.
async fn at(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Adds the lane at `at` to the pool of the lane before it.
fn join_pool(pools: &mut Vec<Range<usize>>, at: usize) {
    match pools.last_mut() {
        Some(pool) if pool.end == at => pool.end = at + 1,
        _ => pools.push(at.saturating_sub(1)..at + 1),
    }
}

/// The coarse action that reaches most of the actions of a sink that `sample` shows; `None`: none
/// reaches any.
fn coarsest(
    rules: &RuleSet,
    sink: SinkId,
    sample: impl FnOnce(&mut dyn FnMut(Action<'_>)),
) -> Option<(&Rule, &Coarse, Cover)> {
    let coarse = rules.rules().iter().flat_map(|rule| {
        let of_sink = rule.fallback.iter().filter(move |coarse| coarse.sinks.contains(&sink));
        of_sink.filter_map(move |coarse| Some((rule, coarse, Cover::of(coarse)?, 0usize)))
    });
    let mut candidates: Vec<_> = coarse.collect();
    sample(&mut |action| {
        for (_, _, cover, count) in &mut candidates {
            *count += usize::from(cover.reaches(action));
        }
    });
    let (rule, coarse, cover, count) = candidates.into_iter().max_by_key(|(.., count)| *count)?;
    (count > 0).then_some((rule, coarse, cover))
}

/// The sinks that each lane works for.
fn served(
    lanes: &[LaneHandle],
    lookups: &HashMap<RuleId, LaneId>,
    rules: &RuleSet,
) -> Vec<Vec<SinkId>> {
    let own = lanes.iter().map(|lane| lane.sink_id.into_iter().collect());
    let mut served: Vec<Vec<SinkId>> = own.collect();
    for (&rule, &lane) in lookups {
        if let Some(rule) = rules.rules().get(rule.0 as usize) {
            let steps = rule.steps.iter().flat_map(|step| &step.sinks);
            let coarse = rule.fallback.iter().flat_map(|coarse| &coarse.sinks);
            served[lane.0] = steps.chain(coarse).copied().collect();
        }
    }
    served
}

mod observe;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Verb;
    use crate::lsn::Lsn;
    use crate::pipeline::Urgency;
    use crate::rules::SinkId;
    use crate::sinks::DryRunLane;

    /// A lane of lookups, and one that removes.
    fn dispatcher() -> Dispatcher {
        let lane = |stage| {
            let lane = Lane::DryRun(DryRunLane::new("cache"));
            LaneSpec::new("cache", lane, stage)
        };
        let routes = Routes {
            actions: Box::new(|_, _, _| LaneId(1)),
            lookups: HashMap::from([(crate::rules::RuleId(0), LaneId(0))]),
        };
        let lanes = vec![lane(Stage::Lookup), lane(Stage::Remove)];
        Dispatcher::new(lanes, routes, Arc::default(), Parked::default())
    }

    #[tokio::test]
    async fn lookups_wait_for_room_for_their_answers() {
        let mut dispatcher = dispatcher();
        let plan = dispatcher.plan_mut();
        plan.begin(None);
        plan.look_up(crate::rules::RuleId(0), Action { verb: Verb::Lookup, value: b"q" });
        for key in 0..20u8 {
            let value = vec![key; 1 << 20];
            let action = Action { verb: Verb::Delete, value: &value };
            plan.push(&[SinkId(0)], action, Urgency::Prompt);
        }
        plan.commit(Lsn(1));
        dispatcher.dispatch();
        assert_eq!(dispatcher.plan().waiting(LaneId(0)), 1);
        while dispatcher.plan().waiting(LaneId(1)) > 10 {
            dispatcher.turn().await;
        }
        assert_eq!(dispatcher.plan().waiting(LaneId(0)), 0);
    }

    #[tokio::test]
    async fn what_was_counted_of_a_finished_transaction_is_forgotten() {
        let mut dispatcher = dispatcher();
        dispatcher.bulks.insert(0, Bulk::default());
        let plan = dispatcher.plan_mut();
        plan.begin(None);
        plan.push(&[SinkId(0)], Action { verb: Verb::Delete, value: b"k" }, Urgency::Prompt);
        plan.commit(Lsn(1));
        dispatcher.turn().await;
        assert!(dispatcher.bulks.is_empty());
    }

    #[tokio::test]
    async fn what_the_stream_left_behind_goes_out_when_it_is_gone() {
        let lane = Lane::DryRun(DryRunLane::new("cache"));
        let stage = Stage::Remove;
        let lane = LaneSpec::new("cache", lane, stage);
        let routes = Routes { actions: Box::new(|_, _, _| LaneId(0)), lookups: HashMap::new() };
        let mut dispatcher = Dispatcher::new(vec![lane], routes, Arc::default(), Parked::default());
        let plan = dispatcher.plan_mut();
        plan.begin(None);
        plan.push(&[SinkId(0)], Action { verb: Verb::Delete, value: b"k" }, Urgency::Prompt);
        plan.commit(Lsn(1));
        plan.disconnect();
        let turned = tokio::time::timeout(std::time::Duration::from_secs(20), dispatcher.turn());
        assert!(turned.await.is_ok(), "nothing was sent");
        assert_eq!(dispatcher.done().actions, 1);
    }
}
