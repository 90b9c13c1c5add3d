//! What a lane says of a batch that it could not do.

use walpurge::sinks::{Failure, Report};

/// The message of a refusal, and the hint.
#[track_caller]
pub fn refused(outcome: Result<Report, Failure>) -> (String, String) {
    match outcome {
        Err(Failure::Refused { message, hint }) => (message, hint),
        other => panic!("not refused: {other:?}"),
    }
}

/// The message of an outage.
#[track_caller]
pub fn outage(outcome: Result<Report, Failure>) -> String {
    match outcome {
        Err(Failure::Outage { message }) => message,
        other => panic!("no outage: {other:?}"),
    }
}
