//! Does the matcher remove what a plain evaluator with full knowledge of both rows would?
//!
//! All of it, whatever the stream leaves out; and no more, where it leaves nothing out.

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

mod evaluator;
mod stream;

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::json;

use self::evaluator::{
    Actions, Cell, Change, Check, Happening, Image, Pick, Piece, PlainRule, Wild,
};
use self::stream::{Identity, Numbers, Stream};
use super::condition::{Condition, Pattern, Test};
use super::spec::{RuleSpec, SinkSpec};
use super::{Cause, Facts, Matcher, compile};
use crate::action::Verb;
use crate::change::Op;
use crate::decode::{Event, wal2json};
use crate::glob::Glob;
use crate::problem::Text;

/// `id` is the primary key, `u` has a unique index; `n` is a numeric and `l` a list.
const COLUMNS: [&str; 7] = ["id", "u", "a", "b", "n", "l", "body"];

const WORDS: [&str; 10] = ["", "a", "A", "b", "ab", "*", "[a]", "é", "a b", "\\"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_removed_covers_what_full_knowledge_says_and_equals_it_under_full_identity(
        rule in rule(), stream in stream(), happening in happening(),
    ) {
        let (exact, coarse) = removed(&rule, &stream, &happening)?;
        let (asked, tells_all) = match happening.op {
            Op::Truncate => (Actions::new(), true),
            op => {
                let is_known = op == Op::Insert || stream.identity == Identity::Full;
                let is_printed = stream.numbers == Numbers::Quoted || !rule.looks_at("n");
                (rule.asks_for(&happening), is_known && is_printed)
            }
        };
        for action in &asked {
            prop_assert!(covers(&exact, &coarse, action), "{action:?}: {exact:?} {coarse:?}");
        }
        if tells_all {
            prop_assert_eq!(&exact, &asked);
            prop_assert!(coarse.is_empty() || happening.op == Op::Truncate, "{coarse:?}");
        }
    }

    #[test]
    fn a_truncate_removes_what_any_row_may_have_filled(
        rule in rule(), stream in stream(), old in image(), new in image(),
    ) {
        let truncate = Happening { op: Op::Truncate, old: None, new: None };
        let (exact, coarse) = removed(&rule, &stream, &truncate)?;
        prop_assert!(exact.is_empty());
        if !rule.on.contains(&Op::Truncate) {
            prop_assert!(coarse.is_empty());
            return Ok(());
        }
        for (op, old, new) in [
            (Op::Insert, None, Some(new.clone())),
            (Op::Update, Some(old.clone()), Some(new)),
            (Op::Delete, Some(old), None),
        ] {
            for action in rule.values(&Happening { op, old, new }) {
                prop_assert!(covers(&exact, &coarse, &action), "{action:?}: {coarse:?}");
            }
        }
    }
}

/// What the matcher makes of the line: exact actions, and those of the fallback.
fn removed(
    rule: &PlainRule,
    stream: &Stream,
    happening: &Happening,
) -> Result<(Actions, Actions), TestCaseError> {
    let sinks = vec![SinkSpec::redis("cache")];
    let mut problems = Vec::new();
    let rules = compile(&[spec(rule)], vec!["t".into()], sinks, &mut problems);
    prop_assert!(problems.is_empty(), "{problems:?}");
    let mut matcher = Matcher::new(Arc::new(rules));

    let mut line = stream.line(happening).into_bytes();
    let mut decoder = wal2json::Decoder::new(stream.nulls());
    let Ok(Event::Change(change)) = decoder.decode(&mut line) else { panic!("not a change") };
    let (mut exact, mut coarse) = (Actions::new(), Actions::new());
    let cause = if happening.op == Op::Truncate { Cause::Truncate } else { Cause::Absent };
    matcher.apply(&change, Facts::default(), |emission| {
        assert!(emission.fallback.is_none_or(|given| given == cause));
        let set = if emission.fallback.is_some() { &mut coarse } else { &mut exact };
        set.insert((emission.action.verb, emission.action.value.to_vec()));
    });
    Ok((exact, coarse))
}

/// Whether an action is among the exact ones or within what a coarse one reaches.
fn covers(exact: &Actions, coarse: &Actions, action: &(Verb, Vec<u8>)) -> bool {
    if exact.contains(action) || coarse.contains(action) {
        return true;
    }
    let (wide, values) = match action {
        (Verb::Delete, key) => (Verb::DeleteMatching, vec![key.clone()]),
        (Verb::DeleteMatching, pattern) => (Verb::DeleteMatching, some_matches(pattern)),
        (Verb::Bump, key) => (Verb::BumpMatching, vec![key.clone()]),
        (Verb::Tag, tag) => (Verb::TagMatching, vec![tag.clone()]),
        (verb, _) => panic!("{verb:?} is not what a rule asks for"),
    };
    let globs: Vec<Glob> = coarse
        .iter()
        .filter(|(verb, _)| *verb == wide)
        .map(|(_, pattern)| Glob::new(pattern))
        .collect();
    values.iter().all(|value| globs.iter().any(|glob| glob.matches(value)))
}

/// A few keys that a pattern of stars, escapes and plain bytes matches.
fn some_matches(pattern: &[u8]) -> Vec<Vec<u8>> {
    ["", "z", "*[a]:"]
        .map(|star| {
            let mut key = Vec::new();
            let mut bytes = pattern.iter();
            while let Some(&byte) = bytes.next() {
                match byte {
                    b'*' => key.extend_from_slice(star.as_bytes()),
                    b'\\' => key.extend(bytes.next()),
                    _ => key.push(byte),
                }
            }
            key
        })
        .to_vec()
}

/// The rule as it would be typed.
fn spec(rule: &PlainRule) -> RuleSpec {
    let typed = |value: String| Text { value, span: 0..0 };
    let condition = |(column, check): &(&str, Check)| Condition {
        column: column.as_bytes().to_vec(),
        test: test(check),
    };
    let template = |(verb, pieces): &(Verb, Vec<Piece>)| {
        (*verb, typed(pieces.iter().map(piece_text).collect()))
    };
    RuleSpec {
        tables: vec![typed("public.t".into())],
        on: Some(rule.on.clone()),
        changed: rule
            .changed
            .as_ref()
            .map(|names| names.iter().map(|name| typed((*name).into())).collect()),
        conditions: rule.conditions.iter().map(condition).collect(),
        templates: rule.templates.iter().map(template).collect(),
        ..RuleSpec::default()
    }
}

fn test(check: &Check) -> Test {
    match check {
        Check::Is(text) => Test::Equals((*text).into()),
        Check::Null => Test::Null,
        Check::Like(wilds) => {
            let wild = |wild: &Wild| match wild {
                Wild::Text(text) => *text,
                Wild::Star => "*",
                Wild::One => "?",
            };
            Test::Matches(Pattern::new(&wilds.iter().map(wild).collect::<String>()))
        }
        Check::OneOf(checks) => Test::Any(checks.iter().map(test).collect()),
        Check::Not(check) => Test::Not(Box::new(test(check))),
    }
}

fn piece_text(piece: &Piece) -> String {
    let Piece::Column { pick, name, elements, filters } = piece else {
        return match piece {
            Piece::Text(text) => (*text).to_owned(),
            _ => "{$op}".to_owned(),
        };
    };
    let pick = match pick {
        Pick::Bare => "",
        Pick::Old => "old.",
        Pick::New => "new.",
    };
    let filters: String = filters
        .iter()
        .map(|filter| match filter {
            Change::Lower => "|lower".to_owned(),
            Change::First(count) => format!("|first:{count}"),
            Change::UrlEncode => "|urlencode".to_owned(),
            Change::Default(text) => format!("|default:{text}"),
        })
        .collect();
    format!("{{{pick}{name}{}{filters}}}", if *elements { "[]" } else { "" })
}

fn rule() -> impl Strategy<Value = PlainRule> {
    let verbs = select(vec![Verb::Delete, Verb::DeleteMatching, Verb::Bump, Verb::Tag]);
    let columns = || subsequence(COLUMNS.to_vec(), 0..3);
    (
        prop_oneof![3 => Just(Op::ALL.to_vec()), 1 => subsequence(Op::ALL.to_vec(), 1..4)],
        prop::option::of(columns()),
        prop::collection::vec((select(&COLUMNS[..]), check()), 0..3),
        prop::collection::vec((verbs, template()), 1..3),
    )
        .prop_map(|(on, changed, conditions, templates)| PlainRule {
            on,
            changed,
            conditions,
            templates,
        })
}

fn check() -> impl Strategy<Value = Check> {
    let wild =
        prop_oneof![Just(Wild::Star), Just(Wild::One), select(vec!["a", "b"]).prop_map(Wild::Text)];
    let one = prop_oneof![
        select(&WORDS[..]).prop_map(Check::Is),
        select(vec!["1", "x", "5", "NaN"]).prop_map(Check::Is),
        Just(Check::Null),
        prop::collection::vec(wild, 0..3).prop_map(Check::Like),
    ];
    one.prop_recursive(2, 4, 2, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Check::OneOf),
            inner.prop_map(|check| Check::Not(Box::new(check))),
        ]
    })
}

/// One of at most one list, and of enough literal bytes for a fallback to be derived.
fn template() -> impl Strategy<Value = Vec<Piece>> {
    let filter = prop_oneof![
        Just(Change::Lower),
        Just(Change::First(1)),
        Just(Change::UrlEncode),
        Just(Change::Default("none")),
    ];
    let pick = prop_oneof![4 => Just(Pick::Bare), 1 => Just(Pick::Old), 1 => Just(Pick::New)];
    let column = (pick, select(&COLUMNS[..]), any::<bool>(), prop::collection::vec(filter, 0..3))
        .prop_map(|(pick, name, elements, filters)| Piece::Column {
            pick,
            name,
            elements: elements && name == "l",
            filters,
        });
    let piece = prop_oneof![1 => Just(Piece::Text(":")), 1 => Just(Piece::Text("*")), 1 => Just(Piece::Op), 5 => column];
    prop::collection::vec(piece, 0..4).prop_filter_map("two lists", |pieces| {
        let is_list = |piece: &&Piece| matches!(piece, Piece::Column { elements: true, .. });
        (pieces.iter().filter(is_list).count() < 2)
            .then(|| [vec![Piece::Text("Key:")], pieces].concat())
    })
}

fn stream() -> impl Strategy<Value = Stream> {
    (
        select(vec![Identity::Default, Identity::Index, Identity::Full]),
        select(vec![Numbers::Quoted, Numbers::Bare]),
        subsequence(vec!["l", "body"], 0..=2),
    )
        .prop_map(|(identity, numbers, large)| Stream { identity, numbers, large })
}

fn happening() -> impl Strategy<Value = Happening> {
    let keeps = prop::collection::vec(any::<bool>(), COLUMNS.len());
    let op = prop_oneof![2 => Just(Op::Insert), 6 => Just(Op::Update), 3 => Just(Op::Delete)];
    (op, image(), image(), keeps).prop_map(|(op, old, mut new, keeps)| {
        for (name, _) in COLUMNS.iter().zip(keeps).filter(|(_, kept)| *kept) {
            new.insert(name, old[name].clone());
        }
        let (old, new) = match op {
            Op::Insert => (None, Some(new)),
            Op::Update => (Some(old), Some(new)),
            Op::Delete | Op::Truncate => (Some(old), None),
        };
        Happening { op, old, new }
    })
}

fn image() -> impl Strategy<Value = Image> {
    let word = || prop::option::of(select(&WORDS[..]));
    (
        select(vec!["1", "2"]),
        select(vec!["x", "y"]),
        [word(), word(), word()],
        prop::option::of(select(vec!["5", "1.10", "NaN"])),
        prop::option::of((prop::collection::vec(word(), 0..3), any::<bool>())),
    )
        .prop_map(|(id, u, [a, b, body], n, l)| {
            let scalars = [Some(id), Some(u), a, b, n, None, body];
            let mut image: Image = COLUMNS.into_iter().zip(scalars.map(cell)).collect();
            image.insert("l", l.map(|(elements, is_json)| list(&elements, is_json)));
            image
        })
}

fn cell(text: Option<&str>) -> Option<Cell> {
    text.map(|text| Cell { text: text.to_owned(), elements: vec![] })
}

/// An array of Postgres or of JSON.
fn list(elements: &[Option<&str>], is_json: bool) -> Cell {
    let element = |element: &Option<&str>| match element {
        None => "NULL".to_owned(),
        Some(text) => format!("\"{}\"", text.replace('\\', r"\\")),
    };
    let text = if is_json {
        json!(elements).to_string()
    } else {
        format!("{{{}}}", elements.iter().map(element).collect::<Vec<_>>().join(","))
    };
    Cell { text, elements: elements.iter().map(|text| text.map(str::to_owned)).collect() }
}
