//! Once more what a sink refused, and what becomes of it in the file.
//!
//! What is to be tried is marked in the file first. A daemon that runs keeps a refusal only once;
//! of what is marked it keeps another one, since it may come after the trial. So nothing is lost
//! whenever the daemon or the trial is interrupted; at most something is tried twice.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{read, rewrite};
use super::{Record, hash};
use crate::failpoint::Place;

/// How many outcomes are noted at once: a crash repeats no more than these.
const NOTE_EVERY: usize = 500;

/// What became of one trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It is done.
    Done,
    /// The sink refuses it again, for this reason.
    Refused(String),
    /// The sink was not reached, so that nobody knows.
    Left,
}

/// What is tried once more.
#[derive(Debug)]
pub struct Retry {
    file: PathBuf,
    /// What is not noted in the file yet.
    outcomes: HashMap<u64, Tried>,
}

impl Retry {
    /// Marks the records that `is_meant` picks, and answers with each of them once, in order.
    ///
    /// # Errors
    /// If the file cannot be read, or not be written.
    pub fn begin(
        file: &Path,
        is_meant: impl Fn(&Record) -> bool,
    ) -> io::Result<(Self, Vec<Record>)> {
        let mut meant: Vec<Record> = Vec::new();
        let mut known = std::collections::HashSet::new();
        rewrite(file, |mut record| {
            if is_meant(&record) {
                record.retrying = true;
                if known.insert(hash(&record)) {
                    meant.push(record.clone());
                }
            }
            Some(record)
        })?;
        Place::RetryMarked.pass();
        Ok((Retry { file: file.to_owned(), outcomes: HashMap::new() }, meant))
    }

    /// Takes what became of a record.
    ///
    /// # Errors
    /// If that cannot be noted.
    pub fn tried(&mut self, record: &Record, outcome: Tried) -> io::Result<()> {
        self.outcomes.insert(hash(record), outcome);
        match self.outcomes.len() >= NOTE_EVERY {
            true => self.note(),
            false => Ok(()),
        }
    }

    /// Removes what is done from the file; what is not stays, with the last reason, and is kept but
    /// once again.
    ///
    /// # Errors
    /// If that cannot be noted.
    pub fn note(&mut self) -> io::Result<()> {
        Place::RetryTried.pass();
        let outcomes = std::mem::take(&mut self.outcomes);
        // What the daemon has kept anew meanwhile says more.
        let again = read(&self.file)?.records.into_iter().filter(|record| !record.retrying);
        let again: std::collections::HashSet<u64> = again.map(|record| hash(&record)).collect();
        rewrite(&self.file, |mut record| {
            let hash = hash(&record);
            let Some(outcome) = outcomes.get(&hash).filter(|_| record.retrying) else {
                return Some(record);
            };
            if *outcome == Tried::Done || again.contains(&hash) {
                return None;
            }
            if let Tried::Refused(reason) = outcome {
                record.reason.clone_from(reason);
            }
            record.retrying = false;
            Some(record)
        })?;
        Place::RetryNoted.pass();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Parked, file_in};
    use super::*;
    use crate::action::{Action, Verb};

    fn record(value: &str) -> Record {
        let action = Action { verb: Verb::Bump, value: value.as_bytes() };
        Record::action("cache", "wrong type", action)
    }

    fn kept(file: &Path) -> Vec<(String, String, bool)> {
        let records = read(file).unwrap().records.into_iter();
        let shown = |record: Record| (record.what.value.unwrap(), record.reason, record.retrying);
        records.map(shown).collect()
    }

    fn line(value: &str, reason: &str, retrying: bool) -> (String, String, bool) {
        (value.into(), reason.into(), retrying)
    }

    #[test]
    fn what_is_done_goes_and_what_is_refused_stays_with_its_last_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (mut daemon, file) = (Parked::open(Some(dir.path())), file_in(dir.path()));
        ["a", "b", "c", "d"].iter().for_each(|value| daemon.park(&record(value)));
        let is_meant = |record: &Record| record.what.value.as_deref() != Some("d");
        let (mut retry, meant) = Retry::begin(&file, is_meant).unwrap();
        assert_eq!(meant.len(), 3);
        for (record, outcome) in
            meant.iter().zip([Tried::Done, Tried::Refused("no".into()), Tried::Left])
        {
            retry.tried(record, outcome).unwrap();
        }
        assert!(kept(&file).contains(&line("a", "wrong type", true)), "not noted yet");
        retry.note().unwrap();
        let left = [
            line("b", "no", false),
            line("c", "wrong type", false),
            line("d", "wrong type", false),
        ];
        assert_eq!(kept(&file), left);
        // The daemon knows which of them it would keep a second time.
        ["a", "b", "c", "d"].iter().for_each(|value| daemon.park(&record(value)));
        assert_eq!(kept(&file)[..3], left);
        assert_eq!(kept(&file)[3..], [line("a", "wrong type", false)]);
    }

    #[test]
    fn a_refusal_during_the_trial_is_not_taken_for_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (mut daemon, file) = (Parked::open(Some(dir.path())), file_in(dir.path()));
        daemon.park(&record("a"));
        let (mut retry, meant) = Retry::begin(&file, |_| true).unwrap();
        daemon.park(&record("a"));
        daemon.park(&record("a"));
        assert_eq!(kept(&file).len(), 2);
        retry.tried(&meant[0], Tried::Done).unwrap();
        retry.note().unwrap();
        assert_eq!(kept(&file), [line("a", "wrong type", false)]);
        // Refused both times: once is enough.
        let (mut retry, meant) = Retry::begin(&file, |_| true).unwrap();
        daemon.park(&record("a"));
        retry.tried(&meant[0], Tried::Refused("no".into())).unwrap();
        retry.note().unwrap();
        assert_eq!(kept(&file), [line("a", "wrong type", false)]);
    }

    #[test]
    fn an_interrupted_trial_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (mut daemon, file) = (Parked::open(Some(dir.path())), file_in(dir.path()));
        daemon.park(&record("a"));
        drop(Retry::begin(&file, |_| true).unwrap());
        assert_eq!(kept(&file), [line("a", "wrong type", true)]);
        // A daemon that starts now does not count on it.
        Parked::open(Some(dir.path())).park(&record("a"));
        let (mut retry, meant) = Retry::begin(&file, |_| true).unwrap();
        assert_eq!(meant.len(), 1);
        retry.tried(&meant[0], Tried::Done).unwrap();
        retry.note().unwrap();
        assert!(kept(&file).is_empty());
    }
}
