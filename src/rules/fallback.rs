//! Fallbacks: a rule's coarse actions, for when the exact ones cannot be known.

use std::time::Duration;

use super::rule_set::SinkId;
use super::template::{Segment, Template};
use crate::action::{Action, Verb};
use crate::glob::{self, Glob};

/// Why a fallback runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The table was truncated.
    Truncate,
    /// The stream does not carry a value that a template needs, or dropped the change.
    Absent,
    /// One transaction asked for more than `bulk_above` values.
    Bulk,
    /// A part of the log cannot be read.
    Gap,
}

impl Cause {
    /// Its name in `explain`, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Truncate => "truncate",
            Cause::Absent => "absent",
            Cause::Bulk => "bulk",
            Cause::Gap => "gap",
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

/// A coarse action that takes the place of exact ones which it reaches.
#[derive(Debug)]
pub struct Cover {
    exact: Verb,
    expire_in: Option<Duration>,
    glob: Glob,
}

impl Cover {
    /// What a coarse action reaches; `None` if it is an exact one itself.
    pub fn of(coarse: &Coarse) -> Option<Self> {
        let exact = match coarse.verb {
            Verb::DeleteMatching => Verb::Delete,
            Verb::BumpMatching => Verb::Bump,
            Verb::TagMatching => Verb::Tag,
            Verb::ExpireMatching => Verb::Expire,
            Verb::ExpireTagMatching => Verb::ExpireTag,
            _ => return None,
        };
        let action = coarse.action();
        Some(Cover { exact, expire_in: action.expire_in(), glob: Glob::new(action.shown()) })
    }

    /// Whether the coarse action does what `action` would do.
    pub fn reaches(&self, action: Action<'_>) -> bool {
        action.verb == self.exact
            && self.expire_in <= action.expire_in()
            && self.glob.matches(action.shown())
    }
}

/// How many literal bytes a template must start with for a pattern to be derived from it.
///
/// Fewer would reach keys of other programs in a shared database: `{id}` would match them all.
pub(super) const LITERAL_BYTES_MIN: usize = 3;

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
        Verb::DeleteTyped(of) => Verb::DeleteTyped(of),
        Verb::Bump | Verb::BumpMatching => Verb::BumpMatching,
        Verb::Tag | Verb::TagMatching => Verb::TagMatching,
        // One message that names them all.
        Verb::Publish => Verb::Publish,
        // What stands for purges depends on the sink: see `purges`.
        Verb::PurgeKey | Verb::PurgePath | Verb::PurgeAll | Verb::Lookup => {
            return Derived::Inexpressible;
        }
        // Rules learn of `expire_in` when all else is derived: see `expire`.
        Verb::Expire
        | Verb::ExpireMatching
        | Verb::ExpireTyped(_)
        | Verb::ExpireTag
        | Verb::ExpireTagMatching => return Derived::Inexpressible,
    };
    if literal_prefix_bytes(verb, template) < LITERAL_BYTES_MIN {
        return Derived::TooBroad;
    }
    let mut pattern = Vec::new();
    for (at, segment) in template.segments.iter().enumerate() {
        match segment {
            Segment::Literal(literal) if verb.untyped() == Verb::DeleteMatching => {
                pattern.extend_from_slice(literal);
            }
            Segment::Literal(literal) => {
                let (address, text) = literal.split_at(address_bytes(verb, at, literal));
                pattern.extend_from_slice(address);
                glob::escape(text, &mut pattern);
            }
            Segment::Placeholder(_) => push_star(&mut pattern),
        }
    }
    Derived::Action(coarse, pattern)
}

/// How many bytes stand for themselves before the first that varies.
fn literal_prefix_bytes(verb: Verb, template: &Template) -> usize {
    match template.segments.first() {
        Some(Segment::Literal(literal)) if verb.untyped() == Verb::DeleteMatching => {
            let varies = |byte: &u8| matches!(byte, b'*' | b'?' | b'[');
            literal.iter().position(varies).unwrap_or(literal.len())
        }
        Some(Segment::Literal(literal)) => literal.len() - address_bytes(verb, 0, literal),
        _ => 0,
    }
}

/// How much of a template's segment is the channel of a message, with what ends it.
fn address_bytes(verb: Verb, segment: usize, literal: &[u8]) -> usize {
    match (verb, segment) {
        (Verb::Publish, 0) => literal.iter().position(|&byte| byte == 0).map_or(0, |end| end + 1),
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

/// Whether each placeholder of a pattern stands for plain text: not in a class, where it would
/// be a set of bytes, and not behind a backslash, which would take away what protects its first
/// byte. Only then does a `*` in its place match all that it could.
pub(super) fn varies_plainly(template: &Template) -> bool {
    let mut in_class = false;
    for (at, segment) in template.segments.iter().enumerate() {
        let Segment::Literal(literal) = segment else {
            if in_class {
                return false;
            }
            continue;
        };
        let mut rest = literal.as_slice();
        while !rest.is_empty() {
            // As the server reads it: in a class the end of a range may be anything.
            rest = match rest {
                [b'\\'] => {
                    return at + 1 == template.segments.len();
                }
                [b'\\', _, tail @ ..] => tail,
                [b']', tail @ ..] if in_class => {
                    in_class = false;
                    tail
                }
                [_, b'-', _, tail @ ..] if in_class => tail,
                [b'[', b'^', tail @ ..] | [b'[', tail @ ..] if !in_class => {
                    in_class = true;
                    tail
                }
                [_, tail @ ..] => tail,
                [] => rest,
            };
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::render::{Coverage, Escape, Facts, Renderer};
    use super::*;
    use crate::decode::{Event, wal2json};
    use crate::glob::Glob;
    use crate::key_type::KeyType;

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
        let typed = Verb::DeleteTyped(KeyType::Set);
        check(typed, "list:*:{id}", action(typed, "list:*:*"));
        check(typed, "li*t:{id}", Derived::TooBroad);
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

    #[test]
    fn an_expiry_covers_those_that_leave_as_much_time_or_more() {
        let value = b"1000\0key:*".to_vec();
        let cover = Coarse { verb: Verb::ExpireMatching, value, sinks: Vec::new() };
        let cover = Cover::of(&cover).unwrap();
        let reaches = |verb, value| cover.reaches(Action { verb, value });
        assert!(reaches(Verb::Expire, b"1000\0key:1") && reaches(Verb::Expire, b"2000\0key:1"));
        assert!(!reaches(Verb::Expire, b"999\0key:1") && !reaches(Verb::Expire, b"1000\0kez:1"));
        assert!(!reaches(Verb::Delete, b"key:1") && !reaches(Verb::ExpireTag, b"1000\0key:1"));
    }

    #[test]
    fn a_placeholder_in_a_class_or_behind_a_backslash_is_no_plain_text() {
        let plain = |text| varies_plainly(&Template::parse(text).unwrap());
        for text in [
            "list:[ab]{id}",
            r"list:\[{id}",
            r"list:[\]]{id}",
            r"list:\\{id}",
            "list:{id}[",
            r"list:{id}\",
        ] {
            assert!(plain(text), "{text}");
        }
        for text in [
            "list:[{id}]",
            "list:[^{id}",
            r"list:\{id}",
            "list:[a-]{id}",
            r"list:[\]{id}",
            r"a{x}[b]\\\{id}",
        ] {
            assert!(!plain(text), "{text}");
        }
    }

    /// What a template renders for an update, or `None` if that is not known.
    fn rendered(
        template: &Template,
        escape: Escape,
        line: &serde_json::Value,
    ) -> Option<Vec<Vec<u8>>> {
        let mut line = line.to_string().into_bytes();
        let mut decoder = wal2json::Decoder::default();
        let Ok(Event::Change(change)) = decoder.decode(&mut line) else { panic!("not a change") };
        let facts = Facts { xid: Some(7), commit_lsn: Some(crate::lsn::Lsn(8)) };
        let mut values = Vec::new();
        let renderer = Renderer { change: &change, facts, escape };
        let covered =
            renderer.render(template, &mut Vec::new(), |value| values.push(value.to_vec()));
        (covered == Coverage::Exact).then_some(values)
    }

    fn template() -> impl Strategy<Value = Template> {
        const PARTS: [&str; 16] = [
            "*",
            "?",
            "[",
            "]",
            "\\",
            "-",
            "^",
            "ab",
            "{a}",
            "{old.b}",
            "{new.a|urlencode}",
            "{b|base64}",
            "{l[]}",
            "{a|first:1}",
            "{b|default:*}",
            "{$op}{$xid}",
        ];
        prop::collection::vec(prop::sample::select(&PARTS[..]), 0..7)
            .prop_filter_map("two lists", |parts| {
                Template::parse(&format!("pre{}", parts.concat())).ok()
            })
    }

    proptest! {
        #[test]
        fn a_derived_pattern_matches_every_key_that_the_template_renders(
            template in template(),
            a in r"[ab*?\[\]\\^-]{0,4}", b in r"[ab*?\[\]\\^-]{0,4}",
            keys in prop::collection::vec(r"pre[ab*?\[\]\\^-]{0,6}", 20),
        ) {
            let columns = serde_json::json!([
                {"name": "a", "value": a}, {"name": "b", "value": b},
                {"name": "l", "value": serde_json::json!([a, b]).to_string()},
            ]);
            let line = serde_json::json!({"action": "U", "schema": "s", "table": "t",
                "columns": columns, "identity": columns});
            if let Derived::Action(coarse, pattern) = derive(Verb::Delete, &template) {
                let glob = Glob::new(&pattern);
                for key in rendered(&template, Escape::Verbatim, &line).unwrap_or_default() {
                    let same = coarse == Verb::Delete && key == pattern;
                    prop_assert!(same || glob.matches(&key), "{:?} {:?}", pattern, key);
                }
            }
            if let Derived::Action(_, pattern) = derive(Verb::DeleteMatching, &template)
                && varies_plainly(&template)
            {
                let coarse = Glob::new(&pattern);
                for exact in rendered(&template, Escape::Glob, &line).unwrap_or_default() {
                    let glob = Glob::new(&exact);
                    for key in keys.iter().filter(|key| glob.matches(key.as_bytes())) {
                        prop_assert!(coarse.matches(key.as_bytes()), "{:?} {:?} {:?}", pattern, exact, key);
                    }
                }
            }
        }
    }
}
