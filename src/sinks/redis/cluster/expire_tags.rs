//! How is the time cut that a tag's keys have left, in a cluster?
//!
//! As on a single server ([`expire_tags`](super::super::expire_tags)): the set is read in pages, and
//! what stands under its taken name after it. Its keys are cut wherever they are.
//!
//! When a page comes from another process than the one before, the set is read from its start
//! again ([`process`](super::process)).

use super::super::expire_tags::TagSet;
use super::super::slot::hash_slot;
use super::super::tags::{PAGE_MEMBERS, TAGS_MAX, page, taken_name};
use super::super::wire::Reply;
use super::errand::Errand;
use super::process::Process;
use super::steps::Steps;
use super::verbs::{Cut, cut};
use crate::action::{Batch, Verb};
use crate::sinks::Failure;

/// How often the reading of one set may begin anew. A slot moves once in a while, not with every
/// page.
const RESTARTS_MAX: u32 = 20;

const READ: &[&str] = &["MULTI", "INFO", "SSCAN", "EXEC"];

/// How far a tag is.
struct Work<'a> {
    tag: &'a TagSet,
    slot: u16,
    taken: Vec<u8>,
    /// Whether the set itself is read, and it is the turn of its taken name.
    reads_taken: bool,
    cursor: Vec<u8>,
    /// The process that the cursor is of.
    process: Option<Process>,
    restarts: u32,
    is_over: bool,
}

/// Does the batch's `tags` actions that are to leave keys some time, where a tag's key is a set.
pub(super) async fn expire_tags(errand: &mut Errand<'_>, batch: &Batch) -> Result<(), Failure> {
    let (before, behind) = &errand.topology.config().tag_parts;
    let mut tags = Vec::new();
    for (index, action) in batch.iter().enumerate() {
        if action.verb == Verb::ExpireTag
            && let Some(time) = action.expire_in()
        {
            let set = [before, action.shown(), behind].concat();
            tags.push(TagSet { index: Some(index), set, time });
        }
    }
    expire_sets(errand, &tags).await
}

/// Cuts the time of the keys of each set.
pub(super) async fn expire_sets(errand: &mut Errand<'_>, tags: &[TagSet]) -> Result<(), Failure> {
    for tags in tags.chunks(TAGS_MAX) {
        expire_some(errand, tags).await?;
    }
    Ok(())
}

async fn expire_some(errand: &mut Errand<'_>, tags: &[TagSet]) -> Result<(), Failure> {
    let work = |tag| Work {
        tag,
        slot: hash_slot(&tag.set),
        taken: taken_name(&tag.set),
        reads_taken: false,
        cursor: b"0".to_vec(),
        process: None,
        restarts: 0,
        is_over: false,
    };
    let mut works: Vec<Work<'_>> = tags.iter().map(work).collect();
    while !works.is_empty() {
        let mut steps = Steps::default();
        for work in &works {
            let set = if work.reads_taken { &work.taken } else { &work.tag.set };
            steps.add(work.slot, READ, |request| {
                request.simple(&[b"MULTI"]);
                Process::ask(request);
                request.simple(&[b"SSCAN", set, &work.cursor, b"COUNT", PAGE_MEMBERS]);
                request.simple(&[b"EXEC"]);
            });
        }
        let mut answers = errand.run(&steps).await;
        let mut cuts = Vec::new();
        for (at, work) in works.iter_mut().enumerate() {
            if answers.answered(&steps, at).is_none() {
                // Noted as failed.
                work.is_over = true;
                continue;
            }
            let members = take_page(errand, answers.replies_mut(&steps, at), work)?;
            let time = work.tag.time;
            cuts.extend(members.into_iter().map(|key| Cut { index: None, key, time }));
        }
        cut(errand, &cuts).await?;
        works.retain(|work| !work.is_over);
    }
    Ok(())
}

/// Takes a page's members, and moves the work on.
fn take_page(
    errand: &mut Errand<'_>,
    replies: &mut [Reply],
    work: &mut Work<'_>,
) -> Result<Vec<Vec<u8>>, Failure> {
    for (reply, command) in replies.iter().zip(READ) {
        if let Reply::Error(text) = reply {
            return Err(errand.judge.failure(text, command));
        }
    }
    let done = match replies.last_mut().map(|exec| std::mem::replace(exec, Reply::Nil)) {
        Some(Reply::Array(done)) => <[Reply; 2]>::try_from(done).ok(),
        _ => None,
    };
    let Some([info, read]) = done else { return Err(errand.judge.unexpected("EXEC")) };
    let process = Process::read(&info).ok_or_else(|| errand.judge.unexpected("INFO"))?;
    let (cursor, members) = match read {
        Reply::Error(text) => {
            errand.judge.note(work.tag.index, &text, "SSCAN")?;
            work.is_over = true;
            return Ok(Vec::new());
        }
        reply => page(reply).ok_or_else(|| errand.judge.unexpected("SSCAN"))?,
    };
    if process.is_new_to(&work.cursor, &work.process) {
        work.restarts += 1;
        if work.restarts > RESTARTS_MAX {
            let text = "ERR the tag's set keeps moving from node to node";
            return Err(errand.judge.failure(text, "SSCAN"));
        }
        work.cursor = b"0".to_vec();
        return Ok(members);
    }
    if cursor == b"0" {
        work.is_over = std::mem::replace(&mut work.reads_taken, true);
    }
    (work.process, work.cursor) = (Some(process), cursor);
    Ok(members)
}
