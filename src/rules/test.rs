//! Tests that stand beside a rule's definition: does the rule make of one change what is expected?
//!
//! In: a rule as typed, and its [`RuleTest`]s. Out: for each test the [`Line`]s in which what came
//! out differs from what was expected. The rule is compiled alone and matched by the real
//! [`Matcher`], so that a test can say nothing that the daemon would not do. Pure: no I/O, no
//! clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::compile::compile;
use super::fallback::Cause;
use super::lookup::{Answer, Found, Input};
use super::matcher::{Emission, Matcher};
use super::render::Facts;
use super::rule_set::{RuleId, RuleSet};
use super::spec::{RuleSpec, SinkSpec};
use crate::action::{Action, Verb};
use crate::change::{Change, Field, FieldValue, Op, Row};
use crate::lsn::Lsn;
use crate::problem::Span;

/// One `[[rule.test]]`: a change and what the rule has to make of it.
#[derive(Clone, Debug)]
pub struct RuleTest {
    /// The `[[rule.test]]` header.
    pub span: Span,
    /// `name`.
    pub name: Option<String>,
    /// `op`.
    pub op: Op,
    /// The schema of `table`, or of the rule's first one.
    pub schema: Vec<u8>,
    /// The name of that table.
    pub table: Vec<u8>,
    /// `old`: what the stream carries of the old row.
    pub old: TestRow,
    /// `new`: what it carries of the new row.
    pub new: TestRow,
    /// `lookup`: the rows that the rule's query gives.
    pub lookup: Vec<TestRow>,
    /// `expect`, as typed: repetitions and order mean nothing.
    pub expect: Vec<Outcome>,
    /// `expect_fallback`.
    pub expect_fallback: bool,
}

/// The columns of a row; `None` is NULL, and a column that is not listed is absent.
pub type TestRow = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// An action, as far as a test tells actions apart: by the verb's key and the value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// The verb's key in the configuration.
    pub key: &'static str,
    /// What it is done to.
    pub value: Vec<u8>,
}

impl Outcome {
    /// What asks for an action.
    pub fn new(action: Action<'_>) -> Self {
        Outcome { key: action.verb.key(), value: action.shown().to_vec() }
    }
}

/// As a test's `expect` writes it.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, String::from_utf8_lossy(&self.value))
    }
}

/// One line of the comparison of what was expected with what came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// It was expected and came out.
    Same(Outcome),
    /// It was expected and did not come out.
    Missing(Outcome),
    /// It came out and was not expected.
    Extra(Outcome),
    /// It came out of a fallback, and no fallback was expected.
    ExtraFallback(Outcome, Cause),
    /// A fallback was expected and none ran.
    NoFallback,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Same(outcome) => write!(f, "  {outcome}"),
            Line::Missing(outcome) => write!(f, "- {outcome}"),
            Line::Extra(outcome) => write!(f, "+ {outcome}"),
            Line::ExtraFallback(outcome, cause) => {
                write!(f, "+ {outcome} (fallback: {})", cause.name())
            }
            Line::NoFallback => f.write_str("- a fallback"),
        }
    }
}

/// What `{$xid}` and `{$commit_lsn}` are in a test: fixed, so that they can be expected.
const FACTS: Facts = Facts { xid: Some(1), commit_lsn: Some(Lsn(1)) };

/// Runs every test of a rule, which need not be enabled. For each in order: nothing if it passes,
/// else the whole comparison.
///
/// The rule must have been compiled without problems.
pub fn run_tests(spec: &RuleSpec, sinks: &[SinkSpec]) -> Vec<Option<Vec<Line>>> {
    if spec.tests.is_empty() {
        return Vec::new();
    }
    let alone = RuleSpec { enabled: true, ..spec.clone() };
    // Nobody sees the name: a test's lines belong to the one rule.
    let names = vec![String::new()];
    let rules = Arc::new(compile(&[alone], names, sinks.to_vec(), &mut Vec::new()));
    let mut matcher = Matcher::new(rules);
    let fails = |lines: &Vec<Line>| lines.iter().any(|line| !matches!(line, Line::Same(_)));
    let verdict = |test| Some(compare(test, &apply(&mut matcher, test))).filter(fails);
    spec.tests.iter().map(verdict).collect()
}

/// What came out for one change, each once.
#[derive(Debug, Default)]
struct Got {
    exact: BTreeSet<Outcome>,
    coarse: BTreeMap<Outcome, Cause>,
}

fn apply(matcher: &mut Matcher, test: &RuleTest) -> Got {
    let (old, new) = (Image::new(&test.old), Image::new(&test.new));
    let change = Change {
        op: test.op,
        schema: &test.schema,
        table: &test.table,
        new: Row::new(&new.line, &new.fields),
        old: Row::new(&old.line, &old.fields),
    };
    let mut got = Got::default();
    let rules = Arc::clone(matcher.rules());
    let mut found = Found::default();
    matcher.apply(&change, FACTS, |emission| match emission.action.verb {
        Verb::Lookup => answer(&rules, test, emission.action.value, &mut found),
        _ => got.add(&emission),
    });
    found.emissions(&rules, |_, emission| got.add(&emission));
    got
}

impl Got {
    fn add(&mut self, emission: &Emission<'_>) {
        let outcome = Outcome::new(emission.action);
        match emission.fallback {
            None => {
                self.exact.insert(outcome);
            }
            Some(cause) => {
                self.coarse.insert(outcome, cause);
            }
        }
    }
}

/// Answers a lookup with the test's rows, as the database would.
fn answer(rules: &RuleSet, test: &RuleTest, lookup: &[u8], found: &mut Found) {
    let Some(input) = Input::read(lookup) else { return };
    let mut memory = Answer::default();
    for row in &test.lookup {
        let names: Vec<_> = row.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
        let values = row.iter().map(|(_, value)| value.as_deref());
        let columns = names.iter().map(AsRef::as_ref).zip(values);
        found.add_row(rules, RuleId(0), (0, input), columns, &mut memory);
    }
}

/// A row as a decoder would have found it in a line.
struct Image {
    line: Vec<u8>,
    fields: Vec<Field>,
}

impl Image {
    fn new(row: &TestRow) -> Self {
        let mut line = Vec::new();
        // A configuration file is far shorter than what 32 bits can count.
        let mut push = |bytes: &[u8]| {
            let start = line.len() as u32;
            line.extend_from_slice(bytes);
            start..line.len() as u32
        };
        let mut field = |(name, value): &(Vec<u8>, Option<Vec<u8>>)| Field {
            name: push(name),
            value: value.as_ref().map_or(FieldValue::Null, |value| FieldValue::Text(push(value))),
        };
        let fields = row.iter().map(&mut field).collect();
        Image { line, fields }
    }
}

/// First what was expected, as it was typed, then what came out beside it.
fn compare(test: &RuleTest, got: &Got) -> Vec<Line> {
    let mut expected = BTreeSet::new();
    let mut lines = Vec::new();
    for outcome in &test.expect {
        if !expected.insert(outcome) {
            continue;
        }
        let came_out =
            got.exact.contains(outcome) || test.expect_fallback && got.coarse.contains_key(outcome);
        let line = if came_out { Line::Same } else { Line::Missing };
        lines.push(line(outcome.clone()));
    }
    if test.expect_fallback && got.coarse.is_empty() {
        lines.push(Line::NoFallback);
    }
    let extra = got.exact.iter().filter(|outcome| !expected.contains(outcome));
    lines.extend(extra.cloned().map(Line::Extra));
    if !test.expect_fallback {
        let coarse = got.coarse.iter();
        lines.extend(coarse.map(|(outcome, &cause)| Line::ExtraFallback(outcome.clone(), cause)));
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::config::parse;

    /// `rule` is what stands in a rule about `public.t`, `test` in its only test; `expected` are
    /// the lines of the comparison, none if it passes.
    #[track_caller]
    fn check(rule: &str, test: &str, expected: &[&str]) {
        let text = format!(
            "[postgres]\nurl = \"postgres://h/d\"\n[redis.c]\nurl = \"redis://h\"\n\
             [[rule]]\ntable = \"public.t\"\n{rule}\n[[rule.test]]\n{test}\n"
        );
        let loaded = parse("t", &text).unwrap();
        let verdicts = run_tests(&loaded.config.rules[0], loaded.rules.sinks());
        let [verdict] = verdicts.as_slice() else { panic!("{verdicts:?}") };
        let lines: Vec<_> = verdict.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(lines, expected);
    }

    const SLUG: &str = "delete = ['abc:{id}', 'slug:{slug}']";

    #[test]
    fn order_and_repetition_mean_nothing() {
        check(
            SLUG,
            "op = 'update'\nold = { id = 7, slug = 'a' }\nnew = { id = 7, slug = 'b' }\n\
             expect = ['delete slug:b', 'delete abc:7', 'delete slug:a', 'delete abc:7']",
            &[],
        );
    }

    #[test]
    fn what_differs_stands_beside_what_agrees() {
        check(
            SLUG,
            "op = 'insert'\nnew = { id = 7, slug = 'b' }\nexpect = ['delete abc:8', 'delete abc:7']",
            &["- delete abc:8", "  delete abc:7", "+ delete slug:b"],
        );
        check(
            "bump = ['v']",
            "op = 'insert'\nnew = { id = 7 }\nexpect = ['delete v']",
            &["- delete v", "+ bump v"],
        );
    }

    #[test]
    fn values_are_what_postgres_prints_and_null_is_no_value() {
        check(
            "delete = ['key:{a}:{b|default:none}:{c}', 'key:{d}']",
            "op = 'insert'\nnew = { a = -7, b = { null = true }, c = true, d = { null = true } }\n\
             expect = ['delete key:-7:none:true']",
            &[],
        );
    }

    #[test]
    fn a_fallback_has_to_be_expected() {
        let old_value = "op = 'update'\nold = { id = 7 }\nnew = { id = 7, slug = 'b' }\n\
                         expect = ['delete abc:7', 'delete slug:b']\n";
        check(SLUG, &format!("{old_value}expect_fallback = true"), &[]);
        check(
            SLUG,
            old_value,
            &[
                "  delete abc:7",
                "  delete slug:b",
                "+ delete_matching abc:* (fallback: absent)",
                "+ delete_matching slug:* (fallback: absent)",
            ],
        );
        check("delete = ['abc:{id}']", "op = 'truncate'\nexpect_fallback = true", &[]);
        check(
            SLUG,
            "op = 'delete'\nold = { id = 7, slug = 'a' }\nexpect_fallback = true\n\
             expect = ['delete abc:7', 'delete slug:a']",
            &["  delete abc:7", "  delete slug:a", "- a fallback"],
        );
    }

    #[test]
    fn actions_of_an_expected_fallback_may_be_listed() {
        let test = "op = 'truncate'\nexpect_fallback = true\nexpect = ['delete_matching abc:*'";
        check("delete = ['abc:{id}']", &format!("{test}]"), &[]);
        check(
            "delete = ['abc:{id}']",
            &format!("{test}, 'tags x']"),
            &["  delete_matching abc:*", "- tags x"],
        );
        check(
            "delete = ['abc:{id}']",
            "op = 'truncate'\nexpect = ['delete_matching abc:*']",
            &["- delete_matching abc:*", "+ delete_matching abc:* (fallback: truncate)"],
        );
    }

    #[test]
    fn a_rule_is_tested_as_it_is_and_even_while_it_is_disabled() {
        let rule = "enabled = false\non = ['insert']\nwhere = { id = 7 }\ndelete = ['abc:{$xid}']";
        check(rule, "op = 'insert'\nnew = { id = 7 }\nexpect = ['delete abc:1']", &[]);
        check(rule, "op = 'insert'\nnew = { id = 8 }\nexpect = []", &[]);
        check(rule, "op = 'delete'\nold = { id = 7 }\nexpect = []", &[]);
    }

    #[test]
    fn the_table_decides_what_the_facts_are() {
        let rule = "delete = ['{$schema}:{$table}']\nfallback = 'none'";
        check(rule, "op = 'insert'\nnew = { id = 7 }\nexpect = ['delete public:t']", &[]);
    }
}
