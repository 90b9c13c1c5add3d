//! How are messages published? One PUBLISH or XADD each, in the order in which they came; nobody has
//! to listen. A stream keeps about as many entries as is asked for: cutting it exactly is slow.

use super::session::Session;
use super::wire::{Reply, Request};
use crate::action::{Address, Batch, Verb};
use crate::sinks::Failure;

/// Messages of one request.
const PIPELINE_MESSAGES_MAX: usize = 512;

/// The field of a stream's entry that holds the message.
pub(super) const STREAM_FIELD: &[u8] = b"message";

/// Does the batch's `publish` actions.
pub(super) async fn publish(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let mut sent = Vec::new();
    for (index, action) in batch.iter().enumerate() {
        if action.verb != Verb::Publish {
            continue;
        }
        let (address, text) = action.message();
        let command = match Address::read(address) {
            Address::Channel(channel) => {
                session.request.simple(&[b"PUBLISH", channel, text]);
                "PUBLISH"
            }
            Address::Stream { key, maxlen } => {
                let key = [&session.config.prefix, key];
                add_to_stream(session.request, &key, maxlen, text);
                "XADD"
            }
        };
        sent.push((index, command));
        if sent.len() == PIPELINE_MESSAGES_MAX {
            take_published(session, &mut sent).await?;
        }
    }
    take_published(session, &mut sent).await
}

/// Adds a message to the stream whose key has these parts.
pub(super) fn add_to_stream(request: &mut Request, key: &[&[u8]], maxlen: &[u8], text: &[u8]) {
    request.command("XADD", 8).arg_joined(key);
    for arg in [b"MAXLEN", &b"~"[..], maxlen, b"*", STREAM_FIELD, text] {
        request.arg(arg);
    }
}

async fn take_published(
    session: &mut Session<'_>,
    sent: &mut Vec<(usize, &'static str)>,
) -> Result<(), Failure> {
    if sent.is_empty() {
        return Ok(());
    }
    session.flush().await?;
    for (index, command) in sent.drain(..) {
        session.judge.report.requested += 1;
        if let Reply::Error(text) = session.reply(command).await? {
            session.note(Some(index), &text, command)?;
        }
    }
    Ok(())
}
