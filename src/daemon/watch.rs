//! The fallbacks at the start of a new slot's stream: when have they removed everything that came
//! before it?
//!
//! A transaction that was committed before the stream's start may not be visible yet, and a reader
//! could put its old row back. So they run once more when every transaction has ended that was open
//! after the start, unless the stream itself has brought it.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::config::Visibility;
use crate::pipeline::{Plan, Urgency, trace};
use crate::rules::{Cause, Facts, RuleSet};
use crate::snapshot::Snapshot;

/// How long transactions may stay open before that is said.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far they are.
pub(super) struct Watch {
    state: State,
    said_at: Instant,
    /// Nothing is done before.
    rests_until: Option<Instant>,
}

enum State {
    /// It is not known which transactions are open.
    Asking,
    /// These may have been committed before the start.
    Open(Vec<u32>),
    /// They run for the last time, before this place in the stream.
    Running(u64),
}

/// Runs every rule's fallback, as a transaction of its own that nothing after it is confirmed
/// before.
pub(super) fn run_fallbacks(rules: &RuleSet, plan: &mut Plan) {
    plan.begin(None);
    rules.all_fallbacks(Cause::Gap, |emission| {
        if tracing::enabled!(tracing::Level::DEBUG) {
            trace(rules, &emission, Facts::default());
        }
        plan.push(emission.sinks, emission.action, Urgency::Prompt);
    });
    // It has no position of its own.
    plan.commit(crate::lsn::Lsn::ZERO);
}

impl Watch {
    /// The stream has started.
    pub(super) fn new(visibility: Visibility, rules: &RuleSet, plan: &mut Plan) -> Self {
        let state = match visibility {
            Visibility::Wait => State::Asking,
            Visibility::Skip => Self::run(rules, plan),
        };
        Watch { state, said_at: Instant::now(), rests_until: None }
    }

    fn run(rules: &RuleSet, plan: &mut Plan) -> State {
        run_fallbacks(rules, plan);
        State::Running(plan.next_order())
    }

    /// Whether a snapshot is needed.
    pub(super) fn wants_snapshot(&self) -> bool {
        !matches!(self.state, State::Running(_))
    }

    /// Takes what other sessions can see.
    pub(super) fn show(&mut self, snapshot: &Snapshot, rules: &RuleSet, plan: &mut Plan) {
        self.state = match std::mem::replace(&mut self.state, State::Asking) {
            State::Asking => {
                let open: Vec<u32> = snapshot.in_progress().collect();
                match Self::run(rules, plan) {
                    running if open.is_empty() => running,
                    _ => State::Open(open),
                }
            }
            State::Open(mut open) => {
                open.retain(|&xid| !snapshot.shows(xid));
                if open.is_empty() { Self::run(rules, plan) } else { self.wait_for(open) }
            }
            running => running,
        };
    }

    fn wait_for(&mut self, open: Vec<u32>) -> State {
        if self.said_at.elapsed() > PATIENCE {
            self.said_at = Instant::now() + 5 * PATIENCE;
            warn!(
                open = open.len(),
                xid = open[0],
                hint = "SELECT pid, backend_xid, xact_start FROM pg_stat_activity WHERE backend_xid \
                        IS NOT NULL; SELECT * FROM pg_prepared_xacts;",
                "the new slot stays temporary until transactions end that were open at its start"
            );
        }
        State::Open(open)
    }

    /// The stream has brought a transaction: it was not committed before the start.
    pub(super) fn streamed(&mut self, xid: u32) {
        if let State::Open(open) = &mut self.state {
            open.retain(|&other| other != xid);
        }
    }

    /// Does not tell the end for so long.
    pub(super) fn rest(&mut self, wait: Duration) {
        self.rests_until = Some(Instant::now() + wait);
    }

    /// Whether everything is done.
    pub(super) fn is_done(&self, plan: &Plan) -> bool {
        if self.rests_until.is_some_and(|until| until > Instant::now()) {
            return false;
        }
        match self.state {
            State::Running(order) => plan.oldest().is_none_or(|oldest| oldest >= order),
            _ => false,
        }
    }
}
