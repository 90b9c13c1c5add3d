//! A line a minute for the log: what was done since the one before.

use std::collections::HashMap;
use std::time::Instant;

use tracing::info;

use crate::amount::bytes;
use crate::metrics::{Counts, Ended};
use crate::status::Published;

/// What was counted when the log was told last.
pub(super) struct Summary {
    at: Instant,
    seen: Seen,
}

/// What is counted, by the names of rules and sinks: both may change while the daemon runs.
#[derive(Default)]
struct Seen {
    /// Changes and fallbacks.
    rules: HashMap<String, [u64; 2]>,
    /// Actions done and given up.
    sinks: HashMap<String, [u64; 2]>,
}

/// What was done in between.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    changes: u64,
    fallbacks: u64,
    actions: u64,
    given_up: u64,
}

impl Summary {
    /// Nothing is counted yet.
    pub(super) fn new(now: Instant) -> Self {
        Summary { at: now, seen: Seen::default() }
    }

    /// Says what was done since it did so last; nothing, if nothing was.
    pub(super) fn tell(&mut self, now: Instant, published: &Published) {
        let seconds = now.saturating_duration_since(self.at).as_secs();
        self.at = now;
        let Some(Done { changes, fallbacks, actions, given_up }) =
            self.seen.go_on(&published.counts)
        else {
            return;
        };
        let postgres = &published.status.postgres;
        let (lag, lag_seconds) = (postgres.lag_bytes.map(bytes), postgres.lag_seconds);
        let given_up = (given_up > 0).then_some(given_up);
        info!(
            seconds,
            changes, actions, fallbacks, given_up, lag, lag_seconds, "summary of what was done"
        );
    }
}

impl Seen {
    /// What was counted since.
    fn go_on(&mut self, counts: &Counts) -> Option<Done> {
        let rules = counts.rules.iter().map(|rule| {
            let changes = rule.changes().map(|(_, count)| count).sum();
            let fallbacks = rule.fallbacks().map(|(_, count)| count).sum();
            (rule.name.clone(), [changes, fallbacks])
        });
        let sinks = counts.sinks.iter().map(|sink| {
            let ended = [Ended::Done, Ended::Parked].map(|ended| sink.actions_ended(ended));
            (sink.name.clone(), ended)
        });
        let now = Seen { rules: rules.collect(), sinks: sinks.collect() };
        let [changes, fallbacks] = more(&self.rules, &now.rules);
        let [actions, given_up] = more(&self.sinks, &now.sinks);
        *self = now;
        let done = Done { changes, fallbacks, actions, given_up };
        (done != Done::default()).then_some(done)
    }
}

fn more(before: &HashMap<String, [u64; 2]>, now: &HashMap<String, [u64; 2]>) -> [u64; 2] {
    let mut sums = [0; 2];
    for (name, counts) in now {
        let known = before.get(name).copied().unwrap_or_default();
        for ((sum, count), known) in sums.iter_mut().zip(counts).zip(known) {
            *sum += count.saturating_sub(known);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::action::{Action, Verb};
    use crate::change::Op;
    use crate::metrics::Why;
    use crate::rules::RuleId;

    fn counts(rules: &[&str]) -> Counts {
        let rule = |name: &&str| {
            format!("[[rule]]\nname = '{name}'\ntable = 's.t'\ndelete = ['key:{{id}}']\n")
        };
        let rules: String = rules.iter().map(rule).collect();
        let text =
            format!("[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n{rules}");
        Counts::new(&crate::config::parse("t", &text).unwrap().rules)
    }

    #[test]
    fn what_was_done_since_is_said_and_nothing_when_idle() {
        let (mut seen, first) = (Seen::default(), counts(&["a", "b"]));
        assert_eq!(seen.go_on(&first), None);
        first.change(RuleId(0), Op::Update);
        first.change(RuleId(1), Op::Insert);
        first.fallback(RuleId(1), Why::Outage);
        let action = Action { verb: Verb::Delete, value: b"k" };
        first.sinks[0].ended([action; 3].into_iter(), Ended::Done);
        let done = Done { changes: 2, fallbacks: 1, actions: 3, given_up: 0 };
        assert_eq!(seen.go_on(&first), Some(done));
        assert_eq!(seen.go_on(&first), None);
        // A new configuration goes on counting.
        let second = counts(&["b", "c"]);
        second.go_on_from(&first);
        second.change(RuleId(1), Op::Delete);
        assert_eq!(seen.go_on(&second), Some(Done { changes: 1, ..Done::default() }));
    }
}
