//! The publication that pgoutput sends: what should it hold for the rules, what does it hold, and
//! which SQL leads from the one to the other?
//!
//! [`Wanted`] comes of rules and catalog, [`Found`] is what the server has, a [`Plan`] is the
//! difference; all three are plain data, made without I/O once the catalog is read. [`Found::read`]
//! and the commands do the rest. See decision 0029 for what is left out on purpose: row filters,
//! and publishing via a partitioned table's root.

mod failing;
mod found;
mod plan;
mod settle;
#[cfg(test)]
mod tests;
mod wanted;

pub use failing::{Failing, FailingBecause, failing_tables};
pub use found::{Found, FoundTable};
pub use plan::{Plan, Surplus, remove_publication};
pub use settle::{WAIT_SQL, settle, wait_for_open_transactions};
pub use wanted::{Fault, Wanted, WantedTable};

/// What stands in the comment of a publication that `setup` made, so that nobody else's is ever
/// changed or dropped.
pub const MARK: &str = "made by walpurge setup";

/// What stands in it from a change until the transactions that were open then have ended: what
/// they wrote before is not published.
pub const MARK_OF_CHANGE: &str =
    "made by walpurge setup; transactions from before its last change may be open";

/// From Postgres 15 on a publication can name columns, and schemas.
const COLUMN_LISTS_SINCE: u32 = 150_000;

/// From Postgres 18 on it can hold generated columns, if they are stored.
const GENERATED_SINCE: u32 = 180_000;
