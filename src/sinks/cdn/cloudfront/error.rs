//! What does an error of CloudFront mean?
//!
//! Its messages may hold paths, so only codes and statuses are passed on.

use aws_sdk_cloudfront::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_cloudfront::operation::RequestId;

use crate::sinks::Failure;

/// What is to be done about an error.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The caller is told.
    Failed(Failure),
    /// One of the items is none: try fewer.
    BadItems(String),
    /// The reference was used for other items.
    UsedReference,
    /// The invalidation that was asked about is not known.
    Unknown,
}

/// Judges an error of a call on a distribution.
pub(super) fn judge<E>(error: &SdkError<E>, distribution_id: &str) -> Trouble
where
    E: ProvideErrorMetadata + RequestId + std::error::Error + 'static,
{
    let place = format!("cloudfront distribution {distribution_id}");
    let outage = |message: String| Trouble::Failed(Failure::Outage { message });
    let SdkError::ServiceError(service) = error else {
        // What the SDK says of itself: connections, timeouts, credentials.
        let said = DisplayErrorContext(error).to_string();
        let message = format!("{place}: {}", short(&said));
        if said.contains("CredentialsNotLoaded") || said.contains("no providers in chain") {
            let hint = "give the process credentials: AWS_ACCESS_KEY_ID and \
                        AWS_SECRET_ACCESS_KEY, a profile, or a role of its machine or container";
            return Trouble::Failed(Failure::Refused { message, hint: hint.to_owned() });
        }
        return outage(message);
    };
    let status = service.raw().status().as_u16();
    let code = service.err().code().unwrap_or("no code").to_owned();
    let message = format!("{place}: {code} (status {status})");
    let refused =
        |hint: String| Trouble::Failed(Failure::Refused { message: message.clone(), hint });
    match (code.as_str(), status) {
        ("TooManyInvalidationsInProgress" | "Throttling" | "ThrottlingException", _)
        | ("RequestLimitExceeded" | "PriorRequestNotComplete", _)
        | (_, 429 | 408 | 500..) => outage(message),
        ("InvalidationBatchAlreadyExists", _) => Trouble::UsedReference,
        ("NoSuchInvalidation", _) => Trouble::Unknown,
        ("NoSuchDistribution", _) => refused(format!(
            "correct distribution_id: there is no {distribution_id} in the account of these \
             credentials"
        )),
        ("InvalidArgument" | "BatchTooLarge", _) | (_, 413) => {
            Trouble::BadItems(format!("CloudFront answers {code}"))
        }
        ("AccessDenied" | "AccessDeniedException", _) | (_, 401 | 403) => {
            refused(statement(distribution_id))
        }
        _ => refused("walpurge check".to_owned()),
    }
}

/// The IAM statement that suffices.
pub fn statement(distribution_id: &str) -> String {
    format!(
        "give the role or user this statement: {{\"Effect\": \"Allow\", \"Action\": \
         [\"cloudfront:CreateInvalidation\", \"cloudfront:GetInvalidation\"], \"Resource\": \
         \"arn:aws:cloudfront::*:distribution/{distribution_id}\"}}"
    )
}

/// The beginning of what an SDK says: its end repeats it in a form for programmers.
fn short(said: &str) -> &str {
    let end = said.find(" (").unwrap_or(said.len());
    &said[..end]
}
