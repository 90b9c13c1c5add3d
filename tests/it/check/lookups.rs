//! What is found about lookups.

use super::{Scene, pg};

const TABLES: &str = "CREATE TABLE users (id bigint PRIMARY KEY, name text);
    CREATE TABLE posts (id bigint PRIMARY KEY, user_id bigint);
    GRANT SELECT ON posts TO walpurge";

/// A scene with a rule on users whose lookup is `query`.
fn scene(query: &str) -> Scene {
    let rule = format!(
        "[[rule]]\nname = 'author'\ntable = 'public.users'\nlookup = '''{query}'''\n\
         delete = ['post:{{post_id}}:{{id}}']\n"
    );
    let scene = Scene::with(pg().start(), &rule);
    scene.sql(TABLES);
    scene.sql("SELECT pg_create_logical_replication_slot('walpurge', 'wal2json')");
    scene
}

const GOOD: &str = "SELECT id AS post_id FROM posts WHERE user_id = {id} -- all of them";

#[test]
fn a_good_lookup_is_shown_with_what_it_binds_and_gives() {
    let findings = scene(GOOD).findings();
    let messages: Vec<_> = findings.list.iter().map(|found| found.message.clone()).collect();
    let said = "its lookup gives 1 column: post_id; it binds bigint".to_owned();
    assert!(messages.contains(&said), "{messages:?}");
    assert_eq!(findings.code, 0);
}

#[test]
fn a_query_that_fails_says_why_and_what_mends_it() {
    for (query, message, hint) in [
        ("SELECT idd AS post_id FROM posts", "column \"idd\" does not exist", "correct `lookup`"),
        ("SELECT id AS post_id FROM postss", "relation \"postss\" does not exist", "its schema"),
        ("SELEC 1 AS post_id", "syntax error", "one SELECT"),
        ("SELECT id AS post_id FROM users", "permission denied", "GRANT SELECT ON TABLE"),
        ("DELETE FROM posts", "", ""),
        ("SELECT 1 AS post_id; SELECT 2", "syntax error", "one SELECT"),
    ] {
        let findings = scene(query).findings();
        let failed = findings.one("failed", "rule author");
        assert!(failed.message.contains(message), "{query}: {failed:?}");
        assert!(failed.hint.contains(hint), "{query}: {failed:?}");
        assert_eq!(findings.code, 1, "{query}");
    }
}

#[test]
fn a_column_that_neither_the_lookup_nor_the_table_has_is_named() {
    let findings = scene("SELECT id AS pots_id FROM posts WHERE user_id = {id}").findings();
    let failed = findings.one("failed", "rule author");
    assert!(failed.message.contains("there is no column post_id"), "{failed:?}");
}

#[test]
fn a_bound_column_that_the_table_lacks_is_named() {
    let findings = scene("SELECT id AS post_id FROM posts WHERE user_id = {uid}").findings();
    let failed = findings.one("failed", "rule author");
    assert!(failed.message.contains("there is no column uid"), "{failed:?}");
}

#[test]
fn a_pooler_that_is_down_is_named_once() {
    let mut scene = scene(GOOD);
    scene.edit(
        "[redis.cache]",
        "lookup_url = 'host=127.0.0.1 port=1 user=x dbname=x'\n[redis.cache]",
    );
    let findings = scene.findings();
    let failed = findings.one("failed", "lookups");
    assert!(failed.hint.contains("postgres.lookup_url"), "{failed:?}");
}
