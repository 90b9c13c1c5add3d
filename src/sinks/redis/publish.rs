//! How are messages published? One PUBLISH each, in the order in which they came; nobody has to
//! listen.

use super::session::Session;
use super::wire::Reply;
use crate::action::{Batch, Verb};
use crate::sinks::Failure;

/// Messages of one request.
const PIPELINE_MESSAGES_MAX: usize = 512;

/// Does the batch's `publish` actions.
pub(super) async fn publish(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let mut sent = Vec::new();
    for (index, action) in batch.iter().enumerate() {
        if action.verb != Verb::Publish {
            continue;
        }
        let (channel, text) = action.message();
        session.request.simple(&[b"PUBLISH", channel, text]);
        sent.push(index);
        if sent.len() == PIPELINE_MESSAGES_MAX {
            take_published(session, &mut sent).await?;
        }
    }
    take_published(session, &mut sent).await
}

async fn take_published(session: &mut Session<'_>, sent: &mut Vec<usize>) -> Result<(), Failure> {
    if sent.is_empty() {
        return Ok(());
    }
    session.flush().await?;
    for index in sent.drain(..) {
        session.judge.report.requested += 1;
        if let Reply::Error(text) = session.reply("PUBLISH").await? {
            session.note(Some(index), &text, "PUBLISH")?;
        }
    }
    Ok(())
}
