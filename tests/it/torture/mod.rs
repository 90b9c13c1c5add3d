//! Everything at once: writers, readers, and faults at random from a seed.
//!
//! Each round ends with everything confirmed and an exact verdict: what is cached is what the rows
//! say, keys of rows that nobody wrote are still there, and no counter has gone back.
//! `make torture` runs it for as long as asked, from any seed.

mod clients;
mod load;
mod plan;
mod shop;
mod site;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use clients::{Cache, Sql, command, text};
use load::{Load, version_page};
use shop::{ENTITIES, Kind};
use site::Site;

use crate::world::Plugin;

const WRITERS: usize = 4;
const READERS: usize = 4;

/// How long a round's faults go on, in the tests and when one asks for more.
const SHORT: Duration = Duration::from_secs(12);
const LONG: Duration = Duration::from_secs(20);

/// How many stale keys are shown.
const SHOWN_MAX: usize = 10;

/// What came of it.
#[derive(Debug, Default)]
struct Report {
    seed: u64,
    rounds: u64,
    committed: u64,
    /// Filled keys that are gone, and counters that were seen to have been raised.
    invalidated: u64,
    /// Keys whose rows say something else.
    stale: u64,
    /// Keys of rows that nobody has written and that are gone.
    overdone: u64,
    /// How often a counter was seen to have gone back.
    repeated: u64,
    faults: String,
    shown: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, rounds, committed, invalidated, stale, overdone, repeated, .. } = self;
        writeln!(
            f,
            "seed {seed}, {rounds} rounds: {committed} transactions, {invalidated} invalidations"
        )?;
        writeln!(f, "  faults: {}", self.faults)?;
        write!(f, "  stale {stale}, overdone {overdone}, counters gone back {repeated}")?;
        self.shown.iter().try_for_each(|shown| write!(f, "\n  {shown}"))
    }
}

/// One world, tortured.
struct Torture {
    site: Site,
    sql: Sql,
    cache: Cache,
    report: Report,
    filled: u64,
}

impl Torture {
    fn new(plugin: Plugin, seed: u64, failpoint: Option<&'static str>) -> Self {
        let site = Site::new(plugin, failpoint);
        let sql = Sql::new(&site.world.pg.url("postgres", "postgres"));
        let mut cache = Cache::new(&site.world.redis.socket());
        let kept = shop::kept_keys();
        let sets: Vec<_> = kept.iter().map(|key| command(&["SET", key, "1"])).collect();
        cache.must(&sets);
        // Readers wait for a counter's first value.
        let seed_of = |e| command(&["SET", &format!("cat:{e}:version"), "1"]);
        cache.must(&(0..ENTITIES).map(seed_of).collect::<Vec<_>>());
        Torture { site, sql, cache, report: Report { seed, ..Report::default() }, filled: 0 }
    }

    /// One round: load and faults, then peace, then a verdict.
    fn round(&mut self, length: Duration) {
        let round = self.report.rounds;
        self.report.rounds += 1;
        let mut rng = Rng::with_seed(self.report.seed.wrapping_mul(1_000_003).wrapping_add(round));
        let plan = plan::plan(&mut rng, length);
        let load = Arc::new(Load::new(length));
        let mut threads = Vec::new();
        let url = self.site.world.pg.url("postgres", "postgres");
        for writer in 0..WRITERS {
            let (load, rng, sql) = (Arc::clone(&load), rng.fork(), Sql::new(&url));
            let first = (round * WRITERS as u64 + writer as u64) * 1_000_000_000;
            threads.push(thread::spawn(move || load.write(rng, sql, writer, first)));
        }
        for _ in 0..READERS {
            let (load, rng, sql) = (Arc::clone(&load), rng.fork(), Sql::new(&url));
            let cache = Cache::new(&self.site.world.redis.socket());
            threads.push(thread::spawn(move || load.read(rng, sql, cache)));
        }
        let start = Instant::now();
        for (at, step) in plan {
            testkit::wait_until("the next step's time", length + at, || start.elapsed() >= at);
            self.site.take(step);
        }
        self.site.mend();
        load.stop();
        for thread in threads {
            thread.join().unwrap();
        }
        self.site.wait_confirmed();
        self.judge(&load);
    }

    fn judge(&mut self, load: &Load) {
        self.report.committed += load.committed.load(Ordering::SeqCst);
        let mut present = 0;
        for kind in Kind::ALL {
            let mut rows = self.sql.rows(&kind.truth(0, ENTITIES - 1));
            if kind == Kind::Cat {
                self.judge_versions(load, &mut rows);
            }
            let gets: Vec<_> = rows.iter().map(|(key, _)| command(&["GET", key])).collect();
            let cached = self.cache.must(&gets);
            for ((key, truth), cached) in rows.iter().zip(&cached) {
                let Some(cached) = text(cached) else { continue };
                present += u64::from(kind != Kind::Cat);
                if cached != *truth {
                    self.report.stale += 1;
                    if self.report.shown.len() < SHOWN_MAX {
                        let round = self.report.rounds;
                        let shown = format!("{key} holds {cached} and not {truth}, round {round}");
                        self.report.shown.push(shown);
                    }
                }
            }
        }
        self.filled += load.filled.load(Ordering::SeqCst);
        self.report.invalidated +=
            (self.filled - present.min(self.filled)) + load.bumped.load(Ordering::SeqCst);
        self.filled = present;
        self.report.repeated += load.repeated.load(Ordering::SeqCst);
        let exists = |key: &String| command(&["EXISTS", key]);
        let kept: Vec<_> = shop::kept_keys().iter().map(exists).collect();
        let gone = self.cache.must(&kept);
        let gone = gone.iter().filter(|reply| **reply != testkit::redis::Reply::Int(1));
        self.report.overdone = gone.count() as u64;
        let faults = self.site.faults.iter().map(|(fault, count)| format!("{count} {fault}"));
        self.report.faults = faults.collect::<Vec<_>>().join(", ");
    }

    /// Puts the pages of the counters' values in the place of the counters.
    fn judge_versions(&mut self, load: &Load, rows: &mut [(String, String)]) {
        let counter = |e| command(&["GET", &format!("cat:{e}:version")]);
        let gets: Vec<_> = (0..ENTITIES).map(counter).collect();
        let versions = self.cache.must(&gets);
        for (e, (row, version)) in rows.iter_mut().zip(&versions).enumerate() {
            let version = text(version).and_then(|version| version.parse().ok());
            if let Some(version) = version {
                load.judge_version(e, version);
            }
            row.0 = version_page(e, version.unwrap_or_default());
        }
    }
}

impl Torture {
    #[track_caller]
    fn assert_clean(&mut self) {
        let report = &self.report;
        let is_clean = (report.stale, report.overdone, report.repeated) == (0, 0, 0);
        assert!(is_clean, "{report}\n{}", self.site.report());
        assert!(report.committed > 0 && report.invalidated > 0, "{report}");
    }
}

#[test]
fn a_short_torture_loses_nothing() {
    assert_short_torture_loses_nothing(Plugin::asked());
}

pub fn assert_short_torture_loses_nothing(plugin: Plugin) {
    let mut torture = Torture::new(plugin, 1, None);
    torture.round(SHORT);
    eprintln!("{}", torture.report);
    torture.assert_clean();
}

#[test]
fn the_torture_catches_a_build_that_confirms_before_it_acts() {
    let mut torture = Torture::new(Plugin::asked(), 1, Some("confirm_early"));
    while torture.report.stale == 0 {
        assert!(torture.report.rounds < 5, "nobody has noticed: {}", torture.report);
        torture.round(SHORT);
    }
    eprintln!("{}", torture.report);
}

#[test]
#[ignore = "as long as one likes: make torture"]
fn for_as_long_as_asked() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let minutes = asked("MINUTES").unwrap_or(30);
    let seed = asked("SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let failpoint = std::env::var("BREAK").ok().filter(|name| !name.is_empty());
    let failpoint = failpoint.map(|name| &*name.leak());
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let plugin = Plugin::asked();
    eprintln!("seed {seed}, {minutes} minutes, {}", plugin.name());
    let mut torture = Torture::new(plugin, seed, failpoint);
    while Instant::now() < end {
        torture.round(LONG);
        eprintln!("{}", torture.report);
        if failpoint.is_none() {
            torture.assert_clean();
        }
    }
    assert!(failpoint.is_none() || torture.report.stale > 0, "nobody has noticed");
}
