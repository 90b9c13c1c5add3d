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
    /// `None`: not read yet. A configuration that is taken anew is read while the old one still
    /// counts.
    count: Option<Count>,
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
    /// The budget of a sink, whose count is read when it is first needed.
    pub(super) fn new(state_dir: Option<&Path>, sink: &str, most: Option<u64>) -> Self {
        let file =
            state_dir.map(|directory| directory.join(format!("cloudfront-{sink}.count.json")));
        Budget { file, most, count: None, is_told: false }
    }

    /// Whether so many more items are within the budget.
    pub(super) fn allows(&mut self, sink: &str, items: u64) -> bool {
        let charged = self.count(this_month()).charged;
        let Some(most) = self.most else { return true };
        let is_allowed = charged.saturating_add(items) <= most;
        if !is_allowed && !std::mem::replace(&mut self.is_told, true) {
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
        let count = self.count(this_month());
        count.charged = count.charged.saturating_add(items);
        let bytes = serde_json::to_vec(count);
        let Some(file) = &self.file else { return };
        let written =
            bytes.map_err(std::io::Error::from).and_then(|bytes| write_atomically(file, &bytes));
        if let Err(error) = written {
            error!(file = %file.display(), "the month's count cannot be kept: {error}");
        }
    }

    /// The month's count. Another month has a budget of its own.
    fn count(&mut self, month: String) -> &mut Count {
        let read = || {
            let bytes = std::fs::read(self.file.as_ref()?).ok()?;
            serde_json::from_slice::<Count>(&bytes).ok()
        };
        let known = self.count.take().or_else(read).unwrap_or_default();
        let is_this = known.month == month;
        self.is_told &= is_this;
        self.count.insert(if is_this { known } else { Count { month, charged: 0 } })
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
        let open = || Budget::new(Some(dir.path()), "site", Some(10));
        let mut budget = open();
        assert!(budget.allows("site", 10) && !budget.allows("site", 11));
        budget.charge(9);
        let mut budget = open();
        assert!(budget.allows("site", 1) && !budget.allows("site", 2));
        assert_eq!(budget.count("1999-12".to_owned()).charged, 0);
        assert!(Budget::new(None, "site", None).allows("site", u64::MAX));
    }
}
