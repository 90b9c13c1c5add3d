//! What has CloudFront charged this month, and what may it still?
//!
//! Each path, tag and wildcard counts as one. Past the budget everything is purged by one wildcard
//! instead: that is the cheapest thing that covers the rest.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::state::write_atomically;

/// The count of a month, in UTC as CloudFront bills.
#[derive(Debug)]
pub(super) struct Budget {
    file: Option<PathBuf>,
    /// `paths_per_month`.
    most: Option<u64>,
    count: Count,
    is_told: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    /// `2026-11`.
    month: String,
    charged: u64,
}

impl Budget {
    /// Reads the count so far.
    pub(super) fn open(state_dir: Option<&Path>, sink: &str, most: Option<u64>) -> Self {
        let file =
            state_dir.map(|directory| directory.join(format!("cloudfront-{sink}.count.json")));
        let bytes = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let count = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Budget { file, most, count: count.unwrap_or_default(), is_told: false }
    }

    /// Whether so many more items are within the budget.
    pub(super) fn allows(&mut self, sink: &str, items: u64) -> bool {
        self.turn(this_month());
        let Some(most) = self.most else { return true };
        let is_allowed = self.count.charged.saturating_add(items) <= most;
        if !is_allowed && !std::mem::replace(&mut self.is_told, true) {
            let charged = self.count.charged;
            warn!(
                sink,
                charged,
                paths_per_month = most,
                "the month's budget is used up: what is left of it purges everything at once"
            );
        }
        is_allowed
    }

    /// So many items were charged.
    pub(super) fn charge(&mut self, items: u64) {
        self.turn(this_month());
        self.count.charged = self.count.charged.saturating_add(items);
        let Some(file) = &self.file else { return };
        let written = serde_json::to_vec(&self.count)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_atomically(file, &bytes));
        if let Err(error) = written {
            error!(file = %file.display(), "the month's count cannot be kept: {error}");
        }
    }

    /// Another month has a budget of its own.
    fn turn(&mut self, month: String) {
        if self.count.month != month {
            self.count = Count { month, charged: 0 };
            self.is_told = false;
        }
    }
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
        let open = || Budget::open(Some(dir.path()), "site", Some(10));
        let mut budget = open();
        assert!(budget.allows("site", 10) && !budget.allows("site", 11));
        budget.charge(9);
        let mut budget = open();
        assert!(budget.allows("site", 1) && !budget.allows("site", 2));
        budget.turn("1999-12".to_owned());
        assert_eq!(budget.count.charged, 0);
        assert!(Budget::open(None, "site", None).allows("site", u64::MAX));
    }
}
