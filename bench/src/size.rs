//! How much is measured? Environment variables, so that a small machine can do less.

use anyhow::{Context, Result, ensure};

/// A size that can be given.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    name: &'static str,
    default: u64,
}

/// Changes in the backlog: at least 5 s of work for pg_recvlogical.
pub(crate) const CHANGES: Size = Size { name: "BENCH_CHANGES", default: 600_000 };

/// Paired runs.
pub(crate) const RUNS: Size = Size { name: "BENCH_RUNS", default: 5 };

/// Rows that change in a backlog of another shape.
pub(crate) const SHAPE: Size = Size { name: "BENCH_SHAPE", default: 200_000 };

/// Paired runs over such a backlog, and over that of the script.
pub(crate) const SHAPE_RUNS: Size = Size { name: "BENCH_SHAPE_RUNS", default: 3 };

/// Changes in the longest of the growing backlogs.
pub(crate) const GROWTH: Size = Size { name: "BENCH_GROWTH", default: 1_000_000 };

/// Changes in the backlog that the script drains.
pub(crate) const SCRIPT: Size = Size { name: "BENCH_SCRIPT", default: 150_000 };

/// Rows of the one huge transaction.
pub(crate) const HUGE: Size = Size { name: "BENCH_HUGE", default: 1_000_000 };

/// Commits of each contender whose latency is measured.
pub(crate) const COMMITS: Size = Size { name: "BENCH_COMMITS", default: 2_000 };

/// Seconds of idleness.
pub(crate) const IDLE: Size = Size { name: "BENCH_IDLE", default: 60 };

/// Paths of the one transaction that goes to an HTTP endpoint.
pub(crate) const PATHS: Size = Size { name: "BENCH_PATHS", default: 1_000_000 };

/// Changed products of the one transaction that goes to CloudFront.
pub(crate) const UPDATES: Size = Size { name: "BENCH_UPDATES", default: 100_000 };

/// Keys that the Redis sink removes by itself, and of the huge tag and the huge pattern.
pub(crate) const KEYS: Size = Size { name: "BENCH_KEYS", default: 1_000_000 };

impl Size {
    /// Its value: a number above zero, in which `_` may part digits.
    pub(crate) fn get(self) -> Result<u64> {
        let Some(value) = std::env::var_os(self.name).filter(|value| !value.is_empty()) else {
            return Ok(self.default);
        };
        let text = value.to_string_lossy().replace('_', "");
        let number: u64 = text.parse().with_context(|| format!("{}={text:?}", self.name))?;
        ensure!(number > 0, "{} must be above zero", self.name);
        Ok(number)
    }
}
