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
use super::wire::Reply;
use crate::action::{Batch, Verb};
use crate::sinks::Failure;

/// Tags worked on together. Each reads a page at a time, so this bounds memory.
pub(super) const TAGS_MAX: usize = 32;

/// About how many members a page has. SSCAN takes Redis about 1 ms for so many.
pub(super) const PAGE_MEMBERS: &[u8] = b"1000";

/// How often one tag's renaming may find a set in its way. The first is a crash's leftover; each
/// other means that another walpurge renamed, so that both go forward.
pub(super) const RENAMES_MAX: u32 = 100;

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

/// One tag's progress.
struct Work<'a> {
    index: Option<usize>,
    set: &'a [u8],
    taken: Vec<u8>,
    step: Step,
    renames: u32,
}

enum Step {
    /// Rename `set` to `taken` and read the first page.
    Rename,
    /// Read the page at the cursor; if `again`, rename after the last one.
    Read {
        cursor: Vec<u8>,
        again: bool,
    },
    Done,
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
        works.retain(|work| !matches!(work.step, Step::Done));
    }
    Ok(())
}

/// Finds out which tags there is something to do for.
///
/// SCARD also keeps RENAMENX from a key that is no set, which is somebody else's. It comes before
/// EXISTS: a set that another walpurge renames between the two is then still seen, as the latter.
async fn look<'a>(session: &mut Session<'_>, keys: &'a Keys) -> Result<Vec<Work<'a>>, Failure> {
    let mut works: Vec<Work<'_>> = keys
        .iter()
        .map(|(index, set)| Work {
            index,
            set,
            taken: taken_name(set),
            step: Step::Rename,
            renames: 0,
        })
        .collect();
    for work in &works {
        session.request.simple(&[b"SCARD", work.set]);
        session.request.simple(&[b"EXISTS", &work.taken]);
    }
    session.flush().await?;
    for work in &mut works {
        let set = session.reply("SCARD").await?;
        let taken = session.reply_or_fail("EXISTS").await?;
        work.step = match (set, taken.int()) {
            (Reply::Error(text), _) => {
                session.note(work.index, &text, "SCARD")?;
                Step::Done
            }
            (Reply::Int(0), Some(0)) => Step::Done,
            (Reply::Int(0), Some(_)) => Step::Read { cursor: b"0".to_vec(), again: false },
            (Reply::Int(_), Some(_)) => Step::Rename,
            _ => return Err(session.unexpected("SCARD")),
        };
    }
    works.retain(|work| !matches!(work.step, Step::Done));
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
        Step::Done => return,
    };
    session.request.simple(&[b"SSCAN", &work.taken, cursor, b"COUNT", PAGE_MEMBERS]);
}

/// Takes the replies to [`ask_for_page`]: the page's members, and moves `work` on.
async fn take_page(
    session: &mut Session<'_>,
    work: &mut Work<'_>,
) -> Result<Vec<Vec<u8>>, Failure> {
    let again = match &work.step {
        Step::Rename => {
            let renamed = match session.reply("RENAMENX").await? {
                // Another walpurge was quicker; `taken` holds what it has not done yet.
                Reply::Error(text) if text == "ERR no such key" => true,
                Reply::Error(text) => return Err(session.failure(&text, "RENAMENX")),
                reply => reply.int() == Some(1),
            };
            session.reply_or_fail("PERSIST").await?;
            !renamed
        }
        Step::Read { again, .. } => *again,
        Step::Done => return Ok(Vec::new()),
    };
    let (cursor, members) = match session.reply("SSCAN").await? {
        Reply::Error(text) => {
            session.note(work.index, &text, "SSCAN")?;
            work.step = Step::Done;
            return Ok(Vec::new());
        }
        reply => page(reply).ok_or_else(|| session.unexpected("SSCAN"))?,
    };
    work.step = match (&cursor[..], again) {
        (b"0", false) => Step::Done,
        (b"0", true) if work.renames == RENAMES_MAX => {
            return Err(session.failure("ERR another walpurge keeps taking this tag", "RENAMENX"));
        }
        (b"0", true) => {
            work.renames += 1;
            Step::Rename
        }
        _ => Step::Read { cursor, again },
    };
    Ok(members)
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
    let removed = match session.reply_or_fail("EXEC").await? {
        Reply::Array(results) => match &results[..] {
            // A taken name that is no set any more: someone else's key since a moment ago.
            [_, Reply::Error(text)] => return Err(session.failure(text, "SREM")),
            [removed @ Reply::Int(_), Reply::Int(_)] => removed.count(UNLINK_KEYS_MAX),
            _ => None,
        },
        _ => None,
    };
    session.judge.report.removed += removed.ok_or_else(|| session.unexpected("EXEC"))?;
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
