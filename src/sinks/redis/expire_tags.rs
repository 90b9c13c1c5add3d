//! How is the time cut that a tag's keys have left, so that none of them is forgotten?
//!
//! The tag's set is read in pages, and the keys of each page are cut. Nothing is taken off the set:
//! its keys live on, and whoever invalidates the tag after that, to delete them, has to find them.
//! So a set from which nothing is ever deleted keeps the names of keys that are long gone, until it
//! expires itself: its readers give it a lifetime anyway.
//!
//! A deletion of the same tag may be under way, or have been interrupted by a crash: then keys are
//! under the taken name ([`taken_name`]). They only ever go there from the set, and from there
//! nowhere but away. So whoever reads the set to its end, and after that the other one to its end,
//! has met every key that was in one of them when it began, unless it was deleted.

use std::time::Duration;

use super::expire::Cuts;
use super::scan::Pass;
use super::session::Session;
use super::tags::{PAGE_MEMBERS, TAGS_MAX, origin, page, taken_name};
use super::wire::Reply;
use crate::action::{Batch, Verb};
use crate::glob::Glob;
use crate::sinks::Failure;

/// A tag's set to be read.
pub(super) struct TagSet {
    /// The place of its action, unless a scan found it.
    pub(super) index: Option<usize>,
    pub(super) set: Vec<u8>,
    /// What its keys are left.
    pub(super) time: Duration,
}

/// How far a tag is.
struct Work<'a> {
    tag: &'a TagSet,
    taken: Vec<u8>,
    /// Whether the set itself is read, and it is the turn of its taken name.
    reads_taken: bool,
    cursor: Vec<u8>,
    is_over: bool,
}

/// Does the batch's `tags` actions that are to leave keys some time, where a tag's key is a set.
pub(super) async fn expire_tags(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let (before, behind) = &session.config.tag_parts;
    let mut tags = Vec::new();
    for (index, action) in batch.iter().enumerate() {
        if action.verb == Verb::ExpireTag
            && let Some(time) = action.expire_in()
        {
            let set = [before, action.shown(), behind].concat();
            tags.push(TagSet { index: Some(index), set, time });
        }
    }
    expire_sets(session, &tags).await
}

/// Cuts the time of the keys of each set.
async fn expire_sets(session: &mut Session<'_>, tags: &[TagSet]) -> Result<(), Failure> {
    for tags in tags.chunks(TAGS_MAX) {
        expire_some(session, tags).await?;
    }
    Ok(())
}

async fn expire_some(session: &mut Session<'_>, tags: &[TagSet]) -> Result<(), Failure> {
    let work = |tag| Work {
        tag,
        taken: taken_name(&tag.set),
        reads_taken: false,
        cursor: b"0".to_vec(),
        is_over: false,
    };
    let mut works: Vec<Work<'_>> = tags.iter().map(work).collect();
    while !works.is_empty() {
        for work in &works {
            let set = if work.reads_taken { &work.taken } else { &work.tag.set };
            session.request.simple(&[b"SSCAN", set, &work.cursor, b"COUNT", PAGE_MEMBERS]);
        }
        session.flush().await?;
        let mut pages = Vec::with_capacity(works.len());
        for work in &mut works {
            pages.push(take_page(session, work).await?);
        }
        let mut cuts = Cuts::default();
        for (work, members) in works.iter().zip(&pages) {
            for member in members {
                cuts.add(session, None, &[member], work.tag.time).await?;
            }
        }
        cuts.send(session).await?;
        works.retain(|work| !work.is_over);
    }
    Ok(())
}

/// Takes a page's members, and moves the work on.
async fn take_page(
    session: &mut Session<'_>,
    work: &mut Work<'_>,
) -> Result<Vec<Vec<u8>>, Failure> {
    let (cursor, members) = match session.reply("SSCAN").await? {
        Reply::Error(text) => {
            session.note(work.tag.index, &text, "SSCAN")?;
            work.is_over = true;
            return Ok(Vec::new());
        }
        reply => page(reply).ok_or_else(|| session.unexpected("SSCAN"))?,
    };
    if cursor == b"0" {
        work.is_over = std::mem::replace(&mut work.reads_taken, true);
    }
    work.cursor = cursor;
    Ok(members)
}

/// The tags to be expired that patterns match among keys that are sets.
pub(super) struct TagHunt(Vec<(Glob, Duration)>);

impl TagHunt {
    /// Those of a batch, whose patterns become those of keys by `pattern`.
    pub(super) fn new(batch: &Batch, pattern: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let of = batch.iter().filter(|action| action.verb == Verb::ExpireTagMatching);
        let hunted = of.filter_map(|action| {
            let glob = Glob::new(&pattern(action.shown()));
            Some((glob, action.expire_in()?))
        });
        TagHunt(hunted.collect())
    }

    /// A pass that brings all of them.
    pub(super) fn pass(&self) -> Pass {
        let globs: Vec<Glob> = self.0.iter().map(|(glob, _)| glob.clone()).collect();
        Pass::with_common_prefix(&globs, b"set")
    }

    /// The tag of a key that the pass has brought, if it is meant.
    pub(super) fn tag(&self, key: &[u8]) -> Option<TagSet> {
        let set = origin(key);
        let matching = self.0.iter().filter(|(glob, _)| glob.matches(set));
        let time = matching.map(|&(_, time)| time).min()?;
        Some(TagSet { index: None, set: set.to_vec(), time })
    }
}

/// Cuts the time of the keys of every existing tag that the batch's patterns match, where a tag's
/// key is a set.
pub(super) async fn expire_matching(
    session: &mut Session<'_>,
    batch: &Batch,
) -> Result<(), Failure> {
    let config = session.config;
    let hunt = TagHunt::new(batch, |pattern| config.tag_pattern(pattern));
    let mut pass = hunt.pass();
    loop {
        pass.ask(session.request);
        session.flush().await?;
        let keys = pass.take(session).await?;
        let tags: Vec<TagSet> = keys.iter().filter_map(|key| hunt.tag(key)).collect();
        expire_sets(session, &tags).await?;
        if pass.is_over() {
            return Ok(());
        }
    }
}
