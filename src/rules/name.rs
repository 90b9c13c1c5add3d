//! What a rule is called where it has no `name`.

use std::collections::HashSet;

use super::RuleSpec;

/// The name of each rule, unique, in the order of `rules`.
///
/// A rule without `name` is called like its first table as typed, then with "#2", "#3" behind it
/// until nobody else is called so. Explicit names come first, wherever they stand, so that adding
/// a rule never renames one.
pub fn rule_names(rules: &[RuleSpec]) -> Vec<String> {
    let mut taken: HashSet<String> =
        rules.iter().filter_map(|rule| Some(rule.name.as_ref()?.value.clone())).collect();
    let mut name_of = |rule: &RuleSpec| {
        if let Some(name) = &rule.name {
            return name.value.clone();
        }
        let table = rule.tables.first().map_or("rule", |table| table.value.as_str());
        let mut name = table.to_owned();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{table}#{number}");
            number += 1;
        }
        name
    };
    rules.iter().map(&mut name_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Text;
    use crate::rules::FallbackSpec;

    fn rule(name: Option<&str>, tables: &[&str]) -> RuleSpec {
        let text = |value: &str| Text { value: value.to_owned(), span: 0..0 };
        RuleSpec {
            span: 0..0,
            name: name.map(text),
            enabled: true,
            tables: tables.iter().copied().map(text).collect(),
            on: None,
            changed: None,
            conditions: Vec::new(),
            templates: Vec::new(),
            publish: None,
            lookup: None,
            bulk_above: None,
            sinks: None,
            fallback: FallbackSpec::None,
            fallback_every: None,
            tests: Vec::new(),
        }
    }

    #[test]
    fn a_rule_without_name_is_called_like_its_first_table_and_numbered() {
        let rules = [
            rule(None, &["public.a", "public.b"]),
            rule(None, &["public.a"]),
            rule(Some("own"), &["public.a"]),
            rule(None, &["public.a"]),
            rule(None, &["public.b"]),
        ];
        let names = ["public.a", "public.a#2", "own", "public.a#3", "public.b"];
        assert_eq!(rule_names(&rules), names);
    }

    #[test]
    fn a_default_name_never_takes_an_explicit_one() {
        let rules = [
            rule(None, &["public.a"]),
            rule(None, &["public.a"]),
            rule(Some("public.a"), &["public.b"]),
            rule(Some("public.a#3"), &["public.b"]),
        ];
        assert_eq!(rule_names(&rules), ["public.a#2", "public.a#4", "public.a", "public.a#3"]);
    }
}
