//! Warnings and errors that repeat themselves: the first ones of each kind are logged, the others
//! counted.
//!
//! A million changes that cannot be read are one mistake, and must fill neither the disk nor the
//! operator's screen. A kind is a place in the program.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

use crate::service::LeftOut;

/// How many lines of a kind are logged in [`WITHIN`]: an outage of every sink of a large
/// configuration is all there.
const LINES_MAX: u64 = 60;

/// How long until there may be as many again.
const WITHIN: Duration = Duration::from_secs(60);

/// What was logged of late. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub(in crate::commands) struct Repeats(Arc<Mutex<HashMap<Identifier, Kind>>>);

/// Lines of a kind.
#[derive(Debug)]
struct Kind {
    since: Instant,
    logged: u64,
    left_out: u64,
    /// The message of one that was left out.
    like: String,
}

impl Repeats {
    /// Whether a line is to be logged now; `like` is asked for its message if it is not.
    fn admits(&self, kind: Identifier, now: Instant, like: impl FnOnce() -> String) -> bool {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Kind { since: now, logged: 0, left_out: 0, like: String::new() };
        let kind = kinds.entry(kind).or_insert_with(fresh);
        if now.saturating_duration_since(kind.since) >= WITHIN {
            (kind.since, kind.logged) = (now, 0);
        }
        if kind.logged < LINES_MAX {
            kind.logged += 1;
            return true;
        }
        if kind.left_out == 0 {
            kind.like = like();
        }
        kind.left_out += 1;
        false
    }
}

impl<S: Subscriber> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let meta = event.metadata();
        // What is less important is not logged without end, or was asked for.
        *meta.level() > Level::WARN
            || self.admits(meta.callsite(), Instant::now(), || Message::of(event))
    }
}

impl LeftOut for Repeats {
    fn take(&mut self) -> Vec<(u64, String)> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = kinds.values_mut().filter(|kind| kind.left_out > 0);
        left_out.map(|kind| (std::mem::take(&mut kind.left_out), kind.like.clone())).collect()
    }
}

/// Takes the message from a line's fields.
#[derive(Default)]
struct Message(String);

impl Message {
    fn of(event: &Event<'_>) -> String {
        let mut message = Message::default();
        event.record(&mut message);
        message.0
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::prelude::*;

    use super::*;

    /// Counts what it is given.
    struct Counting(Arc<Mutex<u64>>);

    impl<S: Subscriber> tracing_subscriber::Layer<S> for Counting {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            *self.0.lock().expect("not poisoned") += 1;
        }
    }

    #[test]
    fn of_each_kind_the_first_are_logged_and_the_rest_counted() {
        let (mut repeats, count) = (Repeats::default(), Arc::new(Mutex::new(0)));
        let layer = Counting(Arc::clone(&count)).with_filter(repeats.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for number in 0..LINES_MAX + 5 {
                tracing::warn!(number, "too often {}", number / LINES_MAX);
                tracing::info!(number, "asked for");
            }
            tracing::error!("another one");
        });
        assert_eq!(*count.lock().expect("not poisoned"), 2 * LINES_MAX + 5 + 1);
        assert_eq!(repeats.take(), [(5, "too often 1".to_owned())]);
        assert!(repeats.take().is_empty());
        // After a while there may be more.
        let kinds: Vec<_> = repeats.0.lock().expect("not poisoned").keys().cloned().collect();
        for kind in kinds {
            assert!(repeats.admits(kind, Instant::now() + WITHIN, String::new));
        }
    }
}
