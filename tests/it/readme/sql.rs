//! The SQL of documents is run by a real server.

use testkit::postgres::Postgres;
use walpurge::postgres::INSTALL_DDL;

use super::{blocks, blocks_and_prose, code_spans, pages};

/// How a block starts that no test runs, and goes on with the reason.
const NOT_RUN: &str = "-- Not tried by a test: ";

/// A setting that only the newest minor versions know.
const NEW_SETTING: &str = "output_plugin_libraries";

/// A function that Postgres 17 gave a fourth parameter, as the documents say.
const OLD_FUNCTION: &str = "pg_logical_emit_message(boolean, text, text)";

/// What documents speak of.
const SCENE: &str = "CREATE TABLE products (id bigint PRIMARY KEY, slug text, price int);
    CREATE TABLE posts (id bigint PRIMARY KEY, author_id bigint);
    CREATE ROLE app LOGIN;
    CREATE ROLE walpurge LOGIN REPLICATION";

/// What a block may drop, or make anew.
const AGAIN: &str = "SELECT pg_create_logical_replication_slot(name, 'wal2json')
    FROM unnest(ARRAY['walpurge', 'walpurge_replay']) name
    WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = name)";

/// A whole one, as in `ALTER ROLE walpurge REPLICATION;`.
fn is_statement(span: &str) -> bool {
    let begins = |words: &[&str]| words.iter().any(|word| span.starts_with(word));
    begins(&["SELECT "]) || begins(&["ALTER ", "CREATE ", "GRANT "]) && span.ends_with(';')
}

#[test]
fn sql_is_run_by_a_real_server() {
    let pg = Postgres::builder().setting("max_replication_slots", "20").start();
    pg.psql("postgres", "CREATE DATABASE shop");
    pg.psql("shop", SCENE);
    pg.psql("shop", INSTALL_DDL);
    let settings = format!("SELECT count(*) FROM pg_settings WHERE name = '{NEW_SETTING}'");
    let knows_it = pg.psql("shop", &settings) == "1";
    let function = format!("SELECT to_regprocedure('{OLD_FUNCTION}') IS NOT NULL");
    let has_it = pg.psql("shop", &function) == "t";
    let (mut run, mut left) = (0, 0);
    for block in pages().iter().flat_map(|page| blocks(page, "sql")) {
        if let Some(reason) = block.text.strip_prefix(NOT_RUN) {
            assert!(reason.lines().next().unwrap().len() > 20, "{}: why not?", block.place);
            left += 1;
            continue;
        }
        let is_of_another_version = block.text.contains(NEW_SETTING) && !knows_it
            || block.text.contains(OLD_FUNCTION) && !has_it;
        if is_of_another_version {
            left += 1;
            continue;
        }
        pg.psql("shop", AGAIN);
        if block.text.contains("CREATE ROLE walpurge LOGIN") {
            pg.psql("shop", "DROP OWNED BY walpurge; DROP ROLE walpurge");
        }
        if let Err(error) = pg.try_psql("postgres", "shop", &block.text) {
            panic!("{}: {error}\n{}", block.place, block.text);
        }
        run += 1;
    }
    // Records of decisions quote parts of statements.
    for page in pages().into_iter().filter(|page| !page.to_string_lossy().contains("/decisions/")) {
        for (number, line) in blocks_and_prose(&page).1 {
            for sql in code_spans(&line).into_iter().filter(|span| is_statement(span)) {
                pg.psql("shop", AGAIN);
                if let Err(error) = pg.try_psql("postgres", "shop", &sql) {
                    panic!("{}:{number}: {error}\n{sql}", page.display());
                }
                run += 1;
            }
        }
    }
    assert!(run >= 15 && left < run, "{run} blocks were run, and {left} were not");
}
