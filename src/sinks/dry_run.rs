//! A sink that does nothing and says what it would have done.

use tracing::info;

use super::Report;
use crate::action::Batch;

/// Stands in for any sink's lane under `run --dry-run`.
pub struct DryRunLane {
    sink: String,
}

impl DryRunLane {
    /// A stand-in for the sink of that name.
    pub fn new(sink: impl Into<String>) -> Self {
        DryRunLane { sink: sink.into() }
    }

    /// Logs every action. Who asks for a dry run wants to see values, so they are shown.
    pub(super) fn send(&self, batch: &Batch) -> Report {
        for action in batch.iter() {
            let (sink, action, value) =
                (&self.sink, action.verb.key(), String::from_utf8_lossy(action.shown()));
            info!(sink, action, %value, "would invalidate");
        }
        Report { requested: batch.len() as u64, ..Report::default() }
    }
}
