//! Of which columns does a rule need the *old* value, so that a replica identity without them
//! makes it fall back?
//!
//! The other side of [`render`](super::render), which finds out change by change; a test holds
//! the two together. Pure.

use std::collections::BTreeSet;

use super::rule_set::Rule;
use super::template::{Extent, Image, Source, Template};
use crate::change::Op;

impl Rule {
    /// Every column of the row that a template names, or a lookup binds. Those that templates
    /// beside a lookup name may be of its result.
    pub fn columns(&self) -> BTreeSet<&[u8]> {
        if let Some(lookup) = &self.lookup {
            return lookup.bound().map(|(name, _)| name).collect();
        }
        self.steps
            .iter()
            .flat_map(|step| columns(&step.template))
            .map(|column| column.name)
            .collect()
    }

    /// Every column that only `changed` or `where` names.
    pub fn filter_columns(&self) -> BTreeSet<&[u8]> {
        let rendered = self.columns();
        self.filter.columns().filter(|column| !rendered.contains(column)).collect()
    }

    /// Every column that a change has to carry for the rule. Those that templates beside a lookup
    /// name are among them, though some may be of its result alone: that shows when it is asked.
    pub fn carried_columns(&self) -> BTreeSet<&[u8]> {
        let beside = self.lookup.iter().flat_map(|lookup| lookup.columns());
        self.columns().into_iter().chain(self.filter.columns()).chain(beside).collect()
    }

    /// The columns whose old value the templates need when `op` changes a row. Nothing for an
    /// operation that the rule is not about.
    pub fn old_values(&self, op: Op) -> BTreeSet<&[u8]> {
        if !self.ops.contains(op) {
            return BTreeSet::new();
        }
        if let Some(lookup) = &self.lookup {
            // After a delete there is nothing to be looked up.
            let bound = lookup.bound().filter(|&(_, image)| image != Image::New);
            return bound.map(|(name, _)| name).filter(|_| op == Op::Update).collect();
        }
        self.steps.iter().flat_map(|step| old_values(&step.template, op)).collect()
    }
}

struct Column<'t> {
    name: &'t [u8],
    image: Image,
    extent: Extent,
}

fn columns(template: &Template) -> impl Iterator<Item = Column<'_>> {
    template.placeholders().filter_map(|placeholder| match &placeholder.source {
        Source::Column { name, image, extent } => {
            Some(Column { name, image: *image, extent: *extent })
        }
        Source::Variable(_) => None,
    })
}

fn old_values(template: &Template, op: Op) -> Vec<&[u8]> {
    // There is no new row to be rendered with, so nothing is, except that a list is taken apart
    // before the other values are looked at.
    let needs_new = columns(template).any(|column| column.image == Image::New);
    let looks_at = |column: &Column<'_>| match op {
        Op::Update => true,
        Op::Delete => !needs_new || column.extent == Extent::Elements,
        Op::Insert | Op::Truncate => false,
    };
    columns(template)
        .filter(|column| column.image != Image::New && looks_at(column))
        .map(|column| column.name)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use std::sync::Arc;

    use super::*;
    use crate::change::{Change, Field, FieldValue, Row};
    use crate::config::parse;
    use crate::rules::{Cause, Facts, Matcher, RuleSet};

    fn rules(template: &str) -> RuleSet {
        let text = format!(
            "[postgres]\nurl = \"postgres://h/d\"\n[redis.c]\nurl = \"redis://h\"\n\
             [[rule]]\ntable = \"public.t\"\ndelete = ['key:{template}']\n"
        );
        parse("t", &text).unwrap().rules
    }

    /// Two columns of a row, both of them lists.
    const LINE: &[u8] = b"ab{x,y}";
    const NAMES: [&[u8]; 2] = [b"a", b"b"];

    fn field(column: u32) -> Field {
        Field { name: column..column + 1, value: FieldValue::Text(2..7) }
    }

    /// Whether the matcher falls back if the stream carries the old values of `carried` alone.
    fn falls_back(rules: &Arc<RuleSet>, op: Op, carried: &[Field]) -> bool {
        let all = [field(0), field(1)];
        let new = if op == Op::Delete { Row::EMPTY } else { Row::new(LINE, &all) };
        let old = if op == Op::Insert { Row::EMPTY } else { Row::new(LINE, carried) };
        let change = Change { op, schema: b"public", table: b"t", new, old };
        let mut fell_back = false;
        Matcher::new(Arc::clone(rules)).apply(&change, Facts::default(), |emission| {
            fell_back |= emission.fallback == Some(Cause::Absent);
        });
        fell_back
    }

    #[test]
    fn a_rule_falls_back_exactly_where_an_old_value_that_it_needs_is_not_carried() {
        let templates = [
            "",
            "{a}",
            "{old.a}",
            "{new.a}",
            "{a}{b}",
            "{a}{old.b}",
            "{a}{new.b}",
            "{old.a}{new.b}",
            "{a[]}{b}",
            "{a[]}{new.b}",
            "{new.a[]}{b}",
            "{old.a[]}{b}",
            "{old.a[]}{new.b}",
            "{a}{new.a}",
            "{$op}",
            "{$op}{b}",
            "{a|default:x}{new.b|default:x}",
        ];
        for template in templates {
            let rules = Arc::new(rules(template));
            for op in [Op::Insert, Op::Update, Op::Delete] {
                let needed = rules.rules()[0].old_values(op);
                for carried in [vec![], vec![0], vec![1], vec![0, 1]] {
                    let fields: Vec<_> = carried.iter().map(|&column| field(column)).collect();
                    let names: Vec<_> = carried.iter().map(|&at| NAMES[at as usize]).collect();
                    let lacking = needed.iter().any(|name| !names.contains(name));
                    assert_eq!(
                        falls_back(&rules, op, &fields),
                        lacking,
                        "{template} {op:?} {names:?}: {needed:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn operations_that_the_rule_leaves_out_need_nothing() {
        let text = "[postgres]\nurl = \"postgres://h/d\"\n[redis.c]\nurl = \"redis://h\"\n\
            [[rule]]\ntable = \"public.t\"\non = [\"delete\"]\ndelete = ['key:{a}:{new.b}', 'key:{c}']\n\
            changed = ['a', 'd']\nwhere = { e = 1, c = 2 }\n";
        let loaded = parse("t", text).unwrap();
        let rule = &loaded.rules.rules()[0];
        assert!(rule.old_values(Op::Update).is_empty());
        assert_eq!(rule.old_values(Op::Delete), BTreeSet::from([&b"c"[..]]));
        assert_eq!(rule.columns(), BTreeSet::from([&b"a"[..], b"b", b"c"]));
        assert_eq!(rule.filter_columns(), BTreeSet::from([&b"d"[..], b"e"]));
        assert_eq!(rule.carried_columns(), BTreeSet::from([&b"a"[..], b"b", b"c", b"d", b"e"]));
    }
}
