//! What a lookup binds and what it reads, type by type: the text of the stream and of the result is
//! the same, whatever the server is set to.

use testkit::wait_until;

use crate::world::{PATIENCE, World};

/// A world with one table, whose column `k` is bound and comes back as `found`.
fn world(kind: &str, values: &str) -> World {
    let tables = format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, k {kind});
         CREATE TABLE other (k {kind});
         GRANT SELECT ON other TO walpurge;
         INSERT INTO other VALUES {values};"
    );
    let rule = r#"
        [[rule]]
        table = "public.t"
        on = ["insert"]
        lookup = "SELECT k AS found FROM other WHERE k = {k}"
        delete = ["found:{found}", "own:{k}"]
        fallback = "none"
    "#;
    World::new(&tables, rule)
}

#[track_caller]
fn check(kind: &str, value: &str, text: &str) {
    let mut world = world(kind, &format!("({value})"));
    let keys = [format!("found:{text}"), format!("own:{text}")];
    keys.iter().for_each(|key| world.fill(&[key]));
    world.sql(
        "ALTER DATABASE postgres SET TimeZone = 'Asia/Kolkata';
         ALTER DATABASE postgres SET DateStyle = 'German, DMY';
         ALTER DATABASE postgres SET IntervalStyle = 'iso_8601';
         ALTER DATABASE postgres SET bytea_output = 'escape';
         ALTER DATABASE postgres SET extra_float_digits = 0;",
    );
    world.start();
    world.sql(&format!("INSERT INTO t VALUES (1, {value})"));
    keys.iter().for_each(|key| world.wait_gone(&[key]));
    world.wait_confirmed();
}

#[test]
fn padded_text_and_bits_are_bound_in_full() {
    check("char(5)", "'abc'", "abc  ");
    check("bit(4)", "B'0101'", "0101");
}

#[test]
fn bytes_are_bound_and_read_as_the_stream_prints_them() {
    check("bytea", "'\\x6869'", "6869");
}

#[test]
fn addresses_have_no_netmask_that_they_do_not_show() {
    check("inet", "'10.0.0.1'", "10.0.0.1");
    check("boolean", "true", "true");
}

#[test]
fn the_servers_settings_change_no_value() {
    check("timestamptz", "'2026-03-01 23:30:00+00'", "2026-03-01 23:30:00+00");
    check("date", "'2026-03-01'", "2026-03-01");
    check("interval", "'1 day 02:00:00'", "1 day 02:00:00");
    check("double precision", "0.1::float8 + 0.2::float8", "0.30000000000000004");
}

#[test]
fn a_star_is_read_by_name_after_its_columns_have_changed_places() {
    let rule = r#"
        [[rule]]
        table = "public.t"
        on = ["insert"]
        lookup = "SELECT * FROM other WHERE k = {k}"
        delete = ["slug:{slug}"]
        fallback = "none"
    "#;
    let mut world = World::new(
        "CREATE TABLE t (id bigint PRIMARY KEY, k text);
         CREATE TABLE other (k text PRIMARY KEY, slug text, title text);
         GRANT SELECT ON other TO walpurge;
         INSERT INTO other VALUES ('a', 'a-slug', 'a title');",
        rule,
    );
    world.fill(&["slug:a-slug"]);
    world.start();
    world.sql("INSERT INTO t VALUES (1, 'a')");
    world.wait_gone(&["slug:a-slug"]);
    world.wait_confirmed();
    world.sql(
        "BEGIN;
         ALTER TABLE other RENAME slug TO old;
         ALTER TABLE other ADD slug text;
         UPDATE other SET slug = old;
         ALTER TABLE other DROP old;
         COMMIT;",
    );
    world.fill(&["slug:a-slug"]);
    world.sql("INSERT INTO t VALUES (2, 'a')");
    world.wait_gone(&["slug:a-slug"]);
}

#[test]
fn a_type_that_changes_without_an_error_is_noticed() {
    let mut world = world("date", "('2026-03-01')");
    world.fill(&["found:2026-03-01"]);
    world.start();
    world.sql("INSERT INTO t VALUES (1, '2026-03-01')");
    world.wait_gone(&["found:2026-03-01"]);
    world.wait_confirmed();
    world.sql(
        "ALTER TABLE t ALTER k TYPE timestamp; ALTER TABLE other ALTER k TYPE timestamp;
         INSERT INTO other VALUES ('2026-03-01 10:00')",
    );
    let key = "found:2026-03-01 10:00:00";
    world.fill(&[key]);
    let mut id = 1;
    wait_until("the new type is known", PATIENCE, || {
        id += 1;
        world.sql(&format!("INSERT INTO t VALUES ({id}, '2026-03-01 10:00')"));
        world.wait_confirmed();
        !world.redis.exists(key)
    });
}
