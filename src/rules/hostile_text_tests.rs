//! Text from rows is data: whatever it holds, an action has no more keys, path segments and
//! pattern characters than its template.

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;

use super::spec::{FallbackSpec, RuleSpec};
use super::{Facts, Matcher, compile};
use crate::action::Verb;
use crate::change::{Change, Field, FieldValue, Op, Row};
use crate::glob::Glob;
use crate::problem::Text;

/// What a value may hold that means something elsewhere, to a server, a client or ourselves.
const FRAGMENTS: [&[u8]; 28] = [
    b"a",
    b"b",
    b"-",
    b"^",
    b" ",
    b"\n",
    b"\r\n",
    b"\t",
    b"\0",
    b"*",
    b"?",
    b"[",
    b"]",
    b"[^a]",
    b"\\",
    b"{}",
    b"{a}",
    b"{{",
    b"/",
    b"..",
    b"#",
    b",",
    b";",
    b"\"",
    b"%2F",
    b"\xff",
    b"\xc3(",
    "é".as_bytes(),
];

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(select(&FRAGMENTS[..]), 0..6).prop_map(|parts| parts.concat())
}

/// What a rule asks for when a row is inserted whose columns are called `a`, `b`, and so on.
fn values(verb: Verb, template: &str, row: &[&[u8]]) -> Vec<Vec<u8>> {
    let typed = |text: &str| Text { value: text.to_owned(), span: 0..0 };
    let spec = RuleSpec {
        tables: vec![typed("public.t")],
        templates: vec![(verb, typed(template))],
        fallback: FallbackSpec::None,
        ..RuleSpec::default()
    };
    let mut problems = Vec::new();
    // Without sinks, nobody complains that there is none for paths.
    let rules = compile(&[spec], vec!["t".into()], vec![], &mut problems);
    assert!(problems.is_empty(), "{template}: {problems:?}");

    let (mut line, mut fields) = (Vec::new(), Vec::new());
    for (name, value) in (b'a'..).zip(row) {
        let start = line.len() as u32;
        line.push(name);
        line.extend_from_slice(value);
        let value = FieldValue::Text(start + 1..line.len() as u32);
        fields.push(Field { name: start..start + 1, value });
    }
    let new = Row::new(&line, &fields);
    let change = Change { op: Op::Insert, schema: b"public", table: b"t", new, old: Row::EMPTY };
    let mut values = Vec::new();
    Matcher::new(Arc::new(rules)).apply(&change, Facts::default(), |emission| {
        assert_eq!(emission.action.verb, verb);
        values.push(emission.action.value.to_vec());
    });
    values
}

/// A Postgres array of these elements.
fn array(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut array = b"{".to_vec();
    for (at, element) in elements.iter().enumerate() {
        array.extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
        for &byte in element {
            if matches!(byte, b'"' | b'\\') {
                array.push(b'\\');
            }
            array.push(byte);
        }
        array.push(b'"');
    }
    array.push(b'}');
    array
}

/// One sign of a pattern.
#[derive(Clone, Debug)]
enum Sign {
    Byte(u8),
    Escaped(u8),
    Star,
    One,
    /// `[…]`, and what it matches.
    Class(&'static str, fn(u8) -> bool),
    /// A placeholder for column `a` or `b`.
    Column(usize),
}

fn sign() -> impl Strategy<Value = Sign> {
    prop_oneof![
        select(b"ab:-^].,#".to_vec()).prop_map(Sign::Byte),
        select(b"ab*?[]\\-^".to_vec()).prop_map(Sign::Escaped),
        Just(Sign::Star),
        Just(Sign::One),
        Just(Sign::Class("[ab]", |byte| matches!(byte, b'a' | b'b'))),
        Just(Sign::Class("[^ab]", |byte| !matches!(byte, b'a' | b'b'))),
        Just(Sign::Class(r"[\]*-.]", |byte| matches!(byte, b']' | b'*'..=b'.'))),
        (0..2usize).prop_map(Sign::Column),
        (0..2usize).prop_map(Sign::Column),
    ]
}

/// The template that is typed for a pattern.
fn pattern_template(signs: &[Sign]) -> String {
    let typed = |sign: &Sign| match sign {
        Sign::Byte(byte) => char::from(*byte).to_string(),
        Sign::Escaped(byte) => format!("\\{}", char::from(*byte)),
        Sign::Star => "*".to_owned(),
        Sign::One => "?".to_owned(),
        Sign::Class(text, _) => (*text).to_owned(),
        Sign::Column(column) => format!("{{{}}}", ["a", "b"][*column]),
    };
    signs.iter().map(typed).collect()
}

/// Whether the signs match a key, where a column is its text and nothing else.
fn matches(signs: &[Sign], row: &[Vec<u8>; 2], key: &[u8]) -> bool {
    let Some((first, rest)) = signs.split_first() else { return key.is_empty() };
    let one = |is_meant: &dyn Fn(u8) -> bool| {
        key.split_first().is_some_and(|(&byte, tail)| is_meant(byte) && matches(rest, row, tail))
    };
    match first {
        Sign::Byte(meant) | Sign::Escaped(meant) => one(&|byte| byte == *meant),
        Sign::One => one(&|_| true),
        Sign::Class(_, is_meant) => one(is_meant),
        Sign::Star => (0..=key.len()).any(|from| matches(rest, row, &key[from..])),
        Sign::Column(column) => {
            key.strip_prefix(row[*column].as_slice()).is_some_and(|tail| matches(rest, row, tail))
        }
    }
}

/// A key that the signs match, unless a fill is odd: then one that they may not match.
fn key(signs: &[Sign], row: &[Vec<u8>; 2], fills: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let mut key = Vec::new();
    for (sign, (fill, is_odd)) in signs.iter().zip(fills) {
        match sign {
            Sign::Byte(byte) | Sign::Escaped(byte) if !is_odd => key.push(*byte),
            Sign::Column(column) if !is_odd => key.extend_from_slice(&row[*column]),
            Sign::One | Sign::Class(..) => key.push(fill.first().copied().unwrap_or(b'a')),
            _ => key.extend_from_slice(fill),
        }
    }
    key
}

/// How many stars, question marks and classes a pattern has, as a server would read it.
fn wildcards(pattern: &[u8]) -> usize {
    let (mut count, mut at) = (0, 0);
    while at < pattern.len() {
        match pattern[at] {
            b'\\' => at += 1,
            b'*' | b'?' => count += 1,
            b'[' => {
                count += 1;
                while pattern[at] != b']' {
                    at += if pattern[at] == b'\\' { 2 } else { 1 };
                }
            }
            _ => {}
        }
        at += 1;
    }
    count
}

/// Whether RFC 3986 takes a byte for plain text anywhere in a path, or for the sign of an
/// encoded byte.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%')
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn a_row_gives_one_value_that_holds_its_text_as_it_is(
        verb in select(vec![Verb::Delete, Verb::Bump, Verb::Tag, Verb::PurgeKey]),
        a in text(), b in text(), before in "[a:/#*, ]{0,4}", between in "[a:/#*, ]{0,4}",
    ) {
        let rendered = values(verb, &format!("{before}{{a}}{between}{{b}}"), &[&a, &b]);
        let expected = [before.as_bytes(), &a, between.as_bytes(), &b].concat();
        prop_assert_eq!(rendered, [expected]);
    }

    #[test]
    fn a_list_gives_one_value_for_each_element(
        verb in select(vec![Verb::Delete, Verb::Bump, Verb::Tag, Verb::PurgeKey]),
        elements in prop::collection::vec(text(), 0..4),
    ) {
        let rendered = values(verb, "k:{a[]}", &[&array(&elements)]);
        let expected: BTreeSet<_> =
            elements.iter().map(|element| [b"k:", element.as_slice()].concat()).collect();
        prop_assert_eq!(rendered.len(), expected.len());
        prop_assert_eq!(BTreeSet::from_iter(rendered), expected);
    }

    #[test]
    fn a_rows_text_stands_for_itself_in_a_pattern(
        signs in prop::collection::vec(sign(), 1..7), row in [text(), text()],
        fills in prop::collection::vec(
            prop::collection::vec((text(), prop::bool::weighted(0.1)), 7), 6),
    ) {
        let signs = [vec![Sign::Byte(b'k')], signs].concat();
        let template = pattern_template(&signs);
        let rendered = values(Verb::DeleteMatching, &template, &[&row[0], &row[1]]);
        prop_assert_eq!(rendered.len(), 1);

        let is_wildcard = |sign: &&Sign| matches!(sign, Sign::Star | Sign::One | Sign::Class(..));
        let typed = signs.iter().filter(is_wildcard).count();
        prop_assert_eq!(wildcards(&rendered[0]), typed, "{}", rendered[0].escape_ascii());
        let glob = Glob::new(&rendered[0]);
        for fills in fills {
            let key = [b"k".to_vec(), key(&signs[1..], &row, &fills)].concat();
            prop_assert_eq!(
                glob.matches(&key), matches(&signs, &row, &key),
                "{} {} {}", template, rendered[0].escape_ascii(), key.escape_ascii()
            );
        }
    }

    #[test]
    fn a_rows_text_stays_within_its_segment_of_a_path(
        a in text(), b in text(),
        filters in prop::collection::vec(
            select(vec!["lower", "upper", "trim", "first:3", "urlencode", "path", "base64"]), 0..4),
        before in "(/[a-z?]{0,2}){1,3}", between in "[a-z/?]{0,4}",
    ) {
        let chain: String = filters.iter().map(|filter| format!("|{filter}")).collect();
        let rendered =
            values(Verb::PurgePath, &format!("{before}{{a{chain}}}{between}{{b}}"), &[&a, &b]);
        prop_assert_eq!(rendered.len(), 1);
        let typed = before + &between;
        for byte in (0..=u8::MAX).filter(|&byte| !is_plain(byte)) {
            if byte == b'/' && filters.contains(&"path") {
                continue;
            }
            let count = |text: &[u8]| text.iter().filter(|&&other| other == byte).count();
            prop_assert_eq!(
                count(&rendered[0]), count(typed.as_bytes()), "{}", rendered[0].escape_ascii()
            );
        }
    }

    #[test]
    fn a_list_in_a_path_gives_one_path_for_each_element(
        elements in prop::collection::vec(text(), 1..4),
    ) {
        let rendered = values(Verb::PurgePath, "/l/{a[]}/*", &[&array(&elements)]);
        prop_assert_eq!(rendered.len(), BTreeSet::from_iter(&elements).len());
        for path in rendered {
            prop_assert_eq!(path.iter().filter(|&&byte| byte == b'/').count(), 3);
            prop_assert_eq!(path.iter().filter(|&&byte| byte == b'*').count(), 1);
        }
    }
}
