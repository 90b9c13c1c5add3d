//! Tells wal2json which tables to send: its option `add-tables`.
//!
//! Pure: no I/O, no clock.

use super::table::{Part, TablePattern};

/// The value of wal2json's `add-tables` for these tables: it lets through every change that one
/// of `patterns` means, and possibly more.
///
/// The caller quotes it for the replication command. Without patterns it is empty, which lets no
/// change through, only each transaction's begin and commit.
///
/// The plugin's syntax, found in its source and tried with version 2.5: tables separated by
/// commas, each `schema.table`; a part may be a `*` alone; a backslash takes any character
/// literally. It knows no `*` inside a name, so that such a part is widened to every name: the
/// rules look at each change again anyway.
pub fn to_wal2json(patterns: &[TablePattern]) -> String {
    let mut tables: Vec<String> = Vec::with_capacity(patterns.len());
    for pattern in patterns {
        let table = format!("{}.{}", part(&pattern.schema), part(&pattern.table));
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    tables.join(",")
}

fn part(part: &Part) -> String {
    match part {
        Part::Any | Part::Glob(_) => "*".to_owned(),
        Part::Exact(name) => escape(&String::from_utf8_lossy(name)),
    }
}

/// Puts a backslash before everything that is not plain.
///
/// Blanks end a name too, and which characters are blank depends on the server's locale: so
/// characters outside ASCII get one as well, which the plugin takes away just the same.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() && c != '_' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Text;

    #[track_caller]
    fn check(typed: &[&str], expected: &str) {
        let pattern = |typed: &&str| {
            TablePattern::parse(&Text { value: typed.to_string(), span: 0..0 }).expect("a table")
        };
        assert_eq!(to_wal2json(&typed.iter().map(pattern).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn plain_names_stay_as_they_are() {
        check(&["public.products", "shop.Order_2"], "public.products,shop.Order_2");
    }

    #[test]
    fn special_characters_are_escaped() {
        check(&[r#"public."a.b c,d*e\f""#], r"public.a\.b\ c\,d\*e\\f");
        check(&[r#"public."we""ird""#, "é.日本"], r#"public.we\"ird,\é.\日\本"#);
    }

    #[test]
    fn a_star_inside_a_name_is_widened() {
        check(&["public.*", "*.products", "*.*"], "public.*,*.products,*.*");
        check(&["public.log_*", "public.*_log", "t_*.x", "t_*.x_*"], "public.*,*.x,*.*");
    }

    #[test]
    fn a_table_is_named_once() {
        check(&["public.a", "public.b", r#""public"."a""#], "public.a,public.b");
    }

    #[test]
    fn no_pattern_is_no_table() {
        check(&[], "");
    }
}
