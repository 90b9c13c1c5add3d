//! From one row of a result to actions.

use super::super::render::{Coverage, Renderer};
use super::super::rule_set::Step;
use super::{Input, Lookup};
use crate::change::{Change, Field, FieldValue, Op, Row, Value};

/// Renders a rule's templates for the rows of results, in memory of its own.
#[derive(Debug, Default)]
pub struct Answer {
    line: Vec<u8>,
    old: Vec<Field>,
    new: Vec<Field>,
    buffer: Vec<u8>,
}

impl Answer {
    /// Calls `emit` with the place of each step that has something to do for a row of the result,
    /// and what that is. Answers whether that is all.
    ///
    /// A column of the result stands in front of the row's own of the same name, in both images.
    pub(super) fn render<'r>(
        &mut self,
        lookup: &Lookup,
        steps: &[Step],
        input: Input<'_>,
        row: impl Iterator<Item = (&'r str, Option<&'r [u8]>)>,
        mut emit: impl FnMut(usize, &[u8]),
    ) -> Coverage {
        let Answer { line, old, new, buffer } = self;
        line.clear();
        old.clear();
        new.clear();
        let mut push = |text: &[u8]| {
            let start = line.len() as u32;
            line.extend_from_slice(text);
            start..line.len() as u32
        };
        for (name, value) in row {
            let name = push(name.as_bytes());
            let value = value.map_or(FieldValue::Null, |text| FieldValue::Text(push(text)));
            let field = Field { name, value };
            old.push(field.clone());
            new.push(field);
        }
        let mut values = input.values().skip(lookup.statement.parameters());
        for column in &lookup.columns {
            let name = push(column);
            for image in [&mut *old, &mut *new] {
                let value = match values.next() {
                    None | Some(Value::Absent | Value::Unclear) => continue,
                    Some(Value::Null) => FieldValue::Null,
                    Some(Value::Text(text)) => FieldValue::Text(push(text)),
                };
                image.push(Field { name: name.clone(), value });
            }
        }
        let old = if input.op == Op::Insert { Row::EMPTY } else { Row::new(line, old) };
        let change = Change {
            op: input.op,
            schema: input.schema,
            table: input.table,
            new: Row::new(line, new),
            old,
        };
        let mut coverage = Coverage::Exact;
        for (at, step) in steps.iter().enumerate() {
            let escape = step.escape();
            let renderer = Renderer { change: &change, facts: input.facts, escape };
            let covered = renderer.render(&step.template, buffer, |value| emit(at, value));
            if covered == Coverage::Partial {
                coverage = Coverage::Partial;
            }
        }
        coverage
    }
}
