//! Who waits while a tag with very many members goes, and very many keys that one pattern matches?

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::redis::{Redis, Reply};

use crate::bed::{Bed, DEADLINE, Visibility};
use crate::daemon::Daemon;
use crate::report::{Section, Target};
use crate::stats::{largest, median, percentile};

const SLOT: &str = "bench_huge_tag";

/// Commits of single keys before anything huge.
const BEFORE: usize = 500;

/// How long a single key may stay.
const PATIENCE: Duration = Duration::from_secs(30);

/// Rows whose keys go one at a time.
const ROWS: u64 = 1_000;

/// What Redis calls slow.
const SLOW_MICROS: &str = "10000";

pub(super) fn measure(keys: u64, section: &mut Section) -> Result<Value> {
    let bed = Bed::start(ROWS)?;
    bed.sql.run("CREATE TABLE huge (id int PRIMARY KEY, n int NOT NULL)")?;
    bed.sql.run("INSERT INTO huge VALUES (1, 0)")?;
    bed.create_slot(SLOT)?;
    let config = format!(
        "{}[[rule]]\ntable = \"public.huge\"\ntags = [\"{{id}}\"]\ndelete_matching = [\"list:*\"]\n\
         fallback = \"none\"\n",
        bed.config(SLOT, Visibility::Wait)
    );
    bed.redis.try_cmd(&["CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROS])?;
    fill(&bed.redis, keys)?;
    let daemon = Daemon::start(&config)?;
    let mut id = 0;
    let mut single = || -> Result<f64> {
        id = (id + 1) % ROWS;
        single_key(&bed, id)
    };
    eprintln!("  single keys, before a tag and a pattern of {keys} keys each");
    let before = (0..BEFORE).map(|_| single()).collect::<Result<Vec<_>>>()?;
    bed.redis.try_cmd(&["SLOWLOG", "RESET"])?;
    eprintln!("  and meanwhile");
    bed.sql.run("UPDATE huge SET n = n + 1")?;
    let started = Instant::now();
    let mut meanwhile = Vec::new();
    while bed.keys_left()? > 0 {
        meanwhile.push(single()?);
        ensure!(started.elapsed() < DEADLINE, "it never ends");
    }
    let seconds = started.elapsed().as_secs_f64();
    let end_lsn = bed.end_lsn()?;
    bed.wait_confirmed(SLOT, &end_lsn)?;
    let slow = slow_commands(&bed.redis)?;
    let peak = daemon.peak_rss_mib()?;
    daemon.stop()?;
    bed.drop_slot(SLOT)?;

    let shown = |times: &[f64]| {
        let [p50, p99] = [median(times), percentile(times, 99.0)];
        format!("{p50:.2} ms / {p99:.2} ms / {:.2} ms", largest(times))
    };
    section.row("a single key, before: p50 / p99 / longest", shown(&before));
    section.row("a huge tag and a huge pattern: done after", format!("{seconds:.1} s"));
    let measure = format!("a single key, meanwhile ({}): p50 / p99 / longest", meanwhile.len());
    section.row(measure, shown(&meanwhile));
    let p99 = percentile(&meanwhile, 99.0);
    section.judged("a single key meanwhile, p99", p99, " ms", Target::AtMost(50.0));
    let slower = slow.len() as f64;
    section.judged("commands slower than 10 ms", slower, "", Target::AtMost(0.0));
    for command in &slow {
        section.row("one of them", command);
    }
    section.judged("peak memory", peak, " MiB", Target::AtMost(64.0));
    Ok(json!({
        "before_ms": before, "meanwhile_ms": meanwhile, "seconds": seconds, "slow": slow,
        "peak_rss_mib": peak,
    }))
}

/// What Redis calls slow, with how long each took: on a machine that others share, any command may
/// be interrupted for that long.
fn slow_commands(redis: &Redis) -> Result<Vec<String>> {
    let Reply::Array(Some(entries)) = redis.try_cmd(&["SLOWLOG", "GET"])? else {
        anyhow::bail!("SLOWLOG: no list");
    };
    let shown = |entry: &Reply| match entry {
        Reply::Array(Some(parts)) => match &parts[..] {
            [_, _, Reply::Int(micros), Reply::Array(Some(args)), ..] => {
                let name = args.first().map(Reply::to_string).unwrap_or_default();
                Ok(format!("{name}, {:.1} ms", *micros as f64 / 1e3))
            }
            _ => anyhow::bail!("SLOWLOG: {entry}"),
        },
        _ => anyhow::bail!("SLOWLOG: {entry}"),
    };
    entries.iter().map(shown).collect()
}

/// Keys that a tag lists, and as many that the pattern matches.
fn fill(redis: &Redis, keys: u64) -> Result<()> {
    for prefix in ["page", "list"] {
        let reply = redis.try_cmd(&["DEBUG", "POPULATE", &keys.to_string(), prefix])?;
        ensure!(!reply.is_error(), "DEBUG POPULATE: {reply}");
    }
    let members: Vec<String> = (0..keys).map(|number| format!("page:{number}")).collect();
    let add = |members: &[String]| {
        let mut command = vec!["SADD".to_owned(), "tags:1".to_owned()];
        command.extend_from_slice(members);
        command
    };
    let commands: Vec<_> = members.chunks(1000).map(add).collect();
    let replies = redis.client()?.pipeline(&commands)?;
    ensure!(!replies.iter().any(Reply::is_error), "SADD: {:?}", replies.first());
    Ok(())
}

/// Caches a row, changes it, and waits until it is not cached any more: how many milliseconds from
/// the commit's reply.
fn single_key(bed: &Bed, id: u64) -> Result<f64> {
    let key = format!("item:{id}");
    ensure!(!bed.redis.try_cmd(&["SET", &key, "cached"])?.is_error());
    bed.sql
        .run(&format!("UPDATE items SET price = price + 1 WHERE id = {id}"))
        .context("cannot change a row")?;
    let committed = Instant::now();
    while bed.redis.try_cmd(&["EXISTS", &key])? != Reply::Int(0) {
        ensure!(committed.elapsed() < PATIENCE, "{key} is still there after {PATIENCE:?}");
    }
    Ok(committed.elapsed().as_secs_f64() * 1000.0)
}
