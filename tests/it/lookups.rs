//! Rules whose keys stand in the database, and not in the row.

use std::fmt::Write as _;

use testkit::wait_until;

use crate::world::{PATIENCE, World};

const TABLES: &str = "CREATE TABLE users (id bigint PRIMARY KEY, name text);
    CREATE TABLE posts (id bigint PRIMARY KEY, user_id bigint REFERENCES users ON DELETE CASCADE);
    CREATE INDEX ON posts (user_id);
    GRANT SELECT ON posts TO walpurge;
    INSERT INTO users SELECT n, 'name ' || n FROM generate_series(1, 20) n;
    INSERT INTO posts SELECT n, 1 + n % 10 FROM generate_series(0, 99) n;";

const RULE: &str = r#"
[[rule]]
name = "author"
table = "public.users"
lookup = "SELECT id AS post_id FROM posts WHERE user_id = {id}"
delete = ["post:{post_id}"]
"#;

fn world(rules: &str) -> World {
    World::new(TABLES, rules)
}

/// Every post of a user, as the keys that pages cache them under.
fn posts_of(user: usize) -> Vec<String> {
    (0..100).filter(|post| 1 + post % 10 == user).map(|post| format!("post:{post}")).collect()
}

fn fill(world: &World, keys: &[String]) {
    keys.iter().for_each(|key| world.fill(&[key]));
}

#[track_caller]
fn wait_gone(world: &World, keys: &[String]) {
    keys.iter().for_each(|key| world.wait_gone(&[key]));
}

#[track_caller]
fn assert_cached(world: &World, keys: &[String]) {
    keys.iter().for_each(|key| world.assert_cached(&[key]));
}

#[test]
fn what_belongs_to_a_changed_row_is_looked_up_and_deleted() {
    let mut world = world(RULE);
    let (mine, others) = (posts_of(3), posts_of(4));
    fill(&world, &[mine.clone(), others.clone()].concat());
    world.start();
    world.sql("UPDATE users SET name = 'x' WHERE id = 3");
    wait_gone(&world, &mine);
    world.wait_confirmed();
    assert_cached(&world, &others);
}

#[test]
fn a_row_of_the_same_transaction_is_seen() {
    let mut world = world(RULE);
    world.fill(&["post:1000", "post:1001"]);
    world.start();
    world.sql(
        "BEGIN; INSERT INTO users VALUES (100, 'new'); INSERT INTO posts VALUES (1000, 100); COMMIT",
    );
    world.wait_gone(&["post:1000"]);
    world.wait_confirmed();
    world.assert_cached(&["post:1001"]);
}

#[test]
fn one_row_fans_out_to_ten_thousand_keys_and_one_more_is_too_many() {
    let mut world = world(RULE);
    world.sql("INSERT INTO posts SELECT n, 20 FROM generate_series(10001, 20000) n");
    let all: Vec<String> = (10001..=20000).map(|post| format!("post:{post}")).collect();
    fill(&world, &all);
    world.fill(&["post:0", "post:foreign"]);
    world.start();
    world.sql("UPDATE users SET name = 'x' WHERE id = 20");
    world.wait_confirmed();
    assert!(all.iter().all(|key| !world.redis.exists(key)));
    world.assert_cached(&["post:0", "post:foreign"]);
    // The default of bulk_above: beyond, all posts go.
    world.sql("INSERT INTO posts VALUES (20001, 20); UPDATE users SET name = 'y' WHERE id = 20");
    world.wait_gone(&["post:0", "post:foreign"]);
}

#[test]
fn rows_of_many_lookups_of_one_transaction_are_counted_together() {
    let mut world = world(&RULE.replace("delete =", "bulk_above = 25\ndelete ="));
    world.fill(&["post:foreign"]);
    world.start();
    world.sql("UPDATE users SET name = 'x' WHERE id <= 2");
    world.wait_confirmed();
    world.assert_cached(&["post:foreign"]);
    world.sql("UPDATE users SET name = 'y' WHERE id <= 3");
    world.wait_gone(&["post:foreign"]);
}

#[test]
fn a_locked_table_delays_its_own_rule_alone_and_loses_nothing() {
    let rules = format!(
        "{RULE}[[rule]]\nname = \"user\"\ntable = \"public.users\"\ndelete = [\"user:{{id}}\"]\n"
    );
    let mut world = world(&rules);
    let mine = posts_of(3);
    fill(&world, &mine);
    world.fill(&["user:3", "post:foreign"]);
    world.start();
    let mut lock = world.pg.session("postgres", "postgres");
    lock.run("BEGIN; LOCK TABLE posts IN ACCESS EXCLUSIVE MODE");
    world.sql("UPDATE users SET name = 'x' WHERE id = 3");
    world.wait_gone(&["user:3"]);
    // Longer than a statement may wait for the lock.
    world.wait_for_log("SQLSTATE 55P03");
    assert_cached(&world, &mine);
    let end = world.pg.current_lsn();
    assert!(!world.pg.has_confirmed("walpurge", &end), "confirmed what is not done");
    lock.run("COMMIT");
    wait_gone(&world, &mine);
    world.wait_confirmed();
    world.assert_cached(&["post:foreign"]);
}

#[test]
fn a_renamed_column_runs_the_fallback_and_the_mended_query_is_found_again() {
    let mut world = world(RULE);
    let mine = posts_of(3);
    world.start();
    world.sql("UPDATE users SET name = 'before' WHERE id = 3");
    world.wait_confirmed();
    world.sql("ALTER TABLE posts RENAME user_id TO author_id");
    fill(&world, &mine);
    world.fill(&["post:foreign", "user:3"]);
    world.sql("UPDATE users SET name = 'x' WHERE id = 3");
    wait_gone(&world, &mine);
    world.wait_gone(&["post:foreign"]);
    world.wait_confirmed();
    world.assert_cached(&["user:3"]);
    let news = world.news();
    assert!(news.contains("rule=\"author\"") && news.contains("sqlstate=\"42703\""), "{news}");
    world.sql("ALTER TABLE posts RENAME author_id TO user_id");
    fill(&world, &mine);
    world.fill(&["post:foreign"]);
    world.sql("UPDATE users SET name = 'y' WHERE id = 3");
    wait_gone(&world, &mine);
    world.wait_confirmed();
    world.assert_cached(&["post:foreign"]);
}

#[test]
fn a_column_that_gets_another_type_is_looked_up_as_before() {
    let mut world = world(RULE);
    let mine = posts_of(3);
    world.start();
    world.sql("UPDATE users SET name = 'before' WHERE id = 3");
    world.wait_confirmed();
    world.sql(
        "ALTER TABLE posts DROP CONSTRAINT posts_user_id_fkey;
         ALTER TABLE posts ALTER user_id TYPE text",
    );
    fill(&world, &mine);
    world.fill(&["post:foreign"]);
    world.sql("UPDATE users SET name = 'x' WHERE id = 3");
    wait_gone(&world, &mine);
    world.wait_confirmed();
    world.assert_cached(&["post:foreign"]);
}

#[test]
fn a_parent_that_is_deleted_with_its_children_runs_the_fallback() {
    let mut world = world(RULE);
    let mine = posts_of(3);
    fill(&world, &mine);
    world.fill(&["post:foreign", "user:3"]);
    world.start();
    world.sql("DELETE FROM users WHERE id = 3");
    wait_gone(&world, &mine);
    world.wait_gone(&["post:foreign"]);
    world.wait_confirmed();
    world.assert_cached(&["user:3"]);
}

#[test]
fn a_rule_on_the_children_covers_a_deleted_parent_exactly() {
    let rules = format!(
        "{}[[rule]]\nname = \"post\"\ntable = \"public.posts\"\ndelete = [\"post:{{id}}\"]\n",
        RULE.replace("lookup =", "on = [\"insert\", \"update\"]\nlookup =")
    );
    let mut world = world(&rules);
    let mine = posts_of(3);
    fill(&world, &mine);
    world.fill(&["post:foreign"]);
    world.start();
    world.sql("DELETE FROM users WHERE id = 3");
    wait_gone(&world, &mine);
    world.wait_confirmed();
    world.assert_cached(&["post:foreign"]);
}

#[test]
fn a_value_that_the_query_cannot_take_runs_the_fallback_for_itself_alone() {
    let rule = RULE
        .replace("user_id = {id}", "user_id = {name}::bigint")
        .replace("delete =", "fallback = \"none\"\non = [\"insert\"]\ndelete =");
    let mut world = world(&rule);
    let (third, fourth) = (posts_of(3), posts_of(4));
    fill(&world, &[third.clone(), fourth.clone()].concat());
    world.start();
    // Without a fallback it is seen that the others of the transaction are asked all the same.
    world.sql("INSERT INTO users VALUES (201, '3'), (202, 'no number'), (203, '4')");
    wait_gone(&world, &[third, fourth].concat());
    world.wait_confirmed();
    let news = world.news();
    assert!(news.contains("sqlstate=\"22P02\"") && !news.contains("no number"), "{news}");
}

#[test]
fn a_lookup_that_never_ends_holds_up_neither_the_slot_nor_those_behind_it() {
    let rule = RULE
        .replace("user_id = {id}", "user_id = public.slowly({id})")
        .replace("delete =", "fallback = \"none\"\non = [\"insert\"]\ndelete =");
    let mut world = world(&rule);
    // As a statement that runs out of its time.
    world.sql(
        "CREATE FUNCTION slowly(bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
           IF $1 % 10 = 2 THEN RAISE query_canceled; END IF; RETURN $1 % 100; END $$",
    );
    let (third, fourth) = (posts_of(3), posts_of(4));
    fill(&world, &[third.clone(), fourth.clone()].concat());
    world.start();
    world.sql("INSERT INTO users VALUES (103, 'a'), (102, 'slow'), (104, 'b')");
    wait_gone(&world, &[third, fourth].concat());
    world.wait_confirmed();
    world.wait_for_log("one lookup takes too long");
}

#[test]
fn one_lookup_that_finds_more_than_fits_runs_the_fallback() {
    let rule = RULE.replace("SELECT id AS post_id", "SELECT repeat('x', 1000000) || id AS post_id");
    let mut world = world(&rule);
    world.sql("INSERT INTO posts SELECT n, 20 FROM generate_series(10001, 10100) n");
    world.fill(&["post:foreign"]);
    world.start();
    world.sql("UPDATE users SET name = 'x' WHERE id = 20");
    world.wait_gone(&["post:foreign"]);
    world.wait_confirmed();
}

#[test]
fn an_answer_that_comes_in_parts_is_whole_in_the_end() {
    let rule = RULE
        .replace("SELECT id AS post_id", "SELECT id AS post_id, repeat('x', 60000) AS pad")
        .replace("delete = [", "delete = [\"pad:{pad}:{post_id}\", ");
    let mut world = world(&rule);
    let all: Vec<String> = (0..100).map(|post| format!("post:{post}")).collect();
    fill(&world, &all);
    world.fill(&["post:foreign"]);
    world.start();
    world.sql("UPDATE users SET name = 'x' WHERE id <= 10");
    wait_gone(&world, &all);
    world.wait_confirmed();
    world.assert_cached(&["post:foreign"]);
}

#[test]
fn what_is_looked_up_survives_a_kill() {
    let mut world = world(RULE);
    let mine = posts_of(3);
    fill(&world, &mine);
    world.start();
    let mut lock = world.pg.session("postgres", "postgres");
    lock.run("BEGIN; LOCK TABLE posts IN ACCESS EXCLUSIVE MODE");
    world.sql("UPDATE users SET name = 'x' WHERE id = 3");
    world.wait_for_log("action=\"lookup\"");
    world.kill_9();
    lock.run("COMMIT");
    world.start();
    wait_gone(&world, &mine);
    world.wait_confirmed();
}

#[test]
fn text_of_rows_is_bound_and_comes_back_as_it_is() {
    let rules = r#"
        [[rule]]
        table = "public.users"
        lookup = "SELECT {name}::text || $$'{{}}$$ AS other, 1.10 AS price, NULL::text AS nothing"
        delete = ["key:{other}:{price}", "null:{nothing}", "own:{name}"]
    "#;
    let mut world = world(rules);
    let name = "it's; DROP TABLE posts -- {x} \\ \n\"*";
    let keys = [format!("key:{name}'{{}}:1.10"), format!("own:{name}")];
    fill(&world, &keys);
    world.fill(&["null:"]);
    world.start();
    world.sql(&format!("INSERT INTO users VALUES (300, $q${name}$q$)"));
    wait_gone(&world, &keys);
    world.wait_confirmed();
    world.assert_cached(&["null:"]);
    assert_eq!(world.sql("SELECT count(*) FROM posts"), "100");
}

#[test]
fn a_lookup_changes_nothing() {
    let rule = RULE.replace("SELECT id AS", "SELECT public.spoil(id) AS");
    let mut world = world(&rule);
    world.sql(
        "CREATE TABLE spoilt (id bigint); GRANT ALL ON spoilt TO walpurge;
         CREATE FUNCTION spoil(bigint) RETURNS bigint LANGUAGE sql
           AS 'INSERT INTO spoilt VALUES ($1) RETURNING $1'",
    );
    world.fill(&["post:foreign"]);
    world.start();
    world.sql("UPDATE users SET name = 'x' WHERE id = 3");
    world.wait_gone(&["post:foreign"]);
    world.wait_for_log("sqlstate=\"25006\"");
    assert_eq!(world.sql("SELECT count(*) FROM spoilt"), "0");
}

#[test]
fn a_role_without_the_right_to_read_runs_the_fallback() {
    let mut world = world(RULE);
    world.sql("REVOKE SELECT ON posts FROM walpurge");
    world.fill(&["post:foreign"]);
    world.start();
    world.sql("UPDATE users SET name = 'x' WHERE id = 3");
    world.wait_gone(&["post:foreign"]);
    world.wait_for_log("sqlstate=\"42501\"");
}

#[test]
fn lookups_that_cannot_connect_hold_their_own_rule_alone() {
    let rules = format!(
        "{RULE}[[rule]]\nname = \"user\"\ntable = \"public.users\"\ndelete = [\"user:{{id}}\"]\n"
    );
    let mut world = world(&rules);
    world.edit(
        "[redis.cache]",
        "lookup_url = \"host=127.0.0.1 port=1 user=x dbname=x\"\n[redis.cache]",
    );
    world.fill(&["user:3", "post:2"]);
    world.start();
    world.sql("UPDATE users SET name = 'x' WHERE id = 3");
    world.wait_gone(&["user:3"]);
    world.wait_for_log("the sink is down");
    world.assert_cached(&["post:2"]);
    let end = world.pg.current_lsn();
    assert!(!world.pg.has_confirmed("walpurge", &end));
    world.stop();
}

#[test]
fn without_a_barrier_a_lookup_still_waits_to_see_its_row() {
    let mut world = world(RULE);
    world.edit("[redis.cache]", "visibility = \"skip\"\n[redis.cache]");
    world.start();
    for round in 0..50 {
        let (user, post) = (500 + round, 5000 + round);
        let key = format!("post:{post}");
        world.fill(&[&key]);
        world.sql(&format!(
            "BEGIN; INSERT INTO users VALUES ({user}, 'n'); INSERT INTO posts VALUES ({post}, {user}); COMMIT"
        ));
        world.wait_gone(&[&key]);
    }
}

#[test]
fn a_backlog_of_lookups_is_asked_for_in_batches() {
    let mut world = world(RULE);
    let all: Vec<String> = (0..100).map(|post| format!("post:{post}")).collect();
    fill(&world, &all);
    let mut script = String::new();
    for round in 0..2000 {
        let _ = writeln!(script, "UPDATE users SET name = 'round {round}' WHERE id <= 10;");
    }
    world.sql(&script);
    let statements = || {
        let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'";
        world.sql(sql).parse::<u64>().unwrap()
    };
    let before = statements();
    world.spawn(&["run"]);
    wait_until("every post is gone", PATIENCE, || all.iter().all(|key| !world.redis.exists(key)));
    world.wait_confirmed();
    let asked = world.sql("SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'");
    let asked = asked.parse::<u64>().unwrap() - before;
    assert!(asked < 2000, "{asked} transactions for 20000 changes");
}
