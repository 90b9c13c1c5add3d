//! DDL: which tables do the event triggers of `walpurge setup --ddl` name, and which fallbacks run?
//!
//! DDL that changes rows logs none of them. Its message names what was altered, with all that it
//! is part of and all of its partitions, and what was dropped: of which only its own name is
//! known, so that what it was part of is looked up in what the catalog said before.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::fallback::Cause;
use super::matcher::{ASKED_MAX, Emission, Matcher};
use super::partitions::table_key;
use super::rule_set::RuleId;
use crate::lsn::Lsn;

/// The prefix of the event triggers' messages.
pub const DDL_PREFIX: &str = "walpurge.ddl";

/// What a command did to tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ddl {
    /// The command, such as `ALTER TABLE`.
    pub command: String,
    /// Tables that are there still.
    pub altered: Vec<TableName>,
    /// Tables that are not.
    pub dropped: Vec<TableName>,
}

/// A table's schema and its own name, in the database's encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// The schema.
    pub schema: Vec<u8>,
    /// The table's own name.
    pub table: Vec<u8>,
}

/// A message that names no tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an object with lists of tables, at column {column}")]
pub struct MalformedDdl {
    /// Where reading stopped.
    pub column: usize,
}

impl Ddl {
    /// Reads what a message holds.
    ///
    /// # Errors
    /// If it names no table. The error holds nothing of the message.
    pub fn parse(content: &[u8]) -> Result<Ddl, MalformedDdl> {
        // A list would be taken for an object by position.
        if content.trim_ascii_start().first() != Some(&b'{') {
            return Err(MalformedDdl { column: 1 });
        }
        let content: Content = serde_json::from_slice(content)
            .map_err(|error| MalformedDdl { column: error.column() })?;
        let tables = |pairs: Vec<(Name, Name)>| {
            let table =
                |(schema, table): (Name, Name)| TableName { schema: schema.0, table: table.0 };
            pairs.into_iter().map(table).collect::<Vec<_>>()
        };
        let (altered, dropped) = (tables(content.altered), tables(content.dropped));
        if altered.is_empty() && dropped.is_empty() {
            return Err(MalformedDdl { column: 1 });
        }
        Ok(Ddl { command: content.command, altered, dropped })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |name| String::from_utf8_lossy(name);
        write!(f, "{}.{}", text(&self.schema), text(&self.table))
    }
}

/// What a message holds. What a later version adds is for that one.
#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    command: String,
    #[serde(default)]
    altered: Vec<(Name, Name)>,
    #[serde(default)]
    dropped: Vec<(Name, Name)>,
}

/// A name, of which nobody promises that it is UTF-8.
struct Name(Vec<u8>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Name, E> {
                Ok(Name(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl Matcher {
    /// Whether the catalog is to be read again before DDL that was committed at `commit_lsn` is
    /// applied: it has altered a table of a rule since. Says so once for a transaction.
    pub fn is_outdated_by(&mut self, ddl: &Ddl, commit_lsn: Option<Lsn>) -> bool {
        if !self.is_newer(commit_lsn) || self.read_for == commit_lsn {
            return false;
        }
        let has_rule = |name: &TableName| self.rules_named(name).next().is_some();
        let is_outdated = ddl.altered.iter().any(has_rule);
        if is_outdated {
            self.read_for = commit_lsn;
            self.was_told_of(ddl);
        }
        is_outdated
    }

    /// Calls `emit` for the fallbacks of every rule on a table that DDL has changed, once for each
    /// rule and with a table that it is about. They run whatever operations the rule is about: an
    /// attached partition brings rows, and a dropped one takes them away.
    pub fn ddl(
        &mut self,
        ddl: &Ddl,
        commit_lsn: Option<Lsn>,
        mut emit: impl FnMut(&TableName, Emission<'_>),
    ) {
        let is_newer = self.is_newer(commit_lsn);
        if is_newer {
            self.was_told_of(ddl);
        }
        let mut done: Vec<RuleId> = Vec::new();
        for (names, are_there) in [(&ddl.altered, true), (&ddl.dropped, false)] {
            for name in names {
                let mut rules: Vec<RuleId> = self.rules_named(name).collect();
                if !are_there {
                    self.add_former(name, is_newer, &mut rules);
                    self.forget(name);
                }
                rules.sort_unstable();
                rules.retain(|rule| !done.contains(rule));
                rules.dedup();
                for &rule in &rules {
                    self.rules
                        .fallback(rule, Cause::Truncate, &mut |emission| emit(name, emission));
                }
                done.append(&mut rules);
            }
        }
    }

    /// The next look at the catalog shows what is taken care of here.
    fn was_told_of(&mut self, ddl: &Ddl) {
        for name in ddl.altered.iter().chain(&ddl.dropped) {
            if self.rules_named(name).next().is_some() && self.told.len() < ASKED_MAX {
                self.told.insert(table_key(&name.schema, &name.table));
            }
        }
    }

    fn rules_named(&self, name: &TableName) -> impl Iterator<Item = RuleId> {
        self.rules.rules_of(&name.schema, &name.table)
    }

    /// Whether the catalog was read before that transaction.
    fn is_newer(&self, commit_lsn: Option<Lsn>) -> bool {
        commit_lsn.is_some_and(|lsn| lsn >= self.catalog_lsn)
    }

    /// Adds the rules on what a dropped table was a partition of; on everything that it may have
    /// been a partition of, if the catalog never showed it.
    fn add_former(&self, name: &TableName, is_newer: bool, rules: &mut Vec<RuleId>) {
        let Some(partitions) = &self.partitions else { return };
        let key = table_key(&name.schema, &name.table);
        let shown = [Some(partitions), self.former.as_ref()];
        let shown = shown.into_iter().flatten().find(|partitions| partitions.has_shown(&key));
        // One that came and went since, of which no row was seen, had none.
        if shown.is_none() && is_newer && !self.asked.contains(&key) {
            return;
        }
        for (schema, table) in shown.unwrap_or(partitions).former_wholes_of(&key) {
            rules.extend(self.rules.rules_of(schema, table));
        }
    }

    /// A new table of that name need not be what the dropped one was.
    fn forget(&mut self, name: &TableName) {
        let key = table_key(&name.schema, &name.table);
        self.tables.remove(&key);
        self.asked.remove(&key);
        if let Some(partitions) = &mut self.partitions {
            partitions.forget(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tables: &[(&str, &str)]) -> Vec<TableName> {
        let name = |&(schema, table): &(&str, &str)| TableName {
            schema: schema.as_bytes().to_vec(),
            table: table.as_bytes().to_vec(),
        };
        tables.iter().map(name).collect()
    }

    #[test]
    fn names_are_read_whatever_is_in_them() {
        let content =
            br#"{"command":"DROP TABLE","dropped":[["s","a\"b.c*\n"],["s","z"]],"new":1}"#;
        let dropped = names(&[("s", "a\"b.c*\n"), ("s", "z")]);
        let expected = Ddl { command: "DROP TABLE".into(), altered: Vec::new(), dropped };
        assert_eq!(Ddl::parse(content), Ok(expected));
        let latin1 = Ddl::parse(b"{\"altered\":[[\"s\",\"caf\xe9\"]]}");
        assert_eq!(latin1.map(|ddl| ddl.altered[0].table.clone()), Ok(b"caf\xe9".to_vec()));
    }

    #[test]
    fn a_message_that_names_no_table_is_malformed() {
        for content in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"altered":[]}"#,
            r#"{"altered":["s.t"]}"#,
            r#"{"altered":[["s"]]}"#,
            r#"{"altered":[["s","t","u"]]}"#,
            r#"{"dropped":[["s",null]]}"#,
        ] {
            assert!(Ddl::parse(content.as_bytes()).is_err(), "{content}");
        }
    }

    /// The rules whose fallbacks run, by the tables that their names are made of.
    #[track_caller]
    fn check(matcher: &mut Matcher, ddl: &Ddl, expected: &[&str]) {
        let rules = std::sync::Arc::clone(matcher.rules());
        let mut ran = Vec::new();
        matcher.ddl(ddl, Some(Lsn(50)), |_, emission| {
            ran.extend(emission.rule.map(|rule| rules.rule(rule).name.clone()));
        });
        ran.sort();
        assert_eq!(ran, expected);
    }

    /// Rules on two partitioned tables, of which `s.a` has the partition `s.a1`, and on `s.t`.
    fn matcher() -> Matcher {
        let rule = |table: &str| {
            format!(
                "[[rule]]\nname = '{table}'\ntable = 's.{table}'\ndelete = ['{table}-key:{{id}}']\n"
            )
        };
        let text = format!(
            "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n{}{}{}",
            rule("a"),
            rule("b"),
            rule("t")
        );
        let Ok(loaded) = crate::config::parse("c", &text) else { panic!("rules that load") };
        let mut matcher = Matcher::new(std::sync::Arc::new(loaded.rules));
        matcher.set_partitions(Some(partitions(&["a1", "plain", "t"])), Lsn(100));
        matcher
    }

    fn partitions(tables: &[&str]) -> crate::rules::Partitions {
        let mut partitions = crate::rules::Partitions::default();
        partitions.add((b"s", b"a"), tables.contains(&"a1").then_some((b"s", b"a1")));
        partitions.add((b"s", b"b"), None);
        let wholes = ["a", "b"];
        wholes.iter().chain(tables).for_each(|table| partitions.know(b"s", table.as_bytes()));
        partitions
    }

    fn dropped(tables: &[(&str, &str)]) -> Ddl {
        Ddl { dropped: names(tables), ..Ddl::default() }
    }

    #[test]
    fn a_dropped_partition_runs_the_rules_on_what_it_was_part_of() {
        check(&mut matcher(), &dropped(&[("s", "a1")]), &["a"]);
        check(&mut matcher(), &dropped(&[("s", "plain")]), &[]);
        check(&mut matcher(), &dropped(&[("s", "t"), ("s", "a1"), ("s", "a")]), &["a", "t"]);
        // Nobody knows what this one was.
        let unknown = dropped(&[("s", "unknown")]);
        check(&mut matcher(), &unknown, &["a", "b"]);
        // This one came later, and has brought rows or not.
        let mut matcher = matcher();
        let mut count = 0;
        matcher.ddl(&unknown, Some(Lsn(150)), |_, _| count += 1);
        assert_eq!(count, 0);
        assert!(matcher.needs_catalog(b"s", b"unknown"));
        matcher.ddl(&unknown, Some(Lsn(150)), |_, _| count += 1);
        assert_eq!(count, 2);
    }

    #[test]
    fn a_dropped_partition_is_remembered_from_one_catalog_to_the_next() {
        let mut matcher = matcher();
        matcher.set_partitions(Some(partitions(&["plain"])), Lsn(200));
        check(&mut matcher, &dropped(&[("s", "a1")]), &["a"]);
        matcher.set_partitions(Some(partitions(&["plain"])), Lsn(300));
        check(&mut matcher, &dropped(&[("s", "a1")]), &["a", "b"]);
    }

    #[test]
    fn a_table_that_takes_a_dropped_ones_name_is_looked_up() {
        let mut matcher = matcher();
        assert!(!matcher.needs_catalog(b"s", b"plain"));
        check(&mut matcher, &dropped(&[("s", "plain")]), &[]);
        assert!(matcher.needs_catalog(b"s", b"plain"));
        check(&mut matcher, &dropped(&[("s", "plain")]), &[]);
    }

    #[test]
    fn newer_ddl_on_a_rules_table_makes_the_catalog_outdated_once() {
        let mut matcher = matcher();
        let altered = |table| Ddl { altered: names(&[("s", table)]), ..Ddl::default() };
        assert!(!matcher.is_outdated_by(&altered("a"), Some(Lsn(99))));
        assert!(!matcher.is_outdated_by(&altered("plain"), Some(Lsn(150))));
        assert!(!matcher.is_outdated_by(&dropped(&[("s", "a")]), Some(Lsn(150))));
        assert!(!matcher.is_outdated_by(&altered("a"), None));
        assert!(matcher.is_outdated_by(&altered("a"), Some(Lsn(150))));
        assert!(!matcher.is_outdated_by(&altered("a"), Some(Lsn(150))));
        assert!(matcher.is_outdated_by(&altered("t"), Some(Lsn(160))));
    }
}
