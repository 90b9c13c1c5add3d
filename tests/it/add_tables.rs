//! What wal2json makes of the tables that it is told to send.

use std::collections::BTreeSet;

use testkit::postgres::Postgres;
use walpurge::problem::Text;
use walpurge::rules::{TablePattern, to_wal2json};

/// Names that the plugin's syntax, or ours, could mistake for something else.
const ODD_NAMES: [&str; 21] = [
    "plain",
    "Upper",
    "a.b",
    "..",
    "two words",
    " lead",
    "trail ",
    "a,b",
    "*",
    "a*b",
    "back\\slash",
    "end\\",
    "we\"ird",
    "o'ne",
    "new\nline",
    "tab\tx",
    "$x-{y}",
    "täble",
    "à",
    "nbsp\u{a0}x",
    "日本😀",
];

const SCHEMAS: [&str; 5] = ["public", "s.x", "*", "Sp, ace", "é\\"];

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn pattern(typed: &str) -> TablePattern {
    TablePattern::parse(&Text { value: typed.to_owned(), span: 0..0 }).expect("a table")
}

/// The tables whose inserts the plugin sends for the option.
fn sent(postgres: &Postgres, add_tables: &str) -> BTreeSet<(String, String)> {
    let option = add_tables.replace('\'', "''");
    let lines = postgres.psql(
        "postgres",
        &format!(
            "SELECT data FROM pg_logical_slot_peek_changes('s', NULL, NULL, \
             'format-version', '2', 'add-tables', '{option}')"
        ),
    );
    let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a name").to_owned();
    lines
        .lines()
        .map(parse)
        .filter(|change| change["action"] == "I")
        .map(|change| (text(&change["schema"]), text(&change["table"])))
        .collect()
}

#[test]
fn wal2json_sends_exactly_the_tables_that_are_named() {
    let postgres = Postgres::builder().fsync(false).start();
    postgres.psql("postgres", "SELECT pg_create_logical_replication_slot('s', 'wal2json')");
    let mut all = BTreeSet::new();
    let mut sql = String::new();
    for schema in SCHEMAS {
        sql += &format!("CREATE SCHEMA IF NOT EXISTS {};\n", quote(schema));
        for name in ODD_NAMES {
            let table = format!("{}.{}", quote(schema), quote(name));
            sql += &format!("CREATE TABLE {table} (id int PRIMARY KEY);\n");
            sql += &format!("INSERT INTO {table} VALUES (1);\n");
            all.insert((schema.to_owned(), name.to_owned()));
        }
    }
    postgres.psql("postgres", &sql);

    let mut patterns = Vec::new();
    for (schema, name) in &all {
        let one = pattern(&format!("{}.{}", quote(schema), quote(name)));
        let expected = BTreeSet::from([(schema.clone(), name.clone())]);
        let option = to_wal2json(std::slice::from_ref(&one));
        assert_eq!(sent(&postgres, &option), expected, "{option}");
        patterns.push(one);
    }
    assert_eq!(sent(&postgres, &to_wal2json(&patterns)), all, "all in one list");

    // A pattern's tables are sent, and a `*` inside of a name may send more of them.
    for typed in ["public.*", "*.plain", "*.*", "s.*x.*", "public.t*", "p*c.Upper", "\"*\".*"] {
        let pattern = pattern(typed);
        let sent = sent(&postgres, &to_wal2json(std::slice::from_ref(&pattern)));
        let means = |(schema, name): &&(String, String)| {
            pattern.matches(schema.as_bytes(), name.as_bytes())
        };
        let missed: Vec<_> =
            all.iter().filter(means).filter(|table| !sent.contains(table)).collect();
        assert!(missed.is_empty(), "{typed} misses {missed:?}");
    }
    assert_eq!(sent(&postgres, &to_wal2json(&[])), BTreeSet::new(), "no pattern is no table");
}
