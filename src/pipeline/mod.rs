//! From actions to sinks, and from their outcomes to the LSN that may be confirmed.

mod action_set;
mod plan;
mod progress;
mod snapshot;

pub use plan::{LaneId, Plan, Routes};
pub use progress::{Progress, TxnId};
pub use snapshot::{ParseSnapshotError, Snapshot};
