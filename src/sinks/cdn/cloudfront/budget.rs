//! What has CloudFront charged this month, and what may it still?
//!
//! Each path, tag and wildcard counts as one. Past the budget everything is purged by one wildcard
//! instead: that is the cheapest thing that covers the rest.
//!
//! The daemon, replays and `parked retry` count in the same file. Whoever adds to it locks the
//! directory that it stands in, never for long, and never waits for long: what cannot be added now
//! is added with the next. Two that look at the same time may both take what is left, so that the
//! budget is exceeded by one invalidation at most for each process.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::state::{write_atomically, write_atomically_like};

/// How often it is tried to lock the directory, a [`LOCK_WAIT`] apart: others hold it for as long as
/// a small file takes to be written.
const LOCK_TRIES: u32 = 20;

/// How long the thread sleeps between two of them.
const LOCK_WAIT: Duration = Duration::from_millis(1);

/// How old a count may be that is shown to people.
const SHOWN_FOR: Duration = Duration::from_secs(10);

/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 4096;

/// What a sink is charged, for all of its lanes and for whoever shows it.
#[derive(Debug)]
pub struct Charges(Mutex<Budget>);

/// A month's charges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonthCharges {
    /// `2026-11`, in UTC.
    pub month: String,
    /// How many items were charged in it.
    pub charged: u64,
    /// How many may be, if there is a bound.
    pub most: Option<u64>,
}

impl MonthCharges {
    /// What `directory` says that a sink was charged this month; `most` is its `paths_per_month`.
    pub fn read(directory: &Path, sink: &str, most: Option<u64>) -> Self {
        Budget::new(Some(directory), sink, most).shown()
    }
}

impl Charges {
    /// The charges of a sink, which are counted in `directory`, if there is one.
    pub(super) fn new(directory: Option<&Path>, sink: &str, most: Option<u64>) -> Self {
        Charges(Mutex::new(Budget::new(directory, sink, most)))
    }

    /// Whether so many more items are within the month's budget.
    pub(super) fn allow(&self, sink: &str, items: u64) -> bool {
        self.lock().allows(sink, items)
    }

    /// So many items were charged.
    pub(super) fn add(&self, items: u64) {
        self.lock().charge(items);
    }

    /// How many items this process was charged since this was last asked.
    pub fn take(&self) -> u64 {
        std::mem::take(&mut self.lock().untold)
    }

    /// What was charged this month, by whomever, as far as it is known.
    pub fn month(&self) -> MonthCharges {
        self.lock().shown()
    }

    fn lock(&self) -> MutexGuard<'_, Budget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The count of a month, in UTC as CloudFront bills.
#[derive(Debug)]
struct Budget {
    file: Option<PathBuf>,
    /// `paths_per_month`.
    most: Option<u64>,
    /// What is not in the file: everything, if there is none.
    unwritten: Count,
    /// What was charged since that was last asked.
    untold: u64,
    /// What was shown last, and when.
    shown: Option<(MonthCharges, Instant)>,
    is_told: bool,
    is_failing: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    /// `2026-11`.
    month: String,
    charged: u64,
}

impl Count {
    /// What of it is of that month.
    fn of(&self, month: &str) -> u64 {
        if self.month == month { self.charged } else { 0 }
    }
}

impl Budget {
    fn new(directory: Option<&Path>, sink: &str, most: Option<u64>) -> Self {
        let name = format!("cloudfront-{sink}.count.json");
        Budget {
            file: directory.map(|directory| directory.join(name)),
            most,
            unwritten: Count::default(),
            untold: 0,
            shown: None,
            is_told: false,
            is_failing: false,
        }
    }

    fn allows(&mut self, sink: &str, items: u64) -> bool {
        let Some(most) = self.most else { return true };
        let charged = self.charged(&this_month());
        let is_allowed = charged.saturating_add(items) <= most;
        if is_allowed {
            self.is_told = false;
        } else if !std::mem::replace(&mut self.is_told, true) {
            warn!(
                sink,
                charged,
                paths_per_month = most,
                "the month's budget is used up: what is left of it purges everything at once"
            );
        }
        is_allowed
    }

    fn charge(&mut self, items: u64) {
        let month = this_month();
        let charged = self.unwritten.of(&month).saturating_add(items);
        self.unwritten = Count { month, charged };
        self.untold = self.untold.saturating_add(items);
        self.shown = None;
        let Some(file) = &self.file else { return };
        match write(file, &self.unwritten) {
            Ok(()) => {
                self.unwritten = Count::default();
                self.is_failing = false;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if std::mem::replace(&mut self.is_failing, true) => drop(error),
            Err(error) => {
                error!(file = %file.display(), "the month's count cannot be kept: {error}");
            }
        }
    }

    /// What was charged in a month. Another month has a budget of its own.
    fn charged(&self, month: &str) -> u64 {
        let written = self.file.as_deref().map_or(0, |file| read(file).of(month));
        written.saturating_add(self.unwritten.of(month))
    }

    fn shown(&mut self) -> MonthCharges {
        if let Some((shown, at)) = &self.shown
            && at.elapsed() < SHOWN_FOR
        {
            return shown.clone();
        }
        let month = this_month();
        let shown = MonthCharges { charged: self.charged(&month), month, most: self.most };
        self.shown.insert((shown, Instant::now())).0.clone()
    }
}

/// What a file says; nothing, if it does not make sense.
fn read(file: &Path) -> Count {
    let read = || {
        let mut text = Vec::new();
        io::Read::read_to_end(
            &mut io::Read::take(File::open(file).ok()?, FILE_BYTES_MAX),
            &mut text,
        )
        .ok()?;
        serde_json::from_slice(&text).ok()
    };
    read().unwrap_or_default()
}

/// Adds a count to what a file says.
fn write(file: &Path, more: &Count) -> io::Result<()> {
    // The file itself is replaced.
    let _locked = file.parent().map(lock).transpose()?;
    let charged = read(file).of(&more.month).saturating_add(more.charged);
    let bytes = serde_json::to_vec(&Count { month: more.month.clone(), charged })?;
    match std::fs::metadata(file).or_else(|_| file.parent().unwrap_or(file).metadata()) {
        // It stays the daemon's, whoever replays.
        Ok(old) => write_atomically_like(file, &bytes, &old),
        Err(_) => write_atomically(file, &bytes),
    }
}

/// Locks a directory for a moment.
///
/// # Errors
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if somebody else has it.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    let opened = match File::open(directory) {
        // It is made when something is written.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    for _ in 1..LOCK_TRIES {
        match opened.try_lock() {
            Ok(()) => return Ok(Some(opened)),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_WAIT),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    opened.try_lock()?;
    Ok(Some(opened))
}

fn this_month() -> String {
    jiff::Timestamp::now().strftime("%Y-%m").to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    #[test]
    fn a_month_is_counted_over_restarts_and_the_next_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Budget::new(Some(dir.path()), "site", Some(10));
        let mut budget = open();
        assert!(budget.allows("site", 10) && !budget.allows("site", 11));
        budget.charge(9);
        let mut budget = open();
        assert!(budget.allows("site", 1) && !budget.allows("site", 2));
        let MonthCharges { charged, most, month } = budget.shown();
        assert_eq!((charged, most, month), (9, Some(10), this_month()));
        assert_eq!(budget.charged("1999-12"), 0);
        assert!(Budget::new(None, "site", None).allows("site", u64::MAX));
        let mut unkept = Budget::new(None, "site", Some(10));
        unkept.charge(10);
        assert!(!unkept.allows("site", 1));
    }

    #[test]
    fn whoever_counts_beside_another_loses_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let counting: Vec<_> = (0..4)
            .map(|_| {
                let directory = dir.path().to_owned();
                std::thread::spawn(move || {
                    let mut budget = Budget::new(Some(&directory), "site", None);
                    for _ in 0..25 {
                        budget.charge(1);
                    }
                    // What it could not add is added with the next.
                    while budget.unwritten.charged > 0 {
                        budget.charge(0);
                    }
                })
            })
            .collect();
        counting.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(Budget::new(Some(dir.path()), "site", None).shown().charged, 100);
    }

    #[test]
    fn nobody_waits_for_one_who_does_not_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut budget = Budget::new(Some(dir.path()), "site", Some(10));
        let stuck = File::open(dir.path()).unwrap();
        stuck.lock().unwrap();
        budget.charge(9);
        assert!(!budget.allows("site", 2), "it counts all the same");
        drop(stuck);
        budget.charge(1);
        let mut other = Budget::new(Some(dir.path()), "site", Some(10));
        assert_eq!(other.shown().charged, 10);
    }

    #[test]
    fn nonsense_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cloudfront-site.count.json"), "{").unwrap();
        let mut budget = Budget::new(Some(dir.path()), "site", Some(10));
        budget.charge(3);
        assert_eq!(budget.shown().charged, 3);
    }
}
