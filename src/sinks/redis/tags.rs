//! How is a tag invalidated so that none of its keys is forgotten, whatever happens meanwhile?
//!
//! A tag's key is a set of the keys that carry the tag. Readers fill it with `MULTI; SET key …;
//! SADD tag key; EXEC`, while walpurge empties it. The steps for the set `S`:
//!
//! 1. `RENAMENX S L`, where `L` is a fixed name of `S`'s own ([`taken_name`]).
//! 2. `SSCAN L` in pages, and for each page `MULTI; UNLINK members; SREM L members; EXEC`.
//!    An empty set is no key in Redis, so `L` goes with its last member.
//!
//! **A reader in between.** What is in `S` before 1 goes along to `L` and is deleted. What a
//! reader adds after 1 lands in a fresh `S`. So a key that exists is in `S` or in `L`, at any
//! time: its SET and SADD are one step, and so are its UNLINK and SREM. (With UNLINK and SREM
//! apart, on `S` itself, a key set between the two exists and is listed nowhere.) A key that a
//! reader sets again before its page comes is deleted too: a miss, nothing else.
//!
//! **A crash.** It leaves `L`. RENAMENX refuses to overwrite it, which would forget its members;
//! then `L` is emptied first and `S` renamed after that. Where there is no `S`, `L` is emptied
//! all the same. A page that was half read is read again.
//!
//! **Two walpurges at once**, as in a takeover. Each owes what was in `S` or `L` when it began.
//! All of it stays in `S` or `L` until one of the two removes it, deleting it in the same step,
//! and moves between them only by renaming. Whoever renamed, or found no `S`, then reads `L` from
//! its start to its end, and so sees each member that was still owed. If the other one empties
//! `L` and renames a newer set to it meanwhile, then what was owed is gone already. Nobody ever
//! deletes `L` by name, which could take with it a set that the other one had just renamed.
//!
//! A tag set that expires or is evicted takes its list along: readers should give it a lifetime
//! above its members', and keep it from eviction. `L` is exempt from expiry (PERSIST).

use super::delete::UNLINK_KEYS_MAX;
use super::session::{Keys, Session};
use super::slot::{hash_slot, hash_tag};
use super::tag_work::{Step, Work, removed};
use super::wire::Reply;
use crate::action::{Batch, Verb};
use crate::sinks::Failure;

/// Tags worked on together. Each reads a page at a time, so this bounds memory.
pub(super) const TAGS_MAX: usize = 32;

/// About how many members a page has. SSCAN takes Redis about 1 ms for so many.
pub(super) const PAGE_MEMBERS: &[u8] = b"1000";

/// What marks a set as taken from its readers.
const MARK: &[u8] = b"walpurge:invalidating";

/// Does the batch's `tags` actions, where a tag's key is a set.
pub(super) async fn invalidate(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let (before, behind) = &session.config.tag_parts;
    let mut keys = Keys::default();
    for (index, action) in batch.iter().enumerate() {
        if action.verb != Verb::Tag {
            continue;
        }
        keys.push(Some(index), &[before, action.value, behind]);
        if keys.len() == TAGS_MAX {
            invalidate_keys(session, &keys).await?;
            keys.clear();
        }
    }
    invalidate_keys(session, &keys).await
}

/// Invalidates the tags whose sets are `keys`: at most [`TAGS_MAX`], for memory's sake.
pub(super) async fn invalidate_keys(session: &mut Session<'_>, keys: &Keys) -> Result<(), Failure> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut works = look(session, keys).await?;
    while !works.is_empty() {
        for work in &mut works {
            ask_for_page(session, work);
        }
        session.flush().await?;
        let mut removals = 0;
        for work in &mut works {
            let members = take_page(session, work).await?;
            for members in members.chunks(session.share_of(UNLINK_KEYS_MAX)) {
                ask_for_removal(session, &work.taken, members);
                removals += 1;
                if session.is_paced() {
                    session.turn(members.len()).await;
                    session.flush().await?;
                    take_removal(session).await?;
                    removals = 0;
                }
            }
        }
        if removals > 0 {
            session.flush().await?;
        }
        for _ in 0..removals {
            take_removal(session).await?;
        }
        works.retain(|work| !work.is_over());
    }
    Ok(())
}

/// Finds out which tags there is something to do for.
async fn look<'a>(session: &mut Session<'_>, keys: &'a Keys) -> Result<Vec<Work<'a>>, Failure> {
    let mut works = Work::all(keys);
    for work in &works {
        session.request.simple(&[b"SCARD", work.set]);
        session.request.simple(&[b"EXISTS", &work.taken]);
    }
    session.flush().await?;
    for work in &mut works {
        let card = session.reply("SCARD").await?;
        let taken = session.reply("EXISTS").await?;
        work.begin(&mut session.judge, &card, &taken)?;
    }
    works.retain(|work| !work.is_over());
    Ok(works)
}

fn ask_for_page(session: &mut Session<'_>, work: &Work<'_>) {
    let cursor = match &work.step {
        Step::Rename => {
            session.request.simple(&[b"RENAMENX", work.set, &work.taken]);
            session.request.simple(&[b"PERSIST", &work.taken]);
            b"0"
        }
        Step::Read { cursor, .. } => &cursor[..],
        Step::Over => return,
    };
    session.request.simple(&[b"SSCAN", &work.taken, cursor, b"COUNT", PAGE_MEMBERS]);
}

/// Takes the replies to [`ask_for_page`]: the page's members, and moves `work` on.
async fn take_page(
    session: &mut Session<'_>,
    work: &mut Work<'_>,
) -> Result<Vec<Vec<u8>>, Failure> {
    let renamed = match &work.step {
        Step::Rename => {
            let renamed = session.reply("RENAMENX").await?;
            session.reply_or_fail("PERSIST").await?;
            Some(renamed)
        }
        Step::Read { .. } => None,
        Step::Over => return Ok(Vec::new()),
    };
    let page = session.reply("SSCAN").await?;
    work.take_page(&mut session.judge, renamed, page)
}

fn ask_for_removal(session: &mut Session<'_>, taken: &[u8], members: &[Vec<u8>]) {
    session.request.simple(&[b"MULTI"]);
    session.request.command("UNLINK", 1 + members.len());
    for member in members {
        session.request.arg(member);
    }
    session.request.command("SREM", 2 + members.len()).arg(taken);
    for member in members {
        session.request.arg(member);
    }
    session.request.simple(&[b"EXEC"]);
    session.judge.report.requested += members.len() as u64;
}

async fn take_removal(session: &mut Session<'_>) -> Result<(), Failure> {
    for command in ["MULTI", "UNLINK", "SREM"] {
        session.reply_or_fail(command).await?;
    }
    let exec = session.reply_or_fail("EXEC").await?;
    session.judge.report.removed += removed(&session.judge, &exec, UNLINK_KEYS_MAX)?;
    Ok(())
}

/// The cursor and the keys of an answer to SCAN or SSCAN.
pub(super) fn page(reply: Reply) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let Reply::Array(parts) = reply else { return None };
    let [Reply::Bulk(cursor), Reply::Array(keys)] = <[Reply; 2]>::try_from(parts).ok()? else {
        return None;
    };
    let keys = keys.into_iter().map(|key| match key {
        Reply::Bulk(key) => Some(key),
        _ => None,
    });
    Some((cursor, keys.collect::<Option<_>>()?))
}

/// The name to which the set `key` is renamed: no other key's.
///
/// It starts with `key`, so that rights on keys by prefix cover it, and lies in `key`'s hash
/// slot, so that a cluster renames it: a key's own hash tag stays in force; a key without braces
/// is hashed whole, and so becomes the hash tag; for braces that make no hash tag a number is
/// found with which the slot comes out the same.
pub(super) fn taken_name(key: &[u8]) -> Vec<u8> {
    if hash_tag(key).is_some() {
        return [key, b":", MARK].concat();
    }
    if !key.is_empty() && !key.iter().any(|byte| matches!(byte, b'{' | b'}')) {
        return [key, b"{", key, b"}", MARK].concat();
    }
    let slot = hash_slot(key);
    (0..u32::MAX)
        .map(|number| [key, b"{", number.to_string().as_bytes(), b"}", MARK].concat())
        .find(|name| hash_slot(name) == slot)
        // There are 16,384 slots: some ten thousand tries find each.
        .unwrap_or_else(|| [key, b":", MARK].concat())
}

/// The set whose taken name `key` is, or `key` itself.
///
/// A set of the readers that merely looks so is handled well too: as somebody's taken set it is
/// emptied in the same way.
pub(super) fn origin(key: &[u8]) -> &[u8] {
    let set = match key.strip_suffix(MARK).and_then(<[u8]>::split_last) {
        Some((b':', set)) => Some(set),
        // What was added holds no brace of its own, so the last one opens it.
        Some((b'}', inner)) => memchr::memrchr(b'{', inner).map(|end| &inner[..end]),
        _ => None,
    };
    set.filter(|set| taken_name(set) == key).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_keeps_slot_and_prefix_and_leads_back() {
        let keys = [
            &b"tags:product:7"[..],
            b"",
            b"{u:1}:tags:x",
            b"tags:{}:x",
            b"tags:{x",
            b"x}y",
            b"}{",
            b"{}{a}",
            b"a{b}c{d}e",
            b"a{12}",
            b"\xff\n{",
            b"t{t}",
            b"tags:x:walpurge:invalidating",
            b"t",
            b"t{t}}",
            b"{t}:walpurge:invalidating",
        ];
        let mut names: Vec<_> = keys.iter().map(|key| taken_name(key)).collect();
        for (key, name) in keys.iter().zip(&names) {
            assert!(name.starts_with(key) && name != key);
            assert_eq!(hash_slot(name), hash_slot(key), "{}", String::from_utf8_lossy(name));
            assert_eq!(origin(name), *key, "{}", String::from_utf8_lossy(name));
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), keys.len());
    }

    #[test]
    fn a_set_of_the_readers_is_its_own_origin() {
        for key in [&b"tags:x"[..], b"", b"}", b"x{x}", MARK, b"x}:walpurge:invalidating"] {
            let origin = origin(key);
            assert!(origin == key || taken_name(origin) == key);
        }
        assert_eq!(origin(b"tags:x"), b"tags:x");
    }
}
