//! The invalidation that a lane has under way, on disk before it is asked for.
//!
//! A reference makes asking idempotent: the same one with the same items is the first invalidation
//! again. So a request whose answer was lost is repeated literally, also by the next process; and
//! another batch must never have a reference that was used before, or nothing would be purged.
//! That is why a reference holds the time and chance, and not only what it is about: a counter
//! alone would begin again where `state_dir` is lost.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{error, warn};

use crate::state::write_json;

/// The layout of the file.
const VERSION: u32 = 1;

/// An invalidation that is not known to be completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    version: u32,
    /// The distribution that it is for.
    pub(super) distribution_id: String,
    /// `CallerReference`.
    pub(super) reference: String,
    /// The number of the batch, one higher each time.
    pass: u64,
    /// The paths and tags.
    pub(super) items: Vec<String>,
    /// Its ID, once CloudFront has said it.
    pub(super) id: Option<String>,
}

/// Where a lane keeps it.
#[derive(Debug)]
pub(super) struct Ledger {
    /// `None`: there is no `state_dir`.
    file: Option<PathBuf>,
    distribution_id: String,
    pass: u64,
    /// Whether it was said that the file cannot be written.
    is_told: bool,
}

impl Ledger {
    /// Opens a lane's file, and answers with what an earlier run has left.
    pub(super) fn open(
        state_dir: Option<&Path>,
        file_name: &str,
        distribution_id: &str,
    ) -> (Self, Option<Pending>) {
        let file = state_dir.map(|directory| directory.join(file_name));
        let bytes = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let left = bytes.and_then(|bytes| {
            let left = serde_json::from_slice::<Pending>(&bytes).ok();
            if left.is_none() {
                // Nothing depends on it: what was not confirmed is asked for again.
                let file = file.as_ref().map(|file| file.display().to_string());
                warn!(file, "unreadable, so that an invalidation under way may be paid for twice");
            }
            left.filter(|left| left.version == VERSION && left.distribution_id == distribution_id)
        });
        let pass = left.as_ref().map_or(0, |left| left.pass);
        let distribution_id = distribution_id.to_owned();
        (Ledger { file, distribution_id, pass, is_told: false }, left)
    }

    /// A new invalidation, with a reference that was never used before, on disk.
    pub(super) fn begin(&mut self, items: Vec<String>) -> Pending {
        self.pass += 1;
        let pending = Pending {
            version: VERSION,
            distribution_id: self.distribution_id.clone(),
            reference: reference(&self.distribution_id, self.pass, &items),
            pass: self.pass,
            items,
            id: None,
        };
        self.write(&pending);
        pending
    }

    /// Writes what has become of it.
    pub(super) fn write(&mut self, pending: &Pending) {
        let Some(file) = &self.file else { return };
        if let Err(error) = write_json(file, pending)
            && !std::mem::replace(&mut self.is_told, true)
        {
            let file = file.display();
            error!(%file, "cannot be written, so that an invalidation may be paid for twice: {error}");
        }
    }

    /// It is completed, or came to nothing.
    pub(super) fn clear(&mut self) {
        if let Some(file) = &self.file {
            // What stays there is asked for once more, by its reference.
            let _ = std::fs::remove_file(file);
        }
    }
}

fn reference(distribution_id: &str, pass: u64, items: &[String]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut hash = Sha256::new();
    for part in [distribution_id, &now.as_nanos().to_string(), &fastrand::u64(..).to_string()] {
        hash.update(part);
        hash.update([0]);
    }
    for item in items {
        hash.update(item);
        hash.update([0]);
    }
    let digest: String = hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("walpurge-{pass}-{digest}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    #[test]
    fn what_is_under_way_is_found_again_literally_until_it_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Ledger::open(Some(dir.path()), "f.json", "E1");
        let (mut ledger, left) = open();
        assert_eq!(left, None);
        let mut pending = ledger.begin(vec!["/a".into()]);
        assert_eq!(open().1, Some(pending.clone()));
        pending.id = Some("I1".into());
        ledger.write(&pending);
        assert_eq!(open().1, Some(pending.clone()));
        assert_eq!(
            Ledger::open(Some(dir.path()), "f.json", "E2").1,
            None,
            "of another distribution"
        );
        let (mut next, _) = open();
        assert!(next.begin(vec!["/a".into()]).pass > pending.pass);
        next.clear();
        assert_eq!(open().1, None);
        std::fs::write(dir.path().join("f.json"), "{").unwrap();
        assert_eq!(open().1, None);
    }

    #[test]
    fn no_reference_is_used_twice() {
        let reference = || {
            let (mut ledger, _) = Ledger::open(None, "f.json", "E1");
            ledger.begin(vec!["/a".into()]).reference
        };
        assert_ne!(reference(), reference(), "the same items, and no memory of the first");
    }
}
