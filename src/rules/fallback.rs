//! Fallbacks: a rule's coarse actions, for when the exact ones cannot be known.

use super::compile::SinkId;
use super::template::{Segment, Template};
use crate::action::{Action, Verb};
use crate::glob;

/// Why a fallback runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The table was truncated.
    Truncate,
    /// The stream does not carry a value that a template needs, or dropped the change.
    Absent,
}

impl Cause {
    /// Its name in `explain`, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Truncate => "truncate",
            Cause::Absent => "absent",
        }
    }
}

/// One coarse action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coarse {
    /// What to do.
    pub verb: Verb,
    /// What to do it to.
    pub value: Vec<u8>,
    /// Where.
    pub sinks: Vec<SinkId>,
}

impl Coarse {
    /// The action.
    pub fn action(&self) -> Action<'_> {
        Action { verb: self.verb, value: &self.value }
    }
}

/// How many literal bytes a template must start with for a pattern to be derived from it.
///
/// Fewer would reach keys of other programs in a shared database: `{id}` would match them all.
const LITERAL_BYTES_MIN: usize = 3;

/// What can be derived from one of a rule's templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Derived {
    /// This verb on this value.
    Action(Verb, Vec<u8>),
    /// Nothing: the template starts with too few literal bytes to be sure what would match.
    TooBroad,
    /// Nothing: the verb has no coarser form.
    Inexpressible,
}

/// Derives the coarse form of a template: itself if nothing in it varies, else the pattern with
/// `*` for each placeholder.
pub(super) fn derive(verb: Verb, template: &Template) -> Derived {
    if let Some(value) = template.as_literal() {
        return Derived::Action(verb, value.to_vec());
    }
    let coarse = match verb {
        Verb::Delete | Verb::DeleteMatching => Verb::DeleteMatching,
        Verb::Bump | Verb::BumpMatching => Verb::BumpMatching,
        Verb::Tag | Verb::TagMatching => Verb::TagMatching,
        Verb::PurgeKey | Verb::PurgePath => return Derived::Inexpressible,
    };
    if literal_prefix_bytes(verb, template) < LITERAL_BYTES_MIN {
        return Derived::TooBroad;
    }
    let mut pattern = Vec::new();
    for segment in &template.segments {
        match segment {
            Segment::Literal(literal) if verb == Verb::DeleteMatching => {
                pattern.extend_from_slice(literal);
            }
            Segment::Literal(literal) => glob::escape(literal, &mut pattern),
            Segment::Placeholder(_) => push_star(&mut pattern),
        }
    }
    Derived::Action(coarse, pattern)
}

/// How many bytes stand for themselves before the first that varies.
fn literal_prefix_bytes(verb: Verb, template: &Template) -> usize {
    match template.segments.first() {
        Some(Segment::Literal(literal)) if verb == Verb::DeleteMatching => {
            let varies = |byte: &u8| matches!(byte, b'*' | b'?' | b'[');
            literal.iter().position(varies).unwrap_or(literal.len())
        }
        Some(Segment::Literal(literal)) => literal.len(),
        _ => 0,
    }
}

/// Two stars match what one does. An escaped star is not one: it follows an odd run of backslashes.
fn push_star(pattern: &mut Vec<u8>) {
    let stem = pattern.strip_suffix(b"*");
    let is_star = stem
        .is_some_and(|stem| stem.iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 0);
    if !is_star {
        pattern.push(b'*');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(verb: Verb, template: &str, expected: Derived) {
        assert_eq!(derive(verb, &Template::parse(template).unwrap()), expected);
    }

    fn action(verb: Verb, value: &str) -> Derived {
        Derived::Action(verb, value.as_bytes().to_vec())
    }

    #[test]
    fn placeholders_become_stars_and_literals_are_escaped() {
        check(Verb::Delete, "p[1]*:{id}:{slug}", action(Verb::DeleteMatching, r"p\[1\]\*:*:*"));
        check(Verb::Delete, "abc{id}{slug}", action(Verb::DeleteMatching, "abc*"));
        check(Verb::Delete, r"abc*{id}", action(Verb::DeleteMatching, r"abc\**"));
        check(Verb::Bump, "cat:{id}:v", action(Verb::BumpMatching, "cat:*:v"));
        check(Verb::Tag, "tag{id}", action(Verb::TagMatching, "tag*"));
    }

    #[test]
    fn a_pattern_keeps_its_own_metacharacters() {
        check(Verb::DeleteMatching, "list:*:{id}", action(Verb::DeleteMatching, "list:*:*"));
        check(Verb::DeleteMatching, "list:*{id}", action(Verb::DeleteMatching, "list:*"));
        check(Verb::DeleteMatching, r"list:\*{id}", action(Verb::DeleteMatching, r"list:\**"));
        check(Verb::DeleteMatching, "li*t:{id}", Derived::TooBroad);
    }

    #[test]
    fn what_does_not_vary_runs_as_it_is() {
        check(Verb::Delete, "home", action(Verb::Delete, "home"));
        check(Verb::DeleteMatching, "*", action(Verb::DeleteMatching, "*"));
        check(Verb::Bump, "v", action(Verb::Bump, "v"));
    }

    #[test]
    fn nothing_is_derived_from_fewer_than_three_literal_bytes() {
        for template in ["{id}", "p:{id}", "{a}:product:{id}"] {
            check(Verb::Delete, template, Derived::TooBroad);
        }
        check(Verb::Delete, "pr:{id}", action(Verb::DeleteMatching, "pr:*"));
    }
}
