//! How is a tag invalidated whose members lie on other nodes than its set?
//!
//! As on a single server ([`tags`](super::super::tags)): the set `S` is renamed to `L`, which lies in
//! the same slot, and `L` is emptied page by page. Members in the slot of `L` (a hash tag) go in
//! one MULTI with their SREM, as there. Others cannot: they are deleted on their nodes first, and
//! those that are gone for certain are taken off `L` after that.
//!
//! Each page says which [`process`](super::process) it comes from, since a cursor means nothing
//! elsewhere: when `L` has moved, it is read from its start again.
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
use super::super::tag_work::RENAMES_MAX;
use super::super::tags::{PAGE_MEMBERS, TAGS_MAX, page, taken_name};
use super::super::wire::Reply;
use super::errand::Errand;
use super::process::Process;
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

/// One tag's progress.
struct Work<'a> {
    index: Option<usize>,
    set: &'a [u8],
    taken: Vec<u8>,
    slot: u16,
    step: Step,
    /// How often it was renamed, or its reading began anew.
    renames: u32,
}

enum Step {
    /// Rename `set` to `taken` and read the first page.
    Rename,
    /// Read the page at the cursor, which is of that process; if `again`, rename after the last one.
    Read { cursor: Vec<u8>, process: Option<Process>, again: bool },
    /// There is nothing to do, or it failed, which is noted.
    Over,
}

const RENAME: &[&str] = &["MULTI", "INFO", "RENAMENX", "PERSIST", "SSCAN", "EXEC"];
const READ: &[&str] = &["MULTI", "INFO", "SSCAN", "EXEC"];
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
        works.retain(|work| !matches!(work.step, Step::Over));
    }
    Ok(())
}

/// Finds out which tags there is something to do for. SCARD comes before EXISTS, and is answered
/// before that is asked, for the reason that is given where it is done on a single server.
async fn look<'a>(errand: &mut Errand<'_>, keys: &'a Keys) -> Result<Vec<Work<'a>>, Failure> {
    let work = |(index, set): (Option<usize>, &'a [u8])| Work {
        index,
        set,
        taken: taken_name(set),
        slot: hash_slot(set),
        step: Step::Rename,
        renames: 0,
    };
    let mut works: Vec<Work<'_>> = keys.iter().map(work).collect();
    let (mut sets, mut taken) = (Steps::default(), Steps::default());
    for work in &works {
        sets.add(work.slot, &["SCARD"], |request| {
            request.simple(&[b"SCARD", work.set]);
        });
        taken.add(work.slot, &["EXISTS"], |request| {
            request.simple(&[b"EXISTS", &work.taken]);
        });
    }
    let cards = errand.run(&sets).await;
    let exist = errand.run(&taken).await;
    for (at, work) in works.iter_mut().enumerate() {
        let (Some([set]), Some([taken])) = (cards.answered(&sets, at), exist.answered(&taken, at))
        else {
            work.step = Step::Over;
            continue;
        };
        if let Reply::Error(text) = taken {
            return Err(errand.judge.failure(text, "EXISTS"));
        }
        work.step = match (set, taken.int()) {
            (Reply::Error(text), _) => {
                errand.judge.note(work.index, text, "SCARD")?;
                Step::Over
            }
            (Reply::Int(0), Some(0)) => Step::Over,
            (Reply::Int(0), Some(_)) => {
                Step::Read { cursor: b"0".to_vec(), process: None, again: false }
            }
            (Reply::Int(_), Some(_)) => Step::Rename,
            _ => return Err(errand.judge.unexpected("SCARD")),
        };
    }
    works.retain(|work| !matches!(work.step, Step::Over));
    Ok(works)
}

fn ask_for_page(steps: &mut Steps, work: &Work<'_>) {
    // In one MULTI, so that a page that comes from another node is of what was renamed, and says
    // where it comes from.
    let (commands, cursor): (_, &[u8]) = match &work.step {
        Step::Rename => (RENAME, b"0"),
        Step::Read { cursor, .. } => (READ, cursor),
        Step::Over => return,
    };
    steps.add(work.slot, commands, |request| {
        request.simple(&[b"MULTI"]);
        Process::ask(request);
        if let Step::Rename = work.step {
            request.simple(&[b"RENAMENX", work.set, &work.taken]);
            request.simple(&[b"PERSIST", &work.taken]);
        }
        request.simple(&[b"SSCAN", &work.taken, cursor, b"COUNT", PAGE_MEMBERS]);
        request.simple(&[b"EXEC"]);
    });
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
    for (reply, command) in replies.iter().zip(steps.get(at).commands) {
        if let Reply::Error(text) = reply {
            return Err(errand.judge.failure(text, command));
        }
    }
    let done = replies.last_mut().map(|exec| std::mem::replace(exec, Reply::Nil));
    let (info, reply, before, again) = match (done, &work.step) {
        (Some(Reply::Array(done)), Step::Read { cursor, process, again }) => {
            let Ok([info, page]) = <[Reply; 2]>::try_from(done) else {
                return Err(errand.judge.unexpected("EXEC"));
            };
            (info, page, Some((cursor, process)), *again)
        }
        (Some(Reply::Array(done)), _) => {
            let Ok([info, renamed, _, page]) = <[Reply; 4]>::try_from(done) else {
                return Err(errand.judge.unexpected("EXEC"));
            };
            let renamed = match &renamed {
                // Another walpurge was quicker; `taken` holds what it has not done yet.
                Reply::Error(text) if text == "ERR no such key" => true,
                Reply::Error(text) => return Err(errand.judge.failure(text, "RENAMENX")),
                reply => reply.int() == Some(1),
            };
            (info, page, None, !renamed)
        }
        _ => return Err(errand.judge.unexpected("EXEC")),
    };
    let process = Process::read(&info).ok_or_else(|| errand.judge.unexpected("INFO"))?;
    let is_elsewhere = before.is_some_and(|(cursor, before)| process.is_new_to(cursor, before));
    let (cursor, members) = match reply {
        Reply::Error(text) => {
            errand.judge.note(work.index, &text, "SSCAN")?;
            work.step = Step::Over;
            return Ok(Vec::new());
        }
        reply => page(reply).ok_or_else(|| errand.judge.unexpected("SSCAN"))?,
    };
    if is_elsewhere {
        if work.renames == RENAMES_MAX {
            let text = "ERR the tag's set keeps moving from node to node";
            return Err(errand.judge.failure(text, "SSCAN"));
        }
        work.renames += 1;
        work.step = Step::Read { cursor: b"0".to_vec(), process: None, again };
        return Ok(members);
    }
    work.step = match (&cursor[..], again) {
        (b"0", false) => Step::Over,
        (b"0", true) if work.renames == RENAMES_MAX => {
            let text = "ERR another walpurge keeps taking this tag";
            return Err(errand.judge.failure(text, "RENAMENX"));
        }
        (b"0", true) => {
            work.renames += 1;
            Step::Rename
        }
        _ => Step::Read { cursor, process: Some(process), again },
    };
    Ok(members)
}

/// Deletes the members of each tag's page, and takes them off its list.
async fn remove(
    errand: &mut Errand<'_>,
    works: &[Work<'_>],
    pages: &[Vec<Vec<u8>>],
) -> Result<(), Failure> {
    let mut abroad = Keys::default();
    for (work, members) in works.iter().zip(pages) {
        for member in members.iter().filter(|member| hash_slot(member) != work.slot) {
            abroad.push(None, &[member]);
        }
    }
    if let Some(trace) = errand.trace.filter(|_| !abroad.is_empty()) {
        trace.meet_members(&abroad);
    }
    let mut gone = if abroad.is_empty() { Vec::new() } else { unlink(errand, &abroad).await? };
    // What a replica lacks may come back, when nothing tells of it any more.
    if !abroad.is_empty() && !replicas::wait(errand).await {
        gone.fill(false);
    }
    let mut gone = gone.into_iter();
    let mut steps = Steps::default();
    for (work, members) in works.iter().zip(pages) {
        let (mut near, mut far): (Vec<&[u8]>, Vec<&[u8]>) = (Vec::new(), Vec::new());
        for member in members {
            if hash_slot(member) == work.slot {
                near.push(member);
            } else if gone.next() == Some(true) {
                far.push(member);
            }
        }
        for near in near.chunks(errand.share_of(UNLINK_KEYS_MAX)) {
            errand.judge.report.requested += near.len() as u64;
            if errand.pacer.is_some() {
                errand.turn(near.len()).await;
                run_removals(errand, &steps).await?;
                steps.clear();
            }
            steps.add(work.slot, REMOVE, |request| {
                request.simple(&[b"MULTI"]);
                let members = near.iter().copied();
                request.command("UNLINK", 1 + near.len()).args(members.clone());
                request.command("SREM", 2 + near.len()).arg(&work.taken).args(members);
                request.simple(&[b"EXEC"]);
            });
        }
        for far in far.chunks(UNLINK_KEYS_MAX) {
            steps.add(work.slot, FORGET, |request| {
                let members = far.iter().copied();
                request.command("SREM", 2 + far.len()).arg(&work.taken).args(members);
            });
        }
    }
    run_removals(errand, &steps).await
}

/// Takes members off their lists, with their keys where those are near.
async fn run_removals(errand: &mut Errand<'_>, steps: &Steps) -> Result<(), Failure> {
    if steps.len() == 0 {
        return Ok(());
    }
    let answers = errand.run(steps).await;
    for step in 0..steps.len() {
        let Some(replies) = answers.answered(steps, step) else { continue };
        for (reply, command) in replies.iter().zip(steps.get(step).commands) {
            if let Reply::Error(text) = reply {
                return Err(errand.judge.failure(text, command));
            }
        }
        if let Some(Reply::Array(results)) = replies.last() {
            match &results[..] {
                // A taken name that is no set any more: someone else's key since a moment ago.
                [_, Reply::Error(text)] => return Err(errand.judge.failure(text, "SREM")),
                [removed @ Reply::Int(_), Reply::Int(_)] => {
                    let removed = removed.count(UNLINK_KEYS_MAX);
                    let removed = removed.ok_or_else(|| errand.judge.unexpected("EXEC"))?;
                    errand.judge.report.removed += removed;
                }
                _ => return Err(errand.judge.unexpected("EXEC")),
            }
        }
    }
    Ok(())
}
