//! How long after a commit's reply is the key gone, compared with the application's own UNLINK?

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::redis::{Client, Reply};
use tokio_postgres::Statement;

use crate::bed::{Bed, Visibility};
use crate::daemon::Daemon;
use crate::report::{Section, Target};
use crate::size;
use crate::stats::{median, percentile};

/// In how many blocks a contender's commits are measured, in turn with the others'.
const BLOCKS: u64 = 10;

const SLOT: &str = "bench_latency";

/// How long a key may stay.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who removes the key.
#[derive(Clone, Copy)]
enum Remover {
    Application,
    Walpurge(Visibility),
}

/// The application: commits, and looks at its cache.
struct Application<'b> {
    bed: &'b Bed,
    update: Statement,
    /// On which it removes keys.
    redis: Client,
    /// On which it looks whether they are gone.
    looker: Client,
    next_id: u64,
}

/// Times from commits' replies, in milliseconds.
#[derive(Default)]
struct Times {
    /// To the first look that did not find the key.
    gone_ms: Vec<f64>,
    /// To the reply to the application's own UNLINK.
    reply_ms: Vec<f64>,
}

pub(super) fn run() -> Result<Section> {
    let commits = size::COMMITS.get()?;
    let bed = Bed::start(10_000)?;
    bed.create_slot(SLOT)?;
    let sql = "UPDATE items SET price = price + 1, updated_at = clock_timestamp() WHERE id = $1";
    let mut application = Application {
        bed: &bed,
        update: bed.sql.prepare(sql)?,
        redis: bed.redis.client()?,
        looker: bed.redis.client()?,
        next_id: 0,
    };
    let contenders = [
        Remover::Application,
        Remover::Walpurge(Visibility::Wait),
        Remover::Walpurge(Visibility::Skip),
    ];
    let mut times = contenders.map(|_| Times::default());
    let blocks = BLOCKS.min(commits);
    for block in 0..blocks {
        eprintln!("  block {} of {blocks}", block + 1);
        let in_block = commits * (block + 1) / blocks - commits * block / blocks;
        for (remover, times) in contenders.into_iter().zip(&mut times) {
            measure_block(&mut application, remover, in_block, times)?;
        }
    }
    Ok(section(commits, &times))
}

fn measure_block(
    application: &mut Application<'_>,
    remover: Remover,
    commits: u64,
    times: &mut Times,
) -> Result<()> {
    let bed = application.bed;
    let daemon = match remover {
        Remover::Application => None,
        Remover::Walpurge(visibility) => {
            let daemon = Daemon::start(&bed.config(SLOT, visibility))?;
            // It has caught up with the others' commits.
            let end_lsn = bed.end_lsn()?;
            bed.wait_confirmed(SLOT, &end_lsn)?;
            Some(daemon)
        }
    };
    for _ in 0..commits {
        application.commit(remover, times)?;
    }
    daemon.map_or(Ok(()), Daemon::stop)
}

impl Application<'_> {
    /// Caches an item, changes it, and waits until it is not cached any more.
    fn commit(&mut self, remover: Remover, times: &mut Times) -> Result<()> {
        let id = self.next_id;
        self.next_id = (id + 1) % self.bed.items;
        let key = format!("item:{id}");
        ensure!(!self.redis.cmd(&["SET", &key, "cached"])?.is_error());
        self.bed.sql.commit(&self.update, i64::try_from(id)?)?;

        let committed = Instant::now();
        if matches!(remover, Remover::Application) {
            self.redis.cmd(&["UNLINK", &key])?;
            times.reply_ms.push(milliseconds(committed));
        }
        while self.looker.cmd(&["EXISTS", &key])? != Reply::Int(0) {
            ensure!(committed.elapsed() < PATIENCE, "{key} is still there after {PATIENCE:?}");
        }
        times.gone_ms.push(milliseconds(committed));
        Ok(())
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn section(commits: u64, [own, wait, skip]: &[Times; 3]) -> Section {
    let mut section = Section::new(
        format!(
            "{commits} commits for each, one at a time, in turn by blocks. Measured from the \
             commit's reply to the first EXISTS, in a tight loop on a connection of its own, that \
             finds nothing; for the application's own UNLINK (daemon stopped) in the same way."
        ),
        json!({
            "own_ms": own.gone_ms, "own_reply_ms": own.reply_ms,
            "wait_ms": wait.gone_ms, "skip_ms": skip.gone_ms,
        }),
    );
    let shown =
        |values: &[f64]| format!("{:.3} ms / {:.3} ms", median(values), percentile(values, 99.0));
    section.row("own UNLINK, p50 / p99", shown(&own.gone_ms));
    section.row("own UNLINK to its reply alone, p50 / p99", shown(&own.reply_ms));
    section.row("walpurge, \"wait\", p50 / p99", shown(&wait.gone_ms));
    section.row("walpurge, \"skip\", p50 / p99", shown(&skip.gone_ms));
    let baseline = median(&own.gone_ms);
    let ratio = |times: &Times| median(&times.gone_ms) / baseline;
    section.judged("p50, \"wait\" to own", ratio(wait), "", Target::AtMost(3.5));
    section.judged("p50, \"skip\" to own", ratio(skip), "", Target::AtMost(2.2));
    let p99 = percentile(&wait.gone_ms, 99.0);
    section.judged("p99, \"wait\"", p99, " ms", Target::AtMost(2.0));
    section
}
