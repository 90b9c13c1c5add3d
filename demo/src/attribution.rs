//! By which rule did a key go? Events from Redis meet lines of the daemon's debug log.

use std::time::Instant;

use serde_json::Value;

use crate::shop;
use crate::watch::{Event, Kind};

/// One line of the daemon's log: an action that a rule asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalidation {
    rule: String,
    action: String,
    value: String,
    fallback: Option<String>,
}

/// Something that happened to a key, and why.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    pub(crate) kind: Kind,
    pub(crate) key: String,
    /// Milliseconds from the commit's reply. Negative if the key went before the reply was here.
    pub(crate) ms: f64,
    /// The rule and what it asked for; none if nothing did.
    pub(crate) cause: Option<String>,
}

impl Invalidation {
    /// Reads a line of the JSON log; `None` if it says something else.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| line.get(name)?.as_str().map(ToOwned::to_owned);
        (text("message")? == "invalidate").then_some(())?;
        Some(Invalidation {
            rule: text("rule")?,
            action: text("action")?,
            value: text("value")?,
            fallback: text("fallback"),
        })
    }

    fn explains(&self, event: &Event) -> bool {
        match (event.kind, self.action.as_str()) {
            (Kind::Gone, "delete" | "delete_matching") | (Kind::Bumped, "bump") => {
                matches(&self.value, &event.key)
            }
            (Kind::Gone, "tags") => shop::TAGGED
                .iter()
                .filter(|(tag, _)| matches(&self.value, tag))
                .any(|(_, keys)| keys.contains(&event.key.as_str())),
            _ => false,
        }
    }

    fn is_exact(&self) -> bool {
        !self.value.contains('*')
    }

    fn describe(&self) -> String {
        let Invalidation { rule, action, value, fallback } = self;
        match (fallback, action.as_str()) {
            (Some(cause), _) => format!("rule {rule}, fallback ({cause})"),
            (None, "tags") => format!("rule {rule}, tag {value}"),
            (None, _) if !self.is_exact() => format!("rule {rule}, {value}"),
            _ => format!("rule {rule}"),
        }
    }
}

/// Gives each event its cause.
pub(crate) fn attribute(
    events: &[Event],
    invalidations: &[Invalidation],
    committed: Instant,
) -> Vec<Effect> {
    let cause = |event: &Event| {
        let mut causes = invalidations.iter().filter(|line| line.explains(event));
        let first = causes.next()?;
        let exact = std::iter::once(first).chain(causes).find(|line| line.is_exact());
        Some(exact.unwrap_or(first).describe())
    };
    let effect = |event: &Event| Effect {
        kind: event.kind,
        key: event.key.clone(),
        ms: milliseconds(event.at, committed),
        cause: cause(event),
    };
    events.iter().map(effect).collect()
}

fn milliseconds(at: Instant, committed: Instant) -> f64 {
    let after = at.saturating_duration_since(committed).as_secs_f64();
    let before = committed.saturating_duration_since(at).as_secs_f64();
    (after - before) * 1000.0
}

/// Redis' `*` alone: the demo's patterns have nothing else.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, behind)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|&at| rest.is_char_boundary(at))
                .any(|at| matches(behind, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(matches("menu:*", "menu:main"));
        assert!(matches("product:*:reviews", "product:4:reviews"));
        assert!(!matches("product:*:reviews", "product:4"));
        assert!(!matches("product:1", "product:10"));
    }

    #[test]
    fn log_lines_of_other_messages_are_passed_over() {
        assert_eq!(Invalidation::parse("error: no such file"), None);
        assert_eq!(Invalidation::parse(r#"{"message":"starting","rules":4}"#), None);
        let line = r#"{"message":"invalidate","rule":"menu","action":"delete_matching",
            "value":"menu:*"}"#;
        assert_eq!(Invalidation::parse(line).unwrap().describe(), "rule menu, menu:*");
    }
}
