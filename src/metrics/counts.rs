//! Everything that is counted, by the place of a rule or a sink in the configuration: counting
//! looks nothing up and takes no memory.

use super::counter::{Counter, Histogram};
use crate::action::{Action, SinkKind, Verb};
use crate::change::Op;
use crate::rules::{Cause, RuleId, RuleSet, SinkId};

/// Bounds of the number of actions in a batch; a batch has 1,024 at most.
const BATCH_BOUNDS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];

/// Bounds of times, in seconds: from an idle system's to an outage's.
const SECONDS_BOUNDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];

/// What is counted since the process started, over every change of its configuration.
#[derive(Debug)]
pub struct Counts {
    /// In the order of the enabled rules.
    pub rules: Vec<RuleCounts>,
    /// In the order of the sinks.
    pub sinks: Vec<SinkCounts>,
    /// Gaps that were found.
    pub gaps: Counter,
    /// When the last heartbeat came through the stream, in seconds since 1970; zero: none did.
    pub heartbeat: Counter,
    /// How long transactions waited until others could see them, by [`Target`].
    pub barrier_wait: [Histogram; Target::ALL.len()],
}

/// What is counted for a rule.
#[derive(Debug, Default)]
pub struct RuleCounts {
    /// Its name.
    pub name: String,
    changes: [Counter; Op::ALL.len()],
    /// Before equal ones are merged.
    actions: Counter,
    fallbacks: [Counter; WHY.len()],
}

/// What is counted for a sink.
#[derive(Debug)]
pub struct SinkCounts {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    actions: [[Counter; Ended::ALL.len()]; VERBS.len()],
    /// The sizes of its batches.
    pub batch_actions: Histogram,
    /// For each batch, the time since the oldest transaction in it came through the stream.
    pub commit_to_done: Histogram,
    /// How often a batch had to be sent again.
    pub retries: Counter,
    /// How many keys its requests asked for, where it is a Redis.
    pub keys_requested: Counter,
    /// How many of them existed and were removed.
    pub keys_removed: Counter,
    /// How many paths, tags and wildcards it was charged for, where it is a CloudFront.
    pub items_charged: Counter,
}

/// Who has to show a transaction before its actions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The server that streams.
    Primary,
    /// All replicas that are waited for.
    Replicas,
}

impl Target {
    /// Each of them, in the order of their numbers.
    pub const ALL: [Target; 2] = [Target::Primary, Target::Replicas];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Target::Primary => "primary",
            Target::Replicas => "replicas",
        }
    }
}

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The sink has acknowledged it.
    Done,
    /// The sink refused it for good.
    Parked,
}

impl Ended {
    /// Each of them, in the order of their numbers.
    pub const ALL: [Ended; 2] = [Ended::Done, Ended::Parked];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Ended::Done => "done",
            Ended::Parked => "parked",
        }
    }
}

/// Why a rule's fallback ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// For what a change, a transaction or the log lacks.
    Cause(Cause),
    /// Its sink was down, and too much waited for it.
    Outage,
}

/// Each reason, in the order of their numbers.
const WHY: [Why; 5] = [
    Why::Cause(Cause::Truncate),
    Why::Cause(Cause::Absent),
    Why::Cause(Cause::Bulk),
    Why::Cause(Cause::Gap),
    Why::Outage,
];

impl Why {
    fn index(self) -> usize {
        match self {
            Why::Cause(Cause::Truncate) => 0,
            Why::Cause(Cause::Absent) => 1,
            Why::Cause(Cause::Bulk) => 2,
            Why::Cause(Cause::Gap) => 3,
            Why::Outage => 4,
        }
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Why::Cause(cause) => cause.name(),
            Why::Outage => "outage",
        }
    }
}

/// The verbs that sinks do, by the names that they have in the configuration.
const VERBS: [Verb; 8] = [
    Verb::Delete,
    Verb::DeleteMatching,
    Verb::Bump,
    Verb::Tag,
    Verb::PurgeKey,
    Verb::PurgePath,
    Verb::PurgeAll,
    Verb::Publish,
];

/// A verb's place in [`VERBS`]; a lookup is done to no sink.
fn verb_index(verb: Verb) -> Option<usize> {
    Some(match verb {
        Verb::Delete | Verb::Expire => 0,
        Verb::DeleteMatching
        | Verb::ExpireMatching
        | Verb::DeleteTyped(_)
        | Verb::ExpireTyped(_) => 1,
        Verb::Bump | Verb::BumpMatching => 2,
        Verb::Tag | Verb::TagMatching | Verb::ExpireTag | Verb::ExpireTagMatching => 3,
        Verb::PurgeKey => 4,
        Verb::PurgePath => 5,
        Verb::PurgeAll => 6,
        Verb::Publish => 7,
        Verb::Lookup => return None,
    })
}

fn op_index(op: Op) -> usize {
    match op {
        Op::Insert => 0,
        Op::Update => 1,
        Op::Delete => 2,
        Op::Truncate => 3,
    }
}

impl Counts {
    /// Nothing is counted yet.
    pub fn new(rules: &RuleSet) -> Self {
        let rule = |name: &String| RuleCounts { name: name.clone(), ..RuleCounts::default() };
        let sinks = rules.sinks().iter().map(|sink| SinkCounts::new(&sink.name, sink.kind));
        Counts {
            rules: rules.rules().iter().map(|known| rule(&known.name)).collect(),
            sinks: sinks.collect(),
            gaps: Counter::default(),
            heartbeat: Counter::default(),
            barrier_wait: Target::ALL.map(|_| Histogram::new(SECONDS_BOUNDS)),
        }
    }

    /// Goes on counting where `before` stands, for rules and sinks of the same name. Nothing may be
    /// counted there any more.
    pub fn go_on_from(&self, before: &Counts) {
        self.gaps.add(before.gaps.get());
        self.heartbeat.set(before.heartbeat.get());
        for (wait, known) in self.barrier_wait.iter().zip(&before.barrier_wait) {
            wait.go_on_from(known);
        }
        for rule in &self.rules {
            if let Some(known) = before.rules.iter().find(|known| known.name == rule.name) {
                add_all(&rule.changes, &known.changes);
                rule.actions.add(known.actions.get());
                add_all(&rule.fallbacks, &known.fallbacks);
            }
        }
        for sink in &self.sinks {
            if let Some(known) = before.sinks.iter().find(|known| known.name == sink.name) {
                sink.go_on_from(known);
            }
        }
    }

    /// A change concerns a rule.
    pub fn change(&self, rule: RuleId, op: Op) {
        if let Some(rule) = self.rules.get(rule.0 as usize) {
            rule.changes[op_index(op)].add(1);
        }
    }

    /// A rule asks for an action.
    pub fn action(&self, rule: RuleId) {
        if let Some(rule) = self.rules.get(rule.0 as usize) {
            rule.actions.add(1);
        }
    }

    /// A rule's fallback runs.
    pub fn fallback(&self, rule: RuleId, why: Why) {
        if let Some(rule) = self.rules.get(rule.0 as usize) {
            rule.fallbacks[why.index()].add(1);
        }
    }

    /// Every rule's fallback runs, as far as it has one.
    pub fn every_fallback(&self, rules: &RuleSet, cause: Cause) {
        for (counts, rule) in self.rules.iter().zip(rules.rules()) {
            if !rule.fallback.is_empty() {
                counts.fallbacks[Why::Cause(cause).index()].add(1);
            }
        }
    }

    /// What is counted for a sink.
    pub fn sink(&self, sink: SinkId) -> Option<&SinkCounts> {
        self.sinks.get(sink.0 as usize)
    }

    /// A transaction was waited for.
    pub fn waited(&self, target: Target, seconds: f64) {
        let index = usize::from(target == Target::Replicas);
        self.barrier_wait[index].observe(seconds);
    }
}

impl RuleCounts {
    /// The changes that concerned it, by operation.
    pub fn changes(&self) -> impl Iterator<Item = (Op, u64)> {
        Op::ALL.into_iter().zip(self.changes.iter().map(Counter::get))
    }

    /// The actions that it asked for, before equal ones are merged.
    pub fn actions(&self) -> u64 {
        self.actions.get()
    }

    /// How often its fallback ran, by reason.
    pub fn fallbacks(&self) -> impl Iterator<Item = (Why, u64)> {
        WHY.into_iter().zip(self.fallbacks.iter().map(Counter::get))
    }
}

impl SinkCounts {
    fn new(name: &str, kind: SinkKind) -> Self {
        SinkCounts {
            name: name.to_owned(),
            kind,
            actions: Default::default(),
            batch_actions: Histogram::new(BATCH_BOUNDS),
            commit_to_done: Histogram::new(SECONDS_BOUNDS),
            retries: Counter::default(),
            keys_requested: Counter::default(),
            keys_removed: Counter::default(),
            items_charged: Counter::default(),
        }
    }

    fn go_on_from(&self, before: &SinkCounts) {
        for (ended, known) in self.actions.iter().zip(&before.actions) {
            add_all(ended, known);
        }
        self.batch_actions.go_on_from(&before.batch_actions);
        self.commit_to_done.go_on_from(&before.commit_to_done);
        self.retries.add(before.retries.get());
        self.keys_requested.add(before.keys_requested.get());
        self.keys_removed.add(before.keys_removed.get());
        self.items_charged.add(before.items_charged.get());
    }

    /// Actions ended so. Their verbs are added up first, since a batch has few of them.
    pub fn ended<'a>(&self, actions: impl Iterator<Item = Action<'a>>, ended: Ended) {
        let mut sums = [0; VERBS.len()];
        for index in actions.filter_map(|action| verb_index(action.verb)) {
            sums[index] += 1;
        }
        for (counters, sum) in self.actions.iter().zip(sums) {
            counters[usize::from(ended == Ended::Parked)].add(sum);
        }
    }

    /// Its actions, by verb and end: for the verbs that a sink of this kind does.
    pub fn actions(&self) -> impl Iterator<Item = (&'static str, Ended, u64)> {
        let able =
            VERBS.into_iter().zip(&self.actions).filter(|(verb, _)| self.kind.supports(*verb));
        able.flat_map(|(verb, counters)| {
            let counts = Ended::ALL.into_iter().zip(counters.iter().map(Counter::get));
            counts.map(move |(ended, count)| (verb.key(), ended, count))
        })
    }

    /// How many of its actions ended.
    pub fn actions_ended(&self, ended: Ended) -> u64 {
        self.actions().filter(|(_, how, _)| *how == ended).map(|(.., count)| count).sum()
    }
}

fn add_all<const N: usize>(counters: &[Counter; N], before: &[Counter; N]) {
    for (counter, known) in counters.iter().zip(before) {
        counter.add(known.get());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    fn counts(rules: &str) -> Counts {
        let text =
            format!("[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n{rules}");
        Counts::new(&crate::config::parse("t", &text).unwrap().rules)
    }

    fn rule(name: &str) -> String {
        format!("[[rule]]\nname = '{name}'\ntable = 's.t'\ndelete = ['key:{{id}}']\n")
    }

    #[test]
    fn the_numbers_of_verbs_operations_and_reasons_are_their_places() {
        for (index, verb) in VERBS.into_iter().enumerate() {
            assert_eq!(verb_index(verb), Some(index));
        }
        for (index, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op_index(op), index);
        }
        for (index, why) in WHY.into_iter().enumerate() {
            assert_eq!(why.index(), index);
        }
    }

    #[test]
    fn counting_goes_on_by_name_when_the_configuration_changes() {
        let before = counts(&format!("{}{}", rule("a"), rule("b")));
        before.change(RuleId(1), Op::Update);
        before.action(RuleId(1));
        before.fallback(RuleId(1), Why::Outage);
        let action = Action { verb: Verb::Delete, value: b"k" };
        before.sinks[0].ended([action; 3].into_iter(), Ended::Done);
        before.gaps.add(1);
        let after = counts(&format!("{}{}", rule("b"), rule("c")));
        after.go_on_from(&before);
        let changes = |at: usize| after.rules[at].changes().map(|(_, count)| count).sum::<u64>();
        assert_eq!((changes(0), changes(1), after.gaps.get()), (1, 0, 1));
        assert_eq!(after.rules[0].fallbacks().last(), Some((Why::Outage, 1)));
        assert_eq!((after.rules[0].actions(), after.rules[1].actions()), (1, 0));
        assert_eq!(after.sinks[0].actions_ended(Ended::Done), 3);
        assert_eq!(after.sinks[0].actions_ended(Ended::Parked), 0);
    }
}
