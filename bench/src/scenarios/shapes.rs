//! How does a backlog go whose rows are wide, whose tables are many, or whose rules are?
//!
//! `BENCH_SHAPE_NAMED=ten` picks those in whose names that is.

use anyhow::Result;
use serde_json::json;

use crate::backlog::{Backlog, Published, Run};
use crate::bed::{Bed, Plugin};
use crate::report::{Section, Target};
use crate::size;
use crate::stats::{largest, list, median, thousands};

/// Rows of one transaction.
const ROWS: u64 = 10;

/// What waits, and for whom.
struct Shape {
    name: &'static str,
    /// Makes the tables.
    tables: String,
    changes: String,
    rules: String,
    /// The rules' tables.
    published: Published,
    /// Of the rows that are asked for, how many there are.
    rows: u64,
}

pub(super) fn run() -> Result<Section> {
    let (rows, runs) = (size::SHAPE.get()?, size::SHAPE_RUNS.get()?);
    let bed = Bed::start(1)?;
    let mut section = Section::new(
        format!(
            "Backlogs of other shapes, in transactions of {ROWS} rows; {} with the same \
             options for both; visibility \"wait\"; {runs} paired runs, medians. The keys that are \
             removed do not exist, but for the last.",
            bed.plugin.name()
        ),
        serde_json::Value::Null,
    );
    let mut raw = Vec::new();
    let named = std::env::var("BENCH_SHAPE_NAMED").unwrap_or_default();
    for shape in shapes(rows).into_iter().filter(|shape| shape.name.contains(&named)) {
        eprintln!("  {}: loading {} rows", shape.name, shape.rows);
        // Not after the last, whose tables are more than one transaction can lock.
        bed.sql.run("DROP SCHEMA IF EXISTS shape CASCADE")?;
        bed.sql.run("CREATE SCHEMA shape")?;
        bed.sql.run(&shape.tables)?;
        let backlog = Backlog::load(&bed, &shape.rules, &shape.published, &shape.changes)?;
        let (mut yardsticks, mut drained) = (Vec::new(), Vec::new());
        for run in 0..runs {
            eprintln!("    run {} of {runs}", run + 1);
            // The order alternates, so that a machine that slows down does not favour one.
            for contender in [run % 2, (run + 1) % 2] {
                match contender {
                    0 => yardsticks.push(backlog.yardstick()?),
                    _ => drained.push(backlog.drain()?),
                }
            }
        }
        backlog.forget()?;
        raw.push(report(&mut section, bed.plugin, &shape, &yardsticks, &drained));
    }
    section.raw = json!(raw);
    Ok(section)
}

fn report(
    section: &mut Section,
    plugin: Plugin,
    shape: &Shape,
    yardsticks: &[Run],
    drained: &[Run],
) -> serde_json::Value {
    let rows = shape.rows as f64;
    let each = |runs: &[Run], of: fn(&Run) -> f64| runs.iter().map(of).collect::<Vec<f64>>();
    let rates = |runs| each(runs, |run| run.seconds).iter().map(|s| rows / s).collect::<Vec<_>>();
    let (yardstick_rates, walpurge_rates) = (rates(yardsticks), rates(drained));
    let ratios: Vec<f64> =
        walpurge_rates.iter().zip(&yardstick_rates).map(|(ours, its)| ours / its).collect();
    let cpu = each(drained, |run| run.cpu_seconds);
    let walsender = each(drained, |run| run.walsender_cpu_seconds);
    let peaks = each(drained, |run| run.peak_rss_mib);
    let name = shape.name;
    section.row(
        format!("{name}: pg_recvlogical / walpurge, rows/s"),
        format!("{} / {}", thousands(median(&yardstick_rates)), thousands(median(&walpurge_rates))),
    );
    let measure = format!("{name}: ratio ({})", list(&ratios, 2));
    section.judged(measure, median(&ratios), "", Target::AtLeast(0.95));
    section.bar(format!("{name}, {}", plugin.name()), median(&ratios));
    let per_million = |seconds: &[f64]| median(seconds) / rows * 1e6;
    section.row(
        format!("{name}: CPU seconds per million rows, walpurge / its walsender"),
        format!("{:.2} / {:.2}", per_million(&cpu), per_million(&walsender)),
    );
    let measure = format!("{name}: peak memory");
    section.judged(measure, largest(&peaks), " MiB", Target::AtMost(64.0));
    json!({
        "shape": name, "rows": shape.rows, "yardstick_rates": yardstick_rates,
        "rates": walpurge_rates, "ratios": ratios, "cpu_seconds": cpu,
        "walsender_cpu_seconds": walsender, "peak_rss_mib": peaks,
    })
}

fn shapes(rows: u64) -> Vec<Shape> {
    vec![
        wide(rows / 2),
        one_table_of_many(rows),
        ten_rules(rows),
        thousand_rules(rows),
        tables(rows),
    ]
}

/// Thirty columns, and a text that is stored apart, which one row in ten changes.
fn wide(rows: u64) -> Shape {
    let columns: String = (1..=30).map(|n| format!(", c{n} text NOT NULL")).collect();
    let values: String = (1..=30).map(|n| format!(", 'value {n} of ' || id")).collect();
    Shape {
        name: "wide rows, some TOAST",
        tables: format!(
            "CREATE TABLE shape.wide (id bigint PRIMARY KEY, n int NOT NULL, body text{columns});
             ALTER TABLE shape.wide ALTER body SET STORAGE EXTERNAL;
             INSERT INTO shape.wide
                 SELECT id, 0, repeat('long text ', 400) {values}
                 FROM generate_series(0, {rows} - 1) id"
        ),
        changes: in_transactions(
            rows,
            "UPDATE shape.wide SET n = n + 1, body = CASE WHEN id % 10 = 0 THEN body || 'x' \
             ELSE body END WHERE id >= k AND id < k + step",
        ),
        rules: rule("shape.wide", "wide:{id}"),
        published: only("shape.wide"),
        rows,
    }
}

/// One change in a hundred counts.
fn one_table_of_many(rows: u64) -> Shape {
    let tables: String = (0..100)
        .map(|n| {
            format!(
                "CREATE TABLE shape.noise_{n} (id bigint PRIMARY KEY, n int NOT NULL);
                 INSERT INTO shape.noise_{n} SELECT id, 0
                     FROM generate_series(0, {rows} / 100 - 1) id;"
            )
        })
        .collect();
    Shape {
        name: "a hundred tables, of which one matters",
        tables,
        changes: format!(
            "DO $$ BEGIN
                 FOR k IN 0..{rows} / 100 - 1 BY {ROWS} LOOP
                     FOR t IN 0..99 LOOP
                         EXECUTE format('UPDATE shape.noise_%s SET n = n + 1
                             WHERE id >= %s AND id < %s', t, k, k + {ROWS});
                         COMMIT;
                     END LOOP;
                 END LOOP;
             END $$"
        ),
        rules: rule("shape.noise_7", "noise:{id}"),
        published: only("shape.noise_7"),
        rows,
    }
}

/// Each change asks for ten keys.
fn ten_rules(rows: u64) -> Shape {
    Shape {
        name: "ten rules that match",
        tables: hot(rows),
        changes: in_transactions(rows, HOT),
        published: only("shape.hot"),
        rules: (0..10).map(|n| rule("shape.hot", &format!("hot:{n}:{{id}}"))).collect(),
        rows,
    }
}

/// One rule of a thousand matches.
fn thousand_rules(rows: u64) -> Shape {
    let tables: String = (1..1000)
        .map(|n| format!("CREATE TABLE shape.cold_{n} (id bigint PRIMARY KEY);"))
        .collect();
    let rules: String =
        (1..1000).map(|n| rule(&format!("shape.cold_{n}"), &format!("cold:{n}:{{id}}"))).collect();
    let published = (1..1000).map(|n| format!("shape.cold_{n}")).chain(["shape.hot".to_owned()]);
    Shape {
        name: "a thousand rules, of which one matches",
        tables: hot(rows) + ";" + &tables,
        changes: in_transactions(rows, HOT),
        rules: rules + &rule("shape.hot", "hot:{id}"),
        published: Published::Tables(published.collect()),
        rows,
    }
}

/// A rule on all of ten thousand tables, with a few changes each.
fn tables(rows: u64) -> Shape {
    let each = (rows / 10_000).max(1);
    Shape {
        name: "ten thousand tables under one rule",
        tables: format!(
            "DO $$ BEGIN
                 FOR t IN 1..10000 LOOP
                     EXECUTE format('CREATE TABLE shape.t_%s (id bigint PRIMARY KEY, n int)', t);
                     EXECUTE format('INSERT INTO shape.t_%s SELECT id, 0
                         FROM generate_series(1, {each}) id', t);
                     IF t % 100 = 0 THEN COMMIT; END IF;
                 END LOOP;
             END $$"
        ),
        changes: "DO $$ BEGIN
                 FOR t IN 1..10000 LOOP
                     EXECUTE format('UPDATE shape.t_%s SET n = n + 1', t);
                     COMMIT;
                 END LOOP;
             END $$"
            .to_owned(),
        rules: "[[rule]]\ntable = \"shape.t_*\"\ndelete = [\"table:{$table}:{id}\"]\n".to_owned(),
        published: Published::Schema("shape"),
        rows: each * 10_000,
    }
}

const HOT: &str = "UPDATE shape.hot SET n = n + 1 WHERE id >= k AND id < k + step";

fn hot(rows: u64) -> String {
    format!(
        "CREATE TABLE shape.hot (id bigint PRIMARY KEY, n int NOT NULL, name text NOT NULL);
         INSERT INTO shape.hot SELECT id, 0, 'name of ' || id FROM generate_series(0, {rows} - 1) id"
    )
}

/// That table alone.
fn only(table: &str) -> Published {
    Published::Tables(vec![table.to_owned()])
}

fn rule(table: &str, key: &str) -> String {
    format!("[[rule]]\ntable = \"{table}\"\ndelete = [\"{key}\"]\n")
}

/// An update of the rows from `k` on, over and over, each in a transaction of its own.
pub(super) fn in_transactions(rows: u64, update: &str) -> String {
    let update = update.replace("step", &ROWS.to_string());
    format!("DO $$ BEGIN FOR k IN 0..{rows} - 1 BY {ROWS} LOOP {update}; COMMIT; END LOOP; END $$")
}
