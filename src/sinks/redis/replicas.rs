//! How many replicas have what a batch did? Asked with WAIT, on the connection that did it.

use std::time::Duration;

use super::error::outage;
use super::session::Session;
use super::wire::Reply;
use crate::sinks::Failure;

/// How long replicas may take to acknowledge. They are asked at once and answer within a round
/// trip, so that this much silence means that one is gone or far behind.
pub(super) const WAIT_TIMEOUT: Duration = Duration::from_secs(1);

/// A channel to which nobody has to listen. See [`wait`]. In a cluster, how a key begins.
pub(super) const CHANNEL: &[u8] = b"walpurge:wait";

/// Waits until as many replicas as configured have what was sent on this connection.
///
/// From Redis 7.2 on, WAIT waits for the last *write* of its own connection. A batch that is sent
/// again on another connection finds its keys deleted, writes nothing, and WAIT would answer at
/// once, although no replica has the deletes. An empty message to a channel of our own is passed
/// on to replicas whatever else happens, needs no memory, and leaves nothing behind; when they
/// have it, they have all that came before it.
///
/// # Errors
/// An outage if there are too few. The second value says whether the connection is in order: the
/// batch is sent again on the same one then.
pub(super) async fn wait(session: &mut Session<'_>) -> (Result<(), Failure>, bool) {
    let wanted = session.config.wait_replicas;
    if wanted == 0 {
        return (Ok(()), true);
    }
    let patience = WAIT_TIMEOUT.min(session.config.timeouts.command / 2);
    match acknowledged(session, wanted, patience).await {
        Ok(have) if have >= i64::from(wanted) => (Ok(()), true),
        Ok(have) => {
            let told = format!(
                "{have} of {wanted} replicas have acknowledged within {patience:?} (see \
                 wait_replicas)"
            );
            (Err(outage(session.config, "WAIT", told)), true)
        }
        Err(failure) => (Err(failure), false),
    }
}

/// How many replicas have everything that was sent on this connection.
async fn acknowledged(
    session: &mut Session<'_>,
    wanted: u32,
    patience: Duration,
) -> Result<i64, Failure> {
    let (count, millis) = (wanted.to_string(), patience.as_millis().to_string());
    session.request.simple(&[b"PUBLISH", CHANNEL, b""]);
    session.request.simple(&[b"WAIT", count.as_bytes(), millis.as_bytes()]);
    session.flush().await?;
    session.reply_or_fail("PUBLISH").await?;
    let reply: Reply = session.reply_or_fail("WAIT").await?;
    reply.int().ok_or_else(|| session.unexpected("WAIT"))
}
