//! How is a tag invalidated whose members lie on other nodes than its set?
//!
//! As on a single server ([`tags`](super::super::tags)): the set `S` is renamed to `L`, which lies in
//! the same slot, and `L` is emptied page by page. Members in the slot of `L` (a hash tag) go in
//! one MULTI with their SREM, as there. Others cannot: they are deleted on their nodes first, and
//! those that are gone for certain are taken off `L` after that.
//!
//! **What stays true.** Nothing leaves `L` before its key is deleted, so a crash, a second walpurge
//! or a node that is down repeats a delete and forgets none. What a reader adds after the renaming
//! lands in a fresh `S`.
//!
//! **What the reader has to do.** Between UNLINK and SREM a reader may set the key again. If it had
//! added it to `S` before the renaming, SREM takes off the list what exists: the next invalidation
//! of the tag would miss it. A SADD before the SET does not prevent that alone, and a SADD only
//! after it would leave the key unlisted for a moment, in which an invalidation misses it. So a
//! reader does *both*: `SADD tag key`, `SET key …`, `SADD tag key`. The first lists the key
//! before it exists; the last lists it anew in a fresh `S` if it was taken off meanwhile. Or it
//! puts set and members into one slot by a hash tag, and writes both in one MULTI, which is as
//! exact as on a single server.

use super::super::delete::UNLINK_KEYS_MAX;
use super::super::session::Keys;
use super::super::slot::hash_slot;
use super::super::tag_work::{Step, Work, removed};
use super::super::tags::{PAGE_MEMBERS, TAGS_MAX};
use super::super::wire::Reply;
use super::errand::Errand;
use super::replicas;
use super::steps::{Answers, Steps};
use super::verbs::unlink;
use crate::action::{Batch, Verb};
use crate::sinks::Failure;

/// Does the batch's `tags` actions, where a tag's key is a set.
pub(super) async fn invalidate(errand: &mut Errand<'_>, batch: &Batch) -> Result<(), Failure> {
    let (before, behind) = &errand.topology.config().tag_parts;
    let mut keys = Keys::default();
    for (index, action) in batch.iter().enumerate() {
        if action.verb != Verb::Tag {
            continue;
        }
        keys.push(Some(index), &[before, action.value, behind]);
        if keys.len() == TAGS_MAX {
            invalidate_keys(errand, &keys).await?;
            keys.clear();
        }
    }
    invalidate_keys(errand, &keys).await
}

const RENAME: &[&str] = &["MULTI", "RENAMENX", "PERSIST", "SSCAN", "EXEC"];
const READ: &[&str] = &["SSCAN"];
const REMOVE: &[&str] = &["MULTI", "UNLINK", "SREM", "EXEC"];
const FORGET: &[&str] = &["SREM"];

/// Invalidates the tags whose sets are `keys`: at most [`TAGS_MAX`], for memory's sake.
pub(super) async fn invalidate_keys(errand: &mut Errand<'_>, keys: &Keys) -> Result<(), Failure> {
    let mut works = look(errand, keys).await?;
    while !works.is_empty() {
        let mut steps = Steps::default();
        works.iter().for_each(|work| ask_for_page(&mut steps, work));
        let mut answers = errand.run(&steps).await;
        let mut pages = Vec::new();
        for (at, work) in works.iter_mut().enumerate() {
            pages.push(take_page(errand, &steps, &mut answers, at, work)?);
        }
        remove(errand, &works, &pages).await?;
        works.retain(|work| !work.is_over());
    }
    Ok(())
}

/// Finds out which tags there is something to do for. SCARD is answered before EXISTS is asked.
async fn look<'a>(errand: &mut Errand<'_>, keys: &'a Keys) -> Result<Vec<Work<'a>>, Failure> {
    let mut works = Work::all(keys);
    let (mut sets, mut taken) = (Steps::default(), Steps::default());
    for work in &works {
        sets.add(hash_slot(work.set), &["SCARD"], |request| {
            request.simple(&[b"SCARD", work.set]);
        });
        taken.add(hash_slot(work.set), &["EXISTS"], |request| {
            request.simple(&[b"EXISTS", &work.taken]);
        });
    }
    let cards = errand.run(&sets).await;
    let exist = errand.run(&taken).await;
    for (at, work) in works.iter_mut().enumerate() {
        match (cards.answered(&sets, at), exist.answered(&taken, at)) {
            (Some([card]), Some([taken])) => work.begin(&mut errand.judge, card, taken)?,
            _ => work.step = Step::Over,
        }
    }
    works.retain(|work| !work.is_over());
    Ok(works)
}

fn ask_for_page(steps: &mut Steps, work: &Work<'_>) {
    let read = |cursor: &[u8], request: &mut super::super::wire::Request| {
        request.simple(&[b"SSCAN", &work.taken, cursor, b"COUNT", PAGE_MEMBERS]);
    };
    match &work.step {
        Step::Rename => {
            // In one MULTI, so that a page that comes from another node is of what was renamed.
            steps.add(hash_slot(work.set), RENAME, |request| {
                request.simple(&[b"MULTI"]);
                request.simple(&[b"RENAMENX", work.set, &work.taken]);
                request.simple(&[b"PERSIST", &work.taken]);
                read(b"0", request);
                request.simple(&[b"EXEC"]);
            });
        }
        Step::Read { cursor, .. } => {
            steps.add(hash_slot(work.set), READ, |request| read(cursor, request));
        }
        Step::Over => {}
    }
}

/// Takes the replies to [`ask_for_page`]: the page's members, and moves `work` on.
fn take_page(
    errand: &mut Errand<'_>,
    steps: &Steps,
    answers: &mut Answers,
    at: usize,
    work: &mut Work<'_>,
) -> Result<Vec<Vec<u8>>, Failure> {
    if answers.answered(steps, at).is_none() {
        work.step = Step::Over;
        return Ok(Vec::new());
    }
    let replies = answers.replies_mut(steps, at);
    let take = |reply: &mut Reply| std::mem::replace(reply, Reply::Nil);
    if let Step::Read { .. } = work.step {
        return work.take_page(&mut errand.judge, None, take(&mut replies[0]));
    }
    let refused = replies[..4].iter().zip(RENAME).find_map(|(reply, command)| match reply {
        Reply::Error(text) => Some((text, command)),
        _ => None,
    });
    if let Some((text, command)) = refused {
        return Err(errand.judge.failure(text, command));
    }
    let done = match take(&mut replies[4]) {
        Reply::Array(done) => <[Reply; 3]>::try_from(done).ok(),
        _ => None,
    };
    let [renamed, _, page] = done.ok_or_else(|| errand.judge.unexpected("EXEC"))?;
    work.take_page(&mut errand.judge, Some(renamed), page)
}

/// Deletes the members of each tag's page, and takes them off its list.
async fn remove(
    errand: &mut Errand<'_>,
    works: &[Work<'_>],
    pages: &[Vec<Vec<u8>>],
) -> Result<(), Failure> {
    let mut abroad = Keys::default();
    for (work, members) in works.iter().zip(pages) {
        let slot = hash_slot(work.set);
        for member in members.iter().filter(|member| hash_slot(member) != slot) {
            abroad.push(None, &[member]);
        }
    }
    let mut gone = if abroad.is_empty() { Vec::new() } else { unlink(errand, &abroad).await? };
    // What a replica lacks may come back, when nothing tells of it any more.
    if !abroad.is_empty() && !replicas::wait(errand).await {
        gone.fill(false);
    }
    let mut gone = gone.into_iter();
    let mut steps = Steps::default();
    for (work, members) in works.iter().zip(pages) {
        let slot = hash_slot(work.set);
        let (mut near, mut far): (Vec<&[u8]>, Vec<&[u8]>) = (Vec::new(), Vec::new());
        for member in members {
            if hash_slot(member) == slot {
                near.push(member);
            } else if gone.next() == Some(true) {
                far.push(member);
            }
        }
        for near in near.chunks(UNLINK_KEYS_MAX) {
            errand.judge.report.requested += near.len() as u64;
            steps.add(slot, REMOVE, |request| {
                request.simple(&[b"MULTI"]);
                let members = near.iter().copied();
                request.command("UNLINK", 1 + near.len()).args(members.clone());
                request.command("SREM", 2 + near.len()).arg(&work.taken).args(members);
                request.simple(&[b"EXEC"]);
            });
        }
        for far in far.chunks(UNLINK_KEYS_MAX) {
            steps.add(slot, FORGET, |request| {
                let members = far.iter().copied();
                request.command("SREM", 2 + far.len()).arg(&work.taken).args(members);
            });
        }
    }
    let answers = errand.run(&steps).await;
    for step in 0..steps.len() {
        let Some(replies) = answers.answered(&steps, step) else { continue };
        for (reply, command) in replies.iter().zip(steps.get(step).commands) {
            if let Reply::Error(text) = reply {
                return Err(errand.judge.failure(text, command));
            }
        }
        if steps.get(step).commands == REMOVE
            && let Some(exec) = replies.last()
        {
            errand.judge.report.removed += removed(&errand.judge, exec, UNLINK_KEYS_MAX)?;
        }
    }
    Ok(())
}
