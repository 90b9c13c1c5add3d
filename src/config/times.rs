//! Lists of times after which something is done again: `repurge_after`, `redelete_after`.

use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;

/// How often anything is done again at most: each time costs as much as the first.
pub(super) const TIMES_MAX: usize = 4;

/// The longest time after which it is: WAL is held until then.
const AFTER_MAX: Duration = Duration::from_secs(3600);

const HELP: &str = "write up to 4 times, in ascending order: [\"2s\", \"10s\"]";

/// Reads the times, in ascending order. An empty list repeats nothing. `what` is done then.
pub(super) fn read(entry: &Entry<'_>, what: &str) -> Option<Arc<[Duration]>> {
    let Some(items) = entry.items() else {
        entry.wrong_type("a list of durations", HELP);
        return None;
    };
    if items.len() > TIMES_MAX {
        let message = format!("`{}` has more than {TIMES_MAX} times", entry.path);
        entry.problem_with_help(message, "too many", HELP);
        return None;
    }
    let mut times: Vec<Duration> = Vec::new();
    for item in &items {
        let Some(time) = item.duration() else { continue };
        let label = match times.last() {
            _ if time.is_zero() || time > AFTER_MAX => "zero, or longer than 1 h",
            Some(&last) if time <= last => "not longer than the one before",
            _ => {
                times.push(time);
                continue;
            }
        };
        item.problem_with_help(format!("`{}` is no time to {what}", item.path), label, HELP);
    }
    (times.len() == items.len()).then(|| times.into())
}
