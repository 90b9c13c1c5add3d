//! A sink that does nothing and says what it would have done.

use tracing::info;

use super::cdn::cloudfront::Part;
use super::{Endpoint, Report};
use crate::action::Batch;

/// Stands in for any sink's lane under `run --dry-run`.
pub struct DryRunLane {
    sink: String,
    /// What knows the requests.
    endpoint: Option<Endpoint>,
}

impl DryRunLane {
    /// A stand-in for the sink of that name, which shows actions alone.
    pub fn new(sink: impl Into<String>) -> Self {
        DryRunLane { sink: sink.into(), endpoint: None }
    }

    /// A stand-in for a sink, which shows its requests too.
    pub fn of(endpoint: Endpoint) -> Self {
        DryRunLane { sink: endpoint.name().to_owned(), endpoint: Some(endpoint) }
    }

    /// Logs every action, and the requests that they would be. Who asks for a dry run wants to see
    /// values, so they are shown.
    pub(super) fn send(&self, batch: &Batch) -> Report {
        let sink = &self.sink;
        for action in batch.iter() {
            let expire_in_ms = action.expire_in_ms();
            let (action, value) = (action.verb.key(), String::from_utf8_lossy(action.shown()));
            info!(sink, action, %value, expire_in_ms, "would invalidate");
        }
        let requests = match &self.endpoint {
            Some(Endpoint::Cdn(cdn)) => cdn.preview(batch),
            Some(Endpoint::Redis(_)) | None => Vec::new(),
            Some(Endpoint::CloudFront(distribution)) => distribution.preview(batch, Part::Prompt),
        };
        for request in requests {
            info!(sink, request, "would send");
        }
        Report { requested: batch.len() as u64, ..Report::default() }
    }
}
