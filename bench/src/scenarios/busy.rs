//! How late is an invalidation while the server is busy with others?
//!
//! Nobody looks in a loop here, since that would take a processor from the others: Redis tells of
//! the key's end.

use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::TestDir;
use testkit::process::{Process, Signal};
use testkit::redis::Reply;

use crate::bed::{Bed, Plugin, Visibility};
use crate::daemon::Daemon;
use crate::report::Section;
use crate::size;
use crate::stats::{median, percentile, thousands};

/// Commits a second that are asked for beside the measured ones.
const RATE: u64 = 5_000;

/// Items whose keys are measured; as many others change meanwhile.
const ITEMS: u64 = 10_000;

/// In how many blocks a contender's commits are measured, in turn with the others'.
const BLOCKS: u64 = 4;

/// How long the others work before somebody measures.
const WARM_UP: Duration = Duration::from_secs(1);

/// How long a key may stay.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where Redis tells of keys that are removed.
const REMOVED: &str = "__keyevent@0__:del";

/// Who removes the key.
#[derive(Clone, Copy)]
enum Remover {
    Application,
    Walpurge(Plugin, Visibility),
}

const CONTENDERS: [Remover; 5] = [
    Remover::Application,
    Remover::Walpurge(Plugin::Wal2json, Visibility::Wait),
    Remover::Walpurge(Plugin::Wal2json, Visibility::Skip),
    Remover::Walpurge(Plugin::Pgoutput, Visibility::Wait),
    Remover::Walpurge(Plugin::Pgoutput, Visibility::Skip),
];

#[derive(Default)]
struct Times {
    /// From the commit's reply to the moment at which the application hears of its key's end.
    gone_ms: Vec<f64>,
    /// Commits a second meanwhile, the measured ones included.
    rates: Vec<f64>,
}

pub(super) fn run() -> Result<Section> {
    let commits = size::COMMITS.get()?;
    let bed = Bed::start(2 * ITEMS)?;
    for plugin in Plugin::BOTH {
        bed.create_slot_for(plugin, &slot(plugin))?;
    }
    let reply = bed.redis.try_cmd(&["CONFIG", "SET", "notify-keyspace-events", "Eg"])?;
    ensure!(!reply.is_error(), "CONFIG SET: {reply}");
    let heard = listen(&bed)?;
    let mut times = CONTENDERS.map(|_| Times::default());
    let in_block = commits.div_ceil(BLOCKS);
    for block in 0..BLOCKS {
        eprintln!("  block {} of {BLOCKS}", block + 1);
        for (remover, times) in CONTENDERS.into_iter().zip(&mut times) {
            measure_block(&bed, &heard, remover, block * in_block, in_block, times)?;
        }
    }
    Ok(section(in_block * BLOCKS, &times))
}

fn slot(plugin: Plugin) -> String {
    format!("bench_busy_{}", plugin.name())
}

/// Hears which keys are removed, and when.
fn listen(bed: &Bed) -> Result<Receiver<(Vec<u8>, Instant)>> {
    let mut client = bed.redis.client()?;
    client.set_timeout(None)?;
    client.cmd(&["SUBSCRIBE", REMOVED])?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        while let Ok(reply) = client.read_reply() {
            let now = Instant::now();
            if let Reply::Array(Some(mut parts)) = reply
                && let Some(Reply::Bulk(Some(key))) = parts.pop()
                && sender.send((key, now)).is_err()
            {
                break;
            }
        }
    });
    Ok(receiver)
}

fn measure_block(
    bed: &Bed,
    heard: &Receiver<(Vec<u8>, Instant)>,
    remover: Remover,
    first: u64,
    commits: u64,
    times: &mut Times,
) -> Result<()> {
    let daemon = match remover {
        Remover::Application => None,
        Remover::Walpurge(plugin, visibility) => {
            let slot = slot(plugin);
            let daemon = Daemon::start(&bed.config_of(plugin, &slot, visibility))?;
            // It has caught up with the others' commits.
            let end_lsn = bed.end_lsn()?;
            bed.wait_confirmed(&slot, &end_lsn)?;
            Some(daemon)
        }
    };
    let dir = TestDir::new("bench-busy");
    let others = others(bed, &dir)?;
    std::thread::sleep(WARM_UP);
    let update = bed.sql.prepare("UPDATE items SET price = price + 1 WHERE id = $1")?;
    let mut redis = bed.redis.client()?;
    let (begin, xid) = (Instant::now(), next_xid(bed)?);
    for id in (first..).take(usize::try_from(commits)?) {
        let key = format!("item:{}", id % ITEMS);
        ensure!(!redis.cmd(&["SET", &key, "cached"])?.is_error());
        bed.sql.commit(&update, i64::try_from(id % ITEMS)?)?;
        let committed = Instant::now();
        if matches!(remover, Remover::Application) {
            redis.cmd(&["UNLINK", &key])?;
        }
        loop {
            let (gone, at) =
                heard.recv_timeout(PATIENCE).with_context(|| format!("{key} stays"))?;
            if gone == key.as_bytes() {
                let late = at.saturating_duration_since(committed);
                times.gone_ms.push(late.as_secs_f64() * 1000.0);
                break;
            }
        }
    }
    times.rates.push((next_xid(bed)? - xid) / begin.elapsed().as_secs_f64());
    drop(others);
    daemon.map_or(Ok(()), Daemon::stop)
}

/// Clients that change the other items, until they are dropped.
fn others(bed: &Bed, dir: &TestDir) -> Result<Process> {
    let script = dir.join("update.sql");
    std::fs::write(
        &script,
        format!(
            "\\set id random({ITEMS}, {})\nUPDATE items SET stock = stock + 1 WHERE id = :id;\n",
            2 * ITEMS - 1
        ),
    )?;
    let mut command: Command = bed.postgres.client("pgbench");
    command.args(["--no-vacuum", "--client", "4", "--protocol", "prepared", "--time", "3600"]);
    command.arg("--rate").arg(RATE.to_string()).arg("--file").arg(&script).arg("postgres");
    Process::spawn("pgbench", command, &dir.join("pgbench.log"), Signal::TERM)
}

/// How many transactions have written so far.
fn next_xid(bed: &Bed) -> Result<f64> {
    let xid = bed.sql.run("SELECT pg_snapshot_xmax(pg_current_snapshot())")?;
    Ok(xid.context("no transaction ID")?.parse()?)
}

fn section(commits: u64, times: &[Times; CONTENDERS.len()]) -> Section {
    let mut section = Section::new(
        format!(
            "{commits} commits for each contender, one at a time, while other clients are asked \
             for {} commits a second on the same table, in turn by blocks. From the commit's reply \
             until the application hears from Redis that its key is gone; its own UNLINK (daemon \
             stopped) in the same way.",
            thousands(RATE as f64)
        ),
        Value::Null,
    );
    let mut raw = Vec::new();
    for (remover, times) in CONTENDERS.into_iter().zip(times) {
        let name = remover.name();
        let [p50, p99] = [median(&times.gone_ms), percentile(&times.gone_ms, 99.0)];
        section.row(
            format!("{name}: p50 / p99, and commits a second meanwhile"),
            format!("{p50:.3} ms / {p99:.3} ms, {}", thousands(median(&times.rates))),
        );
        raw.push(json!({ "remover": name, "gone_ms": times.gone_ms, "rates": times.rates }));
    }
    let own = median(&times[0].gone_ms);
    for (remover, times) in CONTENDERS.into_iter().zip(times).skip(1) {
        let ratio = median(&times.gone_ms) / own;
        section.row(format!("{}: p50 to own", remover.name()), format!("{ratio:.2}"));
    }
    section.raw = json!(raw);
    section
}

impl Remover {
    fn name(self) -> String {
        match self {
            Remover::Application => "own UNLINK".to_owned(),
            Remover::Walpurge(plugin, visibility) => {
                format!("walpurge, {}, {:?}", plugin.name(), visibility.name())
            }
        }
    }
}
