//! Why could a rule not name its exact keys for a change?
//!
//! [`render`](super::render) finds out that it could not; this is for telling people, once for a
//! rule. Pure.

use super::rule_set::Rule;
use super::template::{Image, Source};
use crate::change::{Change, Op, Value};

/// A value that a template needs and the stream does not carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence<'r> {
    /// The table has no such column: the new row of an insert is without it.
    Column(&'r str),
    /// The old row is without it, and the new one is not.
    OldValue(&'r str),
    /// It is in no row that there is: outside the replica identity, unchanged and large, or not a
    /// column of the table.
    Unsaid(&'r str),
    /// The plugin says null, and may mean NaN or Infinity.
    Doubtful(&'r str),
}

impl Rule {
    /// The first value that is not carried; `None` if all are, so that it is for another reason.
    pub fn absence(&self, change: &Change<'_>) -> Option<Absence<'_>> {
        if let Some(lookup) = &self.lookup {
            return lookup.bound().find_map(|(name, image)| absence(name, image, change));
        }
        let placeholders = self.steps.iter().flat_map(|step| step.template.placeholders());
        let mut columns = placeholders.filter_map(|placeholder| match &placeholder.source {
            Source::Column { name, image, .. } => Some((name.as_slice(), *image)),
            Source::Variable(_) => None,
        });
        columns.find_map(|(name, image)| absence(name, image, change))
    }
}

fn absence<'r>(name: &'r [u8], image: Image, change: &Change<'_>) -> Option<Absence<'r>> {
    let is_absent = |value| matches!(value, Value::Absent | Value::Unclear);
    let (new, old) = (is_absent(change.new.get(name)), is_absent(change.old.get(name)));
    let is_lacking = match change.op {
        Op::Insert => image != Image::Old && new,
        Op::Delete => image != Image::New && old,
        Op::Update => image != Image::New && old || image != Image::Old && new && old,
        Op::Truncate => false,
    };
    let name_of = |name| std::str::from_utf8(name).unwrap_or("?");
    is_lacking.then(|| match change.op {
        _ if new && change.new.has(name) || old && change.old.has(name) => {
            Absence::Doubtful(name_of(name))
        }
        Op::Insert => Absence::Column(name_of(name)),
        Op::Update if !new => Absence::OldValue(name_of(name)),
        _ => Absence::Unsaid(name_of(name)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::decode::Event;
    use crate::decode::wal2json::{Decoder, Nulls};

    #[track_caller]
    fn check(template: &str, line: &str, expected: Option<Absence<'_>>) {
        let text = format!(
            "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
             [[rule]]\ntable = 'public.t'\ndelete = ['key:{template}']\n"
        );
        let rules = crate::config::parse("t", &text).unwrap().rules;
        let mut line = format!("{{\"schema\":\"public\",\"table\":\"t\",{line}}}").into_bytes();
        let mut decoder = Decoder::new(Nulls::ByType);
        let Ok(Event::Change(change)) = decoder.decode(&mut line) else { panic!("not a change") };
        assert_eq!(rules.rules()[0].absence(&change), expected, "{template}");
    }

    #[test]
    fn a_column_that_is_not_there_is_told_from_a_value_that_is_not_carried() {
        let insert = r#""action":"I","columns":[{"name":"a","typeoid":25,"value":null}]"#;
        check("{a}", insert, None);
        check("{a}{b}", insert, Some(Absence::Column("b")));
        check("{old.b}", insert, None);
        let update = r#""action":"U","columns":[{"name":"a","value":1},{"name":"k","value":2}],"identity":[{"name":"k","value":2}]"#;
        check("{a}", update, Some(Absence::OldValue("a")));
        check("{new.a}{k}", update, None);
        check("{new.b}", update, Some(Absence::Unsaid("b")));
        let delete = r#""action":"D","identity":[{"name":"k","value":2}]"#;
        check("{k}{new.b}", delete, None);
        check("{k}{b}", delete, Some(Absence::Unsaid("b")));
        check("{a}", r#""action":"T""#, None);
    }

    #[test]
    fn a_null_that_may_be_nan_is_a_reason_of_its_own() {
        let insert = r#""action":"I","columns":[{"name":"a","typeoid":701,"value":null}]"#;
        check("{a}", insert, Some(Absence::Doubtful("a")));
        let delete = r#""action":"D","identity":[{"name":"a","typeoid":1700,"value":null}]"#;
        check("{a}", delete, Some(Absence::Doubtful("a")));
        let update = r#""action":"U","columns":[{"name":"a","value":1}],"identity":[{"name":"a","value":null}]"#;
        check("{a}", update, Some(Absence::Doubtful("a")));
    }
}
