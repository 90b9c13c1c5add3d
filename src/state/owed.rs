//! What is owed: the fallbacks of sinks that are off and of rules that are disabled, which run once
//! when they are on again, and of rules whose tables a publication has not carried for a while.
//!
//! A debt is on disk before anything is dropped for it, and forgotten only when its fallbacks are
//! done. A file that cannot be read is a debt to everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::write_json;

/// The file's name in `state_dir`.
const FILE_NAME: &str = "owed.json";

/// The layout of the file.
const VERSION: u32 = 1;

/// The debts.
#[derive(Debug, Default)]
pub struct Owed {
    /// `None`: there is no `state_dir`, so that they are forgotten with the process.
    file: Option<PathBuf>,
    debts: Debts,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Debts {
    version: u32,
    /// Nobody knows to whom: the file could not be read.
    #[serde(default)]
    everybody: bool,
    #[serde(default)]
    sinks: BTreeSet<String>,
    #[serde(default)]
    rules: BTreeSet<String>,
    /// Replicas that were not waited for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    replicas: BTreeSet<String>,
    /// For each of the rules' tables what changes whenever the publication may not have carried it
    /// for a while; [`NOT_CARRIED`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    published: BTreeMap<String, String>,
}

/// The version of a table that the publication does not carry.
const NOT_CARRIED: &str = "";

/// What has become of the rules' tables in the publication since it was looked at before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// These are not carried any more.
    pub lost: BTreeSet<String>,
    /// These are carried now, and may not have been for a while.
    pub back: BTreeSet<String>,
}

impl Carried {
    /// Whether there is nothing new.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.back.is_empty()
    }
}

/// What is to be paid now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Every fallback at every sink.
    pub everybody: bool,
    /// Every fallback at these sinks.
    pub sinks: BTreeSet<String>,
    /// The fallbacks of these rules, at every sink.
    pub rules: BTreeSet<String>,
}

impl Due {
    /// Whether there is nothing to pay.
    pub fn is_empty(&self) -> bool {
        !self.everybody && self.sinks.is_empty() && self.rules.is_empty()
    }

    /// Whether a rule's fallback is to run at a sink.
    pub fn includes(&self, rule: &str, sink: &str) -> bool {
        self.everybody || self.sinks.contains(sink) || self.rules.contains(rule)
    }
}

impl Owed {
    /// Reads what an earlier run has left.
    pub fn open(state_dir: Option<&Path>) -> Self {
        let Some(directory) = state_dir else { return Owed::default() };
        let file = directory.join(FILE_NAME);
        let debts = match std::fs::read(&file) {
            Ok(bytes) => match serde_json::from_slice::<Debts>(&bytes) {
                Ok(debts) if debts.version == VERSION => debts,
                _ => {
                    let file = file.display();
                    warn!(%file, "unreadable, or of another version: every rule's fallback runs once");
                    Debts { everybody: true, ..Debts::default() }
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Debts::default(),
            Err(error) => {
                error!(file = %file.display(), "cannot be read, so every rule's fallback runs once: {error}");
                Debts { everybody: true, ..Debts::default() }
            }
        };
        Owed { file: Some(file), debts }
    }

    /// Notes those that are off, and answers with what is to be paid to those that are on.
    pub fn settle(
        &mut self,
        sinks: impl Iterator<Item = (String, bool)>,
        rules: impl Iterator<Item = (String, bool)>,
    ) -> Due {
        let before = self.debts.clone();
        let mut due = Due { everybody: self.debts.everybody, ..Due::default() };
        for (all, owed, due) in [
            (&mut sinks.collect::<Vec<_>>(), &mut self.debts.sinks, &mut due.sinks),
            (&mut rules.collect::<Vec<_>>(), &mut self.debts.rules, &mut due.rules),
        ] {
            // What is not configured any more is owed nothing.
            owed.retain(|name| all.iter().any(|(known, _)| known == name));
            for (name, is_on) in all {
                match is_on {
                    false => {
                        owed.insert(name.clone());
                    }
                    true if owed.contains(name) => {
                        due.insert(name.clone());
                    }
                    true => {}
                }
            }
        }
        if self.debts != before {
            self.write();
        }
        if self.file.is_none() && !(self.debts.sinks.is_empty() && self.debts.rules.is_empty()) {
            warn!(
                hint = "set state_dir",
                "something is off; that it is owed a fallback is forgotten when walpurge ends"
            );
        }
        due
    }

    /// A replica is not waited for any more.
    pub fn owe_to_replica(&mut self, name: &str) {
        if self.debts.replicas.insert(name.to_owned()) {
            self.write();
        }
    }

    /// Whether a replica was not waited for, and may be back.
    pub fn is_owed_to_replica(&self, name: &str) -> bool {
        self.debts.replicas.contains(name)
    }

    /// A replica is waited for again, and its fallbacks are done.
    pub fn paid_to_replica(&mut self, name: &str) {
        if self.debts.replicas.remove(name) {
            self.write();
        }
    }

    /// Forgets replicas that are not configured any more.
    pub fn settle_replicas(&mut self, configured: &[String]) {
        let before = self.debts.replicas.len();
        self.debts.replicas.retain(|name| configured.contains(name));
        if self.debts.replicas.len() != before {
            self.write();
        }
    }

    /// Takes the versions of the rules' tables in the publication, `None` for one that it does not
    /// carry, and notes that the rules on those that are lost or back are owed a fallback.
    pub fn carried(
        &mut self,
        versions: &BTreeMap<String, Option<String>>,
        rules_of: impl Fn(&str) -> Vec<String>,
    ) -> Carried {
        let before = self.debts.clone();
        let mut carried = Carried::default();
        for (table, version) in versions {
            let known = before.published.get(table).map(String::as_str);
            let changed = match (known, version.as_deref()) {
                (Some(NOT_CARRIED), None) => continue,
                (_, None) => &mut carried.lost,
                (Some(known), Some(version)) if known != version => &mut carried.back,
                // It was not among the rules' tables before.
                (Some(_) | None, Some(_)) => continue,
            };
            changed.insert(table.clone());
            self.debts.rules.extend(rules_of(table));
        }
        let version = |version: &Option<String>| version.clone().unwrap_or(NOT_CARRIED.to_owned());
        let now = versions.iter().map(|(table, it)| (table.clone(), version(it)));
        self.debts.published = now.collect();
        if self.debts != before {
            self.write();
        }
        carried
    }

    /// What was due is done.
    pub fn paid(&mut self, due: &Due) {
        self.debts.everybody &= !due.everybody;
        self.debts.sinks.retain(|sink| !due.sinks.contains(sink));
        self.debts.rules.retain(|rule| !due.rules.contains(rule));
        self.write();
    }

    fn write(&mut self) {
        let Some(file) = &self.file else { return };
        self.debts.version = VERSION;
        if let Err(error) = write_json(file, &self.debts) {
            error!(
                file = %file.display(),
                hint = "make room, or let walpurge write to its state_dir; until then a restart \
                        forgets it",
                "cannot note what is owed a fallback: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(owed: &mut Owed, sink_is_on: bool, rule_is_on: bool) -> Due {
        let one = |name: &str, is_on| [(name.to_owned(), is_on)].into_iter();
        owed.settle(one("cache", sink_is_on), one("item", rule_is_on))
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_table_that_was_not_carried_for_a_while_owes_its_rules_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Owed::open(Some(dir.path()));
        let look = |version: Option<&str>| {
            let versions = [("s.t".to_owned(), version.map(str::to_owned))].into();
            let mut owed = open();
            let Carried { lost, back } = owed.carried(&versions, |_| vec!["item".into()]);
            let due = settle(&mut owed, true, true);
            owed.paid(&due);
            (lost.len(), back.len(), due.rules)
        };
        assert_eq!(look(Some("1")), (0, 0, names(&[])));
        assert_eq!(look(Some("1")), (0, 0, names(&[])));
        // Taken out and put in again, unseen.
        assert_eq!(look(Some("2")), (0, 1, names(&["item"])));
        assert_eq!(look(None), (1, 0, names(&["item"])));
        assert_eq!(look(None), (0, 0, names(&[])));
        assert_eq!(look(Some("3")), (0, 1, names(&["item"])));
        assert_eq!(look(Some("3")), (0, 0, names(&[])));
    }

    #[test]
    fn what_was_off_is_owed_until_it_is_paid_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Owed::open(Some(dir.path()));
        assert!(settle(&mut open(), true, true).is_empty());
        assert!(settle(&mut open(), false, true).is_empty());
        for _ in 0..2 {
            // A crash before it is paid.
            let due = settle(&mut open(), true, true);
            assert_eq!(due, Due { sinks: names(&["cache"]), ..Due::default() });
            assert!(due.includes("any", "cache") && !due.includes("any", "other"));
        }
        let mut owed = open();
        let due = settle(&mut owed, true, false);
        owed.paid(&due);
        let due = settle(&mut open(), true, true);
        assert_eq!(due, Due { rules: names(&["item"]), ..Due::default() });
    }

    #[test]
    fn a_file_that_makes_no_sense_is_a_debt_to_everybody() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "{\"version\":2}", "{\"version\":1,\"new\":1}"] {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            let mut owed = Owed::open(Some(dir.path()));
            let due = settle(&mut owed, true, true);
            assert!(due.everybody, "{text}");
            owed.paid(&due);
            assert!(settle(&mut Owed::open(Some(dir.path())), true, true).is_empty());
        }
    }

    #[test]
    fn without_a_place_debts_last_as_long_as_the_process() {
        let mut owed = Owed::open(None);
        settle(&mut owed, false, true);
        assert_eq!(settle(&mut owed, true, true).sinks, names(&["cache"]));
    }

    #[test]
    fn who_is_not_configured_any_more_is_owed_nothing() {
        let mut owed = Owed::open(None);
        settle(&mut owed, false, false);
        owed.settle([].into_iter(), [].into_iter());
        assert!(settle(&mut owed, true, true).is_empty());
    }

    #[test]
    fn a_replica_that_is_not_configured_any_more_is_owed_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut owed = Owed::open(Some(dir.path()));
        owed.owe_to_replica("a");
        owed.owe_to_replica("b");
        owed.settle_replicas(&["b".to_owned()]);
        let again = Owed::open(Some(dir.path()));
        assert!(!again.is_owed_to_replica("a") && again.is_owed_to_replica("b"));
    }
}
