//! How are keys deleted? With UNLINK, which frees memory in the background, many at a time.

use super::session::Session;
use crate::action::{Batch, Verb};
use crate::sinks::Failure;

/// Keys of one UNLINK. Measured: beyond this the rate no longer grows, while Redis serves nobody
/// else during one command (0.2 ms for so many that exist).
pub(super) const UNLINK_KEYS_MAX: usize = 512;

/// UNLINKs of one request. It bounds what waits for an answer, and our buffer.
const PIPELINE_COMMANDS_MAX: usize = 16;

/// Does the batch's `delete` actions.
pub(super) async fn delete(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let config = session.config;
    let mut left = batch.iter().filter(|action| action.verb == Verb::Delete).count();
    let mut actions = batch.iter().filter(|action| action.verb == Verb::Delete);
    while left > 0 {
        let mut commands = 0;
        while left > 0 && commands < PIPELINE_COMMANDS_MAX {
            let keys = left.min(UNLINK_KEYS_MAX);
            session.request.command("UNLINK", 1 + keys);
            for action in actions.by_ref().take(keys) {
                session.request.arg_joined(&[&config.prefix, action.value]);
            }
            session.report.requested += keys as u64;
            left -= keys;
            commands += 1;
        }
        session.flush().await?;
        take_unlinked(session, commands).await?;
    }
    Ok(())
}

/// Takes the replies to `commands` UNLINKs and counts what they removed.
///
/// UNLINK has no error of a single key: it takes any type, and a missing key is none.
pub(super) async fn take_unlinked(
    session: &mut Session<'_>,
    commands: usize,
) -> Result<(), Failure> {
    for _ in 0..commands {
        let removed = session.reply_or_fail("UNLINK").await?.count(UNLINK_KEYS_MAX);
        session.report.removed += removed.ok_or_else(|| session.unexpected("UNLINK"))?;
    }
    Ok(())
}
