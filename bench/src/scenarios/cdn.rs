//! What does one transaction that changes very many pages cost at a CDN, and who waits for it?

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::cdn::{CloudFront, HttpServer, Response};
use testkit::redis::Reply;

use crate::bed::{Bed, DEADLINE, Visibility};
use crate::daemon::Daemon;
use crate::report::{Section, Target};
use crate::size;
use crate::stats::{largest, median, percentile, thousands};

const SLOT: &str = "bench_cdn";

/// How many keys of another table are removed, one at a time, while purges go out.
const BESIDE: u64 = 200;

/// How long such a key may stay: the first waits until Postgres has sent the whole transaction.
const PATIENCE: Duration = Duration::from_secs(120);

/// More than any transaction here asks for.
const NO_BULK: &str = "bulk_above = 1000000\n";

/// The most paths that the plan holds for one sink before it purges everything instead.
const PLAN_MAX: u64 = 100_000;

/// One transaction of `rows` changes, each of which asks for a path of its own.
struct Case<'a> {
    name: &'static str,
    rows: u64,
    /// The sink's section.
    sink: String,
    /// The rule's own keys.
    rule: &'a str,
    server: &'a HttpServer,
}

/// What came of it.
struct Outcome {
    seconds: f64,
    requests: usize,
    peak_rss_mib: f64,
    /// From commits on another table to the end of their keys, while purges went out.
    beside_ms: Vec<f64>,
}

pub(super) fn run() -> Result<Section> {
    let (paths, updates) = (size::PATHS.get()?, size::UPDATES.get()?);
    let bed = Bed::start(paths.max(updates))?;
    bed.sql.run("CREATE TABLE beside (id bigint PRIMARY KEY, n int NOT NULL)")?;
    bed.sql.run(&format!("INSERT INTO beside SELECT n, 0 FROM generate_series(1, {BESIDE}) n"))?;
    let text = "One transaction, each row of which has a page and a key in Redis of its own; from \
                the commit's reply until it is confirmed. The HTTP endpoint takes 1,000 paths a \
                request. CloudFront is a local one that completes invalidations at once, asked \
                once a second at most, which is the default; Amazon's takes a minute or so for \
                each beside that. Beside: commits on another table, one at a time, from their \
                reply until their key is gone; the first may stand behind the transaction in the \
                log, and has to wait until Postgres has sent that.";
    let mut section = Section::new(text.to_owned(), Value::Null);
    let mut raw = Vec::new();
    let mut add = |section: &mut Section, name: &str, charged: Option<usize>, outcome: Outcome| {
        let Outcome { seconds, requests, peak_rss_mib, beside_ms } = outcome;
        section.row(format!("{name}: done after"), format!("{seconds:.1} s"));
        section.row(format!("{name}: requests"), thousands(requests as f64));
        if let Some(charged) = charged {
            section.row(format!("{name}: paths charged"), thousands(charged as f64));
        }
        if !beside_ms.is_empty() {
            let figures = [median(&beside_ms), percentile(&beside_ms, 99.0), largest(&beside_ms)];
            let [p50, p99, most] = figures.map(|figure| format!("{figure:.2} ms"));
            let count = beside_ms.len();
            let measure = format!("{name}: {count} commits beside, p50 / p99 / longest");
            section.row(measure, format!("{p50} / {p99} / {most}"));
        }
        let measure = format!("{name}: peak memory");
        section.judged(measure, peak_rss_mib, " MiB", Target::AtMost(64.0));
        raw.push(json!({
            "case": name, "seconds": seconds, "requests": requests, "charged": charged,
            "peak_rss_mib": peak_rss_mib, "beside_ms": beside_ms,
        }));
    };

    let server = HttpServer::start(|_| Response::new(200, ""));
    let http = format!(
        "[http.edge]\nurl = {:?}\nbody = '{{{{\"paths\": {{paths|json}}}}}}'\nbatch = 1000\n",
        server.url()
    );
    for (name, rule, more) in [
        (
            "all paths, `bulk_above = 1000`",
            "bulk_above = 1000\n",
            "wildcards = true\npurge_all = { body = '{{}}' }\n",
        ),
        ("all paths, no `purge_all`, no bulk", "bulk_above = 1000000\nfallback = \"none\"\n", ""),
    ] {
        server.forget();
        let sink = format!("{http}{more}");
        let case = Case { name, rows: paths, sink, rule, server: &server };
        let outcome = measure(&bed, &case)?;
        add(&mut section, name, None, outcome);
    }
    for (name, rows, rule) in [
        ("CloudFront, `bulk_above` as it is", updates, ""),
        ("CloudFront, no bulk, past the bound", updates.max(PLAN_MAX), NO_BULK),
        ("CloudFront, no bulk, below the bound", updates.min(PLAN_MAX - 1), NO_BULK),
    ] {
        let cloudfront = CloudFront::start();
        // At the rate that is the default.
        let settings = cloudfront.settings().replace("max_requests_per_second = 200\n", "");
        let sink = format!("[cloudfront.site]\n{settings}");
        let case = Case { name, rows, sink, rule, server: cloudfront.server() };
        let outcome = measure(&bed, &case)?;
        add(&mut section, name, Some(cloudfront.charged()), outcome);
    }
    section.raw = json!({ "paths": paths, "updates": updates, "cases": raw });
    Ok(section)
}

fn measure(bed: &Bed, case: &Case<'_>) -> Result<Outcome> {
    eprintln!("  {}", case.name);
    bed.create_slot(SLOT)?;
    // The rule of the items is the last in the configuration.
    let config = format!(
        "{}purge_paths = [\"/items/{{id}}\"]\n{}\
         [[rule]]\ntable = \"public.beside\"\ndelete = [\"beside:{{id}}\"]\n{}",
        bed.config(SLOT, Visibility::Wait),
        case.rule,
        case.sink,
    );
    let mut daemon = Daemon::start(&config)?;
    let rows = case.rows;
    bed.sql.run(&format!("UPDATE items SET price = price + 1 WHERE id < {rows}"))?;
    let started = Instant::now();
    let end_lsn = bed.sql.run("SELECT pg_current_wal_lsn()")?.context("no LSN")?;
    let ask = format!(
        "SELECT 1 FROM pg_replication_slots
         WHERE slot_name = '{SLOT}' AND confirmed_flush_lsn >= '{end_lsn}'"
    );
    let is_done = || -> Result<bool> { Ok(bed.sql.run(&ask)?.is_some()) };
    bed.wait("the first purge", || Ok(case.server.count() > 0)).with_context(|| daemon.report())?;
    let mut beside_ms = Vec::new();
    for id in 1..=BESIDE {
        if is_done()? {
            break;
        }
        beside_ms.push(beside(bed, id)?);
    }
    while !is_done()? {
        ensure!(started.elapsed() < DEADLINE, "never done: {}", daemon.report());
        std::thread::sleep(Duration::from_millis(10));
    }
    let seconds = started.elapsed().as_secs_f64();
    let outcome = Outcome {
        seconds,
        requests: case.server.count(),
        peak_rss_mib: daemon.peak_rss_mib()?,
        beside_ms,
    };
    daemon.stop()?;
    bed.drop_slot(SLOT)?;
    Ok(outcome)
}

/// Caches a row of the other table, changes it, and waits until it is not cached any more: how many
/// milliseconds from the commit's reply.
fn beside(bed: &Bed, id: u64) -> Result<f64> {
    let key = format!("beside:{id}");
    ensure!(!bed.redis.try_cmd(&["SET", &key, "cached"])?.is_error());
    bed.sql.run(&format!("UPDATE beside SET n = n + 1 WHERE id = {id}"))?;
    let committed = Instant::now();
    while bed.redis.try_cmd(&["EXISTS", &key])? != Reply::Int(0) {
        ensure!(committed.elapsed() < PATIENCE, "{key} is still there after {PATIENCE:?}");
    }
    Ok(committed.elapsed().as_secs_f64() * 1000.0)
}
