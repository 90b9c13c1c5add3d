//! Lookups: rules whose actions stand in the database and not in the row.
//!
//! In: a change. Out, at first, one [`Verb::Lookup`], whose value
//! ([`Input`]) holds all that the rule needs to know of the change; once somebody has asked the
//! database, [`Answer`] renders the rule's templates for each row of the result. Pure: who
//! asks is [`lookups`](crate::lookups).

mod answer;
mod found;
mod input;
mod sql;

pub use answer::Answer;
pub use found::Found;
pub use input::Input;
pub use sql::{Shape, Statement};

use std::collections::BTreeSet;

use super::fallback::Coarse;
use super::render::{Coverage, Escape, Facts, Missing, Renderer};
use super::rule_set::Step;
use super::template::{Image, Placeholder, Source, Template, Variable};
use crate::action::Verb;
use crate::change::{Change, Op, Value};

/// A rule's `lookup`, compiled.
#[derive(Debug)]
pub struct Lookup {
    statement: Statement,
    /// What is bound, each once.
    parameters: Vec<Placeholder>,
    /// The columns that the rule's templates use: of the row or of the result.
    columns: Vec<Vec<u8>>,
    /// Whether a template says which transaction it was, or it is told or purged: that comes after all
    /// that its own transaction removes, so that no other one can ask for it too.
    is_of_transaction: bool,
}

/// What a change asks to be looked up.
pub(super) enum Asked {
    /// This, which was written to the buffer.
    Lookup(Coverage),
    /// Nothing.
    Nothing(Coverage),
}

impl Lookup {
    /// Compiles a query, whose placeholders become parameters, for a rule of these templates and
    /// this fallback.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub(super) fn new(
        query: &str,
        steps: &[Step],
        fallback: &[Coarse],
    ) -> Result<Self, super::TemplateError> {
        let template = Template::parse(query)?;
        let mut parameters: Vec<Placeholder> = Vec::new();
        for placeholder in template.placeholders() {
            if !parameters.contains(placeholder) {
                parameters.push(placeholder.clone());
            }
        }
        let statement = Statement::new(query, &template, &parameters)?;
        let mut columns = BTreeSet::new();
        let mut verbs = steps.iter().map(|step| step.verb).chain(fallback.iter().map(|c| c.verb));
        let mut is_of_transaction = verbs.any(Verb::is_afterwards);
        for placeholder in steps.iter().flat_map(|step| step.template.placeholders()) {
            match &placeholder.source {
                Source::Column { name, .. } => {
                    columns.insert(name.clone());
                }
                Source::Variable(variable) => {
                    is_of_transaction |= matches!(variable, Variable::Xid | Variable::CommitLsn);
                }
            }
        }
        let columns = columns.into_iter().collect();
        Ok(Lookup { statement, parameters, columns, is_of_transaction })
    }

    /// The query.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The columns that the rule's templates use.
    pub fn columns(&self) -> impl Iterator<Item = &[u8]> {
        self.columns.iter().map(Vec::as_slice)
    }

    /// A [`Verb::Lookup`]'s value as the query that a person would
    /// write.
    pub fn shown(&self, value: &[u8]) -> String {
        let Some(input) = Input::read(value) else { return String::new() };
        self.statement.shown(input.parameters(self.parameters.len()))
    }

    /// The columns of the row that are bound.
    pub(super) fn bound(&self) -> impl Iterator<Item = (&[u8], Image)> {
        self.parameters.iter().filter_map(|placeholder| match &placeholder.source {
            Source::Column { name, image, .. } => Some((name.as_slice(), *image)),
            Source::Variable(_) => None,
        })
    }

    /// Writes what has to be looked up for an insert or an update to `buffer`.
    ///
    /// A query sees rows as they are now: what it would have found with the old value of a column
    /// that changed, nobody knows any more.
    pub(super) fn ask(&self, change: &Change<'_>, facts: Facts, buffer: &mut Vec<u8>) -> Asked {
        buffer.clear();
        let facts = if self.is_of_transaction { facts } else { Facts::default() };
        input::write_head(change, facts, buffer);
        let renderer = Renderer { change, facts, escape: Escape::Verbatim };
        let mut coverage = Coverage::Exact;
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for parameter in &self.parameters {
            let is_text = match renderer.value(parameter, Image::New, &mut new) {
                Ok(is_text) => is_text,
                // An insert has no old row: there is nothing to ask for.
                Err(Missing::Null) => return Asked::Nothing(Coverage::Exact),
                Err(Missing::Absent) => return Asked::Nothing(Coverage::Partial),
            };
            if std::str::from_utf8(&new).is_err() {
                return Asked::Nothing(Coverage::Partial);
            }
            let value = if is_text { Value::Text(&new) } else { Value::Null };
            input::write_value(value, buffer);
            if change.op == Op::Update {
                match renderer.value(parameter, Image::Old, &mut old) {
                    Ok(was_text) if was_text == is_text && old == new => {}
                    _ => coverage = Coverage::Partial,
                }
            }
        }
        for column in &self.columns {
            let (old, new) = (change.old.get(column), change.new.get(column));
            // What is unclear must not be taken for unchanged.
            let is_clear = ![old, new].contains(&Value::Unclear);
            input::write_value(if is_clear { old } else { Value::Absent }, buffer);
            input::write_value(if is_clear { new } else { Value::Absent }, buffer);
        }
        Asked::Lookup(coverage)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::Row;
    use crate::rules::Matcher;

    /// Whether two transactions that change alike ask for one lookup.
    fn is_shared(rule: &str) -> bool {
        let text = format!(
            "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
             [[rule]]\ntable = 's.t'\nlookup = 'SELECT 1 AS x'\n{rule}"
        );
        let rules = crate::config::parse("t", &text).unwrap().rules;
        let mut matcher = Matcher::new(Arc::new(rules));
        let (new, old) = (Row::EMPTY, Row::EMPTY);
        let change = Change { op: Op::Insert, schema: b"s", table: b"t", new, old };
        let mut asked = [7, 8].map(|xid| {
            let mut value = Vec::new();
            let facts = Facts { xid: Some(xid), commit_lsn: None };
            matcher.apply(&change, facts, |emission| value = emission.action.value.to_vec());
            value
        });
        assert!(asked.iter_mut().all(|value| !value.is_empty()));
        asked[0] == asked[1]
    }

    #[test]
    fn only_what_says_nothing_of_its_transaction_and_tells_nobody_is_asked_once_for_several() {
        assert!(is_shared("delete = ['key:{x}']"));
        assert!(!is_shared("delete = ['key:{x}:{$xid}']"));
        assert!(!is_shared("publish = { channel = 'c', message = 'key:{x}' }"));
        assert!(!is_shared(
            "delete = ['key:{x}']\n[rule.fallback]\npublish = { channel = 'c', message = 'all' }"
        ));
    }
}
