//! Single invalidations, as they are asked for, for whoever follows them.
//!
//! Nothing is gathered while nobody listens. Who listens too slowly loses lines, and is told how
//! many; the daemon never waits.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};

use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::change::Change;
use crate::key_type::KeyType;
use crate::metrics::Counter;
use crate::rules::{Cause, Emission, Facts, RuleSet};

/// How many lines wait for a slow listener, at most.
const LINES_MAX: usize = 4096;

/// How many lines there are at most between two ticks of the daemon, half a second: it has other
/// work. A line takes about a microsecond.
const LINES_PER_TICK_MAX: u32 = 10_000;

/// How much of a value is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 512;

/// How many may listen.
pub const LISTENERS_MAX: usize = 8;

/// Where invalidations are told. Clones are of the same tap.
#[derive(Clone, Debug)]
pub struct Tap(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lines: broadcast::Sender<Arc<Line>>,
    listeners: AtomicUsize,
    /// How many lines there may be until the next tick.
    room: AtomicU32,
    /// Lines that there was no room for.
    missed: Counter,
    shows_keys: AtomicBool,
    /// Its keys are new with every process, so that nobody can look a value up by its hash.
    hasher: RandomState,
}

impl Default for Tap {
    fn default() -> Self {
        Tap(Arc::new(Inner {
            lines: broadcast::Sender::new(LINES_MAX),
            listeners: AtomicUsize::new(0),
            room: AtomicU32::new(LINES_PER_TICK_MAX),
            missed: Counter::default(),
            shows_keys: AtomicBool::new(false),
            hasher: RandomState::new(),
        }))
    }
}

/// One invalidation. Its JSON keeps the names of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Where its commit record starts; `None`: it belongs to no transaction.
    pub commit_lsn: Option<String>,
    /// The transaction.
    pub xid: Option<u32>,
    /// The rule; `None`: a message asked for it.
    pub rule: Option<String>,
    /// The table; `None`: no single change asked for it.
    pub table: Option<String>,
    /// What happened to a row.
    pub op: Option<&'static str>,
    /// The sinks.
    pub sinks: Vec<String>,
    /// The verb.
    pub action: &'static str,
    /// The value, or its hash behind a `#`.
    pub value: String,
    /// Whether the value is a hash.
    pub hashed: bool,
    /// Of which type keys have to be that match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_type: Option<&'static str>,
    /// How long keys are left instead of being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_in_ms: Option<u64>,
    /// Why it is a fallback's, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<&'static str>,
}

impl Tap {
    /// Whether anybody listens.
    pub fn is_open(&self) -> bool {
        self.0.listeners.load(Relaxed) > 0
    }

    /// Whether values are shown as they are.
    pub fn show_keys(&self, shows_keys: bool) {
        self.0.shows_keys.store(shows_keys, Relaxed);
    }

    /// A tick of the daemon: there may be more lines.
    pub fn tick(&self) {
        self.0.room.store(LINES_PER_TICK_MAX, Relaxed);
    }

    /// Tells of what a rule, or a message, asks for.
    pub fn tell(
        &self,
        rules: &RuleSet,
        emission: &Emission<'_>,
        facts: Facts,
        change: Option<&Change<'_>>,
    ) {
        let room = self.0.room.load(Relaxed);
        if room == 0 {
            return self.0.missed.add(1);
        }
        self.0.room.store(room - 1, Relaxed);
        let (value, hashed) = self.value(emission.action.shown());
        let name = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let line = Line {
            commit_lsn: facts.commit_lsn.map(|lsn| lsn.to_string()),
            xid: facts.xid,
            rule: emission.rule.map(|rule| rules.rule(rule).name.clone()),
            table: change.map(|change| format!("{}.{}", name(change.schema), name(change.table))),
            op: change.map(|change| change.op.name()),
            sinks: emission.sinks.iter().map(|&sink| rules.sink(sink).name.clone()).collect(),
            action: emission.action.verb.key(),
            value,
            hashed,
            key_type: emission.action.verb.key_type().map(KeyType::name),
            expire_in_ms: emission.action.expire_in_ms(),
            fallback: emission.fallback.map(Cause::name),
        };
        // Nobody may listen any more.
        let _ = self.0.lines.send(Arc::new(line));
    }

    fn value(&self, value: &[u8]) -> (String, bool) {
        if self.0.shows_keys.load(Relaxed) {
            let shown = &value[..value.len().min(SHOWN_BYTES_MAX)];
            let rest = if shown.len() < value.len() { "…" } else { "" };
            return (format!("{}{rest}", String::from_utf8_lossy(shown)), false);
        }
        (format!("#{:016x}", self.0.hasher.hash_one(value)), true)
    }

    /// Listens from now on; `None`: as many do as may.
    pub fn listen(&self) -> Option<Listener> {
        let room = |count: usize| (count < LISTENERS_MAX).then_some(count + 1);
        self.0.listeners.fetch_update(Relaxed, Relaxed, room).ok()?;
        let (lines, missed) = (self.0.lines.subscribe(), self.0.missed.get());
        Some(Listener { lines, missed, tap: self.clone() })
    }
}

/// Somebody who listens, until it is dropped.
#[derive(Debug)]
pub struct Listener {
    lines: broadcast::Receiver<Arc<Line>>,
    /// What the tap had no room for, as far as this one knows.
    missed: u64,
    tap: Tap,
}

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// One invalidation.
    Line(Arc<Line>),
    /// So many were lost.
    Missed(u64),
}

impl Listener {
    /// The next one; `None` if the daemon has ended. Cancel safe.
    pub async fn hear(&mut self) -> Option<Heard> {
        if let Some(lost) = self.lost() {
            return Some(Heard::Missed(lost));
        }
        match self.lines.recv().await {
            Ok(line) => Some(Heard::Line(line)),
            Err(RecvError::Lagged(lost)) => Some(Heard::Missed(lost)),
            Err(RecvError::Closed) => None,
        }
    }

    /// How many lines the tap has had no room for since this was asked last, if any. The last of
    /// them is followed by none from which one would hear of it.
    pub fn lost(&mut self) -> Option<u64> {
        let missed = self.tap.0.missed.get();
        let lost = missed - std::mem::replace(&mut self.missed, missed);
        (lost > 0).then_some(lost)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tap.0.listeners.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::action::{Action, Verb};

    fn tell(tap: &Tap, value: &[u8]) {
        let action = Action { verb: Verb::Delete, value };
        let emission = Emission { rule: None, sinks: &[], action, fallback: None };
        tap.tell(&RuleSet::default(), &emission, Facts::default(), None);
    }

    async fn value(listener: &mut Listener) -> String {
        match listener.hear().await.unwrap() {
            Heard::Line(line) => line.value.clone(),
            Heard::Missed(lost) => format!("missed {lost}"),
        }
    }

    #[tokio::test]
    async fn values_are_hashed_unless_they_are_to_be_shown() {
        let tap = Tap::default();
        assert!(!tap.is_open());
        let mut listener = tap.listen().unwrap();
        assert!(tap.is_open());
        tell(&tap, b"secret:1");
        tell(&tap, b"secret:1");
        tell(&tap, b"secret:2");
        let heard = [value(&mut listener).await, value(&mut listener).await];
        assert!(heard[0].starts_with('#') && !heard[0].contains("secret"), "{heard:?}");
        assert_eq!(heard[0], heard[1]);
        assert_ne!(value(&mut listener).await, heard[0]);
        tap.show_keys(true);
        tell(&tap, &[b'x'; 2 * SHOWN_BYTES_MAX]);
        assert_eq!(value(&mut listener).await, "x".repeat(SHOWN_BYTES_MAX) + "…");
        drop(listener);
        assert!(!tap.is_open());
    }

    #[tokio::test]
    async fn a_slow_listener_loses_lines_and_hears_how_many() {
        let tap = Tap::default();
        let mut listener = tap.listen().unwrap();
        for _ in 0..LINES_MAX + 5 {
            tell(&tap, b"k");
        }
        assert_eq!(listener.hear().await, Some(Heard::Missed(5)));
        for _ in 0..2 * LINES_PER_TICK_MAX {
            tell(&tap, b"k");
        }
        let lost = LINES_MAX as u32 + 5 + 2 * LINES_PER_TICK_MAX - LINES_PER_TICK_MAX;
        assert_eq!(listener.hear().await, Some(Heard::Missed(u64::from(lost))));
        tap.tick();
        tell(&tap, b"last");
        while let Some(Heard::Missed(_)) = listener.hear().await {}
    }

    #[test]
    fn only_so_many_listen() {
        let tap = Tap::default();
        let listeners: Vec<_> = (0..LISTENERS_MAX).map_while(|_| tap.listen()).collect();
        assert!(listeners.len() == LISTENERS_MAX && tap.listen().is_none());
        drop(listeners);
        assert!(tap.listen().is_some());
    }
}
