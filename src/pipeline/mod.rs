//! From actions to sinks, and from their outcomes to the LSN that may be confirmed.

mod action_set;
mod afterwards;
mod again;
mod dispatcher;
mod driver;
mod lane;
mod paced;
mod plan;
mod progress;
mod sink_set;
mod trace;

pub use dispatcher::{Dispatcher, Done, LaneSpec};
pub use lane::Stage;
pub use paced::Pace;
pub use plan::{
    Hidden, LaneId, Manner, Plan, PlannedLane, RedeletedBy, Repeats, Route, Routes, Since, Urgency,
};
pub use progress::{Progress, TxnId};
pub use trace::trace;
