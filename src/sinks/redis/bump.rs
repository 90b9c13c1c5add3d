//! How is a version counter raised so that it never repeats a value, even after it was evicted?
//!
//! A reader builds its keys from the counter's value. A bare INCR of a counter that Redis has
//! evicted starts again at 1, and the pages of the old version 1 are served again. So each bump
//! is `MULTI; SET key <microseconds since the epoch> NX; INCR key; EXEC`: a missing counter
//! starts above every value that it ever had. One MULTI, or an eviction between the two would
//! bring the bare INCR back.
//!
//! Microseconds suffice: for a counter's value to outrun the clock it would have to be raised
//! more than a million times a second from its seed to its eviction, and Redis does not run that
//! many commands, of which a bump takes four. A clock that was set back would matter only to a
//! counter seeded and evicted within that step, and a lane never lowers its seeds. A bump that
//! ran twice skips a value, which no reader minds.

use super::config::TagMode;
use super::session::{Keys, Session};
use super::wire::{Reply, push_decimal};
use crate::action::{Batch, Verb};
use crate::sinks::Failure;

/// Bumps of one request: four commands each.
const PIPELINE_BUMPS_MAX: usize = 256;

/// Does the batch's `bump` actions and, where a tag is a counter, its `tags`.
pub(super) async fn bump(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let config = session.config;
    let tags_too = config.tag_mode == TagMode::Version;
    let (before, behind) = &config.tag_parts;
    let mut keys = Keys::default();
    for (index, action) in batch.iter().enumerate() {
        match action.verb.deleting() {
            Verb::Bump => keys.push(Some(index), &[&config.prefix, action.value]),
            // A counter has no time to be cut: readers go over to the next version.
            Verb::Tag if tags_too => keys.push(Some(index), &[before, action.shown(), behind]),
            _ => continue,
        }
        if keys.len() == PIPELINE_BUMPS_MAX {
            bump_keys(session, &keys).await?;
            keys.clear();
        }
    }
    bump_keys(session, &keys).await
}

/// Bumps whole keys.
pub(super) async fn bump_keys(session: &mut Session<'_>, keys: &Keys) -> Result<(), Failure> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut seed = Vec::new();
    push_decimal(&mut seed, session.seed());
    for (_, key) in keys.iter() {
        session.request.simple(&[b"MULTI"]);
        session.request.simple(&[b"SET", key, &seed, b"NX"]);
        session.request.simple(&[b"INCR", key]);
        session.request.simple(&[b"EXEC"]);
    }
    session.flush().await?;
    for (index, _) in keys.iter() {
        session.judge.report.requested += 1;
        if let Some((text, command)) = take_bumped(session).await? {
            session.note(index, &text, command)?;
        }
    }
    Ok(())
}

/// Takes the replies to one bump: its first error, if any.
async fn take_bumped(session: &mut Session<'_>) -> Result<Option<(String, &'static str)>, Failure> {
    let mut replies = [const { Reply::Nil }; 4];
    for (place, command) in replies.iter_mut().zip(["MULTI", "SET", "INCR", "EXEC"]) {
        *place = session.reply(command).await?;
    }
    bumped(&replies).ok_or_else(|| session.unexpected("EXEC"))
}

/// The first error among the replies to one bump, if any; `None` if Redis does not answer so.
///
/// What Redis refuses before it runs (rights, memory) is the answer to SET or INCR, and EXEC
/// then says no more than EXECABORT; what fails while it runs (a wrong type) is in EXEC's array.
#[allow(clippy::option_option, reason = "no answer, and no error in it, are two things")]
pub(super) fn bumped(replies: &[Reply]) -> Option<Option<(String, &'static str)>> {
    let [multi, set, incr, exec] = replies else { return None };
    let mut all = vec![(multi, "MULTI"), (set, "SET"), (incr, "INCR")];
    match exec {
        error @ Reply::Error(_) => all.push((error, "EXEC")),
        Reply::Array(results) if results.len() == 2 => {
            all.extend(results.iter().zip(["SET", "INCR"]));
        }
        _ => return None,
    }
    let error = |(reply, command): (&Reply, &'static str)| match reply {
        Reply::Error(text) => Some((text.clone(), command)),
        _ => None,
    };
    Some(all.into_iter().find_map(error))
}
