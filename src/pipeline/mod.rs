//! From actions to sinks, and from their outcomes to the LSN that may be confirmed.

mod action_set;
mod dispatcher;
mod driver;
mod plan;
mod progress;

pub use dispatcher::{Dispatcher, Done, LaneSpec};
pub use plan::{LaneId, Plan, Routes, Urgency};
pub use progress::{Progress, TxnId};
