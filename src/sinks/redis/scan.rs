//! How is everything that matches a pattern found? With SCAN, page by page, never with KEYS.
//!
//! All patterns of a verb share one pass over the keys. A pass is all or nothing: a cursor means
//! nothing on another connection, whose server may be another one since a failover (continuing
//! there skips keys without an error). So a failure ends the send, and the next one starts from
//! cursor 0. SCAN returns every key that exists from the pass's start to its end, some twice.

use std::sync::Arc;

use super::bump::bump_keys;
use super::config::TagMode;
use super::delete::{UNLINK_KEYS_MAX, take_unlinked};
use super::expire::Cuts;
use super::hunt::{Deed, Fate, Hunts};
use super::session::{Keys, Session};
use super::tags::{invalidate_keys, origin, page};
use super::wire::{Reply, Request};
use crate::action::{Batch, Verb};
use crate::glob::{self, Glob, GlobSet};
use crate::sinks::Failure;

/// How many keys Redis looks at for one page: about 1 ms during which it serves nobody else.
pub(super) const PAGE_KEYS: &[u8] = b"1000";

/// Tags found by a scan that are worked on together.
const TAGS_MAX: usize = 32;

/// One pass over all keys of a server.
#[derive(Clone)]
pub(super) struct Pass {
    cursor: Vec<u8>,
    /// What the server leaves out.
    server_pattern: Vec<u8>,
    server_type: Option<&'static [u8]>,
    /// What we leave out; none if the server's pattern says all.
    globs: Arc<GlobSet>,
}

impl Pass {
    /// A pass for the keys that match one of `patterns`.
    pub(super) fn new(patterns: &[Vec<u8>], server_type: Option<&'static [u8]>) -> Self {
        let cursor = b"0".to_vec();
        if let [pattern] = patterns {
            let server_pattern = pattern.clone();
            return Pass { cursor, server_pattern, server_type, globs: Arc::default() };
        }
        let globs: Vec<_> = patterns.iter().map(|pattern| Glob::new(pattern)).collect();
        let mut server_pattern = Vec::new();
        glob::escape(&common_prefix(&globs), &mut server_pattern);
        server_pattern.push(b'*');
        let globs = Arc::new(GlobSet::new(globs));
        Pass { cursor, server_pattern, server_type, globs }
    }

    /// A pass for all keys of a type that start as the matches of `globs` do.
    pub(super) fn with_common_prefix(globs: &[Glob], server_type: &'static [u8]) -> Self {
        let mut pass = Pass::new(&[], Some(server_type));
        pass.server_pattern.clear();
        glob::escape(&common_prefix(globs), &mut pass.server_pattern);
        pass.server_pattern.push(b'*');
        pass
    }

    /// Adds the command that asks for the next page.
    pub(super) fn ask(&self, request: &mut Request) {
        let mut args =
            [b"SCAN", &self.cursor[..], b"MATCH", &self.server_pattern, b"COUNT"].to_vec();
        args.push(PAGE_KEYS);
        if let Some(server_type) = self.server_type {
            args.extend([b"TYPE", server_type]);
        }
        request.simple(&args);
    }

    /// Takes the answer to [`ask`](Self::ask): keys that the server's pattern matches.
    pub(super) async fn take(
        &mut self,
        session: &mut Session<'_>,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        let reply = session.reply_or_fail("SCAN").await?;
        self.accept(reply).ok_or_else(|| session.unexpected("SCAN"))
    }

    /// The keys of a page, unless it is none.
    pub(super) fn accept(&mut self, reply: Reply) -> Option<Vec<Vec<u8>>> {
        let (cursor, keys) = page(reply)?;
        self.cursor = cursor;
        Some(keys)
    }

    pub(super) fn matches(&self, key: &[u8]) -> bool {
        self.globs.is_empty() || self.globs.matches(key)
    }

    pub(super) fn is_over(&self) -> bool {
        self.cursor == b"0"
    }
}

/// The bytes with which all matches start, so that the server can leave out the other keys.
fn common_prefix(globs: &[Glob]) -> Vec<u8> {
    let prefixes = globs.iter().map(Glob::literal_prefix);
    let common = prefixes.reduce(|mut common, prefix| {
        let length = common.iter().zip(&prefix).take_while(|(a, b)| a == b).count();
        common.truncate(length);
        common
    });
    common.unwrap_or_default()
}

/// Does the batch's `delete_matching` actions, whether they delete keys or leave them some time.
pub(super) async fn delete_matching(
    session: &mut Session<'_>,
    batch: &Batch,
) -> Result<(), Failure> {
    let hunts = Hunts::new(batch, session.config);
    let mut pass = hunts.pass();
    let mut found: Vec<(Deed, Vec<u8>)> = Vec::new();
    let mut over = false;
    // A page's keys are dealt with in the request that asks for the next page.
    while !over || !found.is_empty() {
        if session.is_paced() {
            // The next page can wait.
            remove_paced(session, &found).await?;
            found.clear();
        }
        let mut removals = Removals::default();
        removals.ask(session, &found).await?;
        found.clear();
        let asked = !over;
        if asked {
            pass.ask(session.request);
        }
        session.flush().await?;
        removals.take(session).await?;
        if asked {
            let mut keys = pass.take(session).await?;
            keys.retain(|key| pass.matches(key));
            over = pass.is_over();
            found = judge(session, &hunts, keys).await?;
        }
    }
    Ok(())
}

/// What is to be done to which of a page's keys. Where that depends on their types, they are asked
/// for.
async fn judge(
    session: &mut Session<'_>,
    hunts: &Hunts,
    keys: Vec<Vec<u8>>,
) -> Result<Vec<(Deed, Vec<u8>)>, Failure> {
    let (mut found, mut doubtful) = (Vec::new(), Vec::new());
    for key in keys {
        match hunts.fate(&key) {
            Fate::Spared => {}
            Fate::Meets(deed) => found.push((deed, key)),
            Fate::Depends => {
                session.request.simple(&[b"TYPE", &key]);
                doubtful.push(key);
            }
        }
    }
    if !doubtful.is_empty() {
        session.flush().await?;
    }
    for key in doubtful {
        let Reply::Status(of) = session.reply_or_fail("TYPE").await? else {
            return Err(session.unexpected("TYPE"));
        };
        found.extend(hunts.deed(&key, &of).map(|deed| (deed, key)));
    }
    Ok(found)
}

/// Deletes and cuts what was found, share by share.
async fn remove_paced(session: &mut Session<'_>, found: &[(Deed, Vec<u8>)]) -> Result<(), Failure> {
    for found in found.chunks(session.share_of(found.len().max(1))) {
        let mut removals = Removals::default();
        session.turn(found.iter().filter(|(deed, _)| *deed == Deed::Delete).count()).await;
        removals.ask(session, found).await?;
        session.turn(removals.cuts.len()).await;
        session.flush().await?;
        removals.take(session).await?;
    }
    Ok(())
}

/// Keys that are being deleted or cut.
#[derive(Default)]
struct Removals {
    unlinks: usize,
    cuts: Cuts,
}

impl Removals {
    /// Adds the commands for what was found.
    async fn ask(
        &mut self,
        session: &mut Session<'_>,
        found: &[(Deed, Vec<u8>)],
    ) -> Result<(), Failure> {
        // Cuts first: what fills a request goes out at once, with all that was gathered before.
        for (deed, key) in found {
            if let Deed::Cut(time) = *deed {
                self.cuts.add(session, None, &[key], time).await?;
            }
        }
        let doomed: Vec<&[u8]> = found
            .iter()
            .filter(|(deed, _)| *deed == Deed::Delete)
            .map(|(_, key)| &key[..])
            .collect();
        for keys in doomed.chunks(UNLINK_KEYS_MAX) {
            session.request.command("UNLINK", 1 + keys.len()).args(keys.iter().copied());
            self.unlinks += 1;
        }
        session.judge.report.requested += doomed.len() as u64;
        Ok(())
    }

    /// Takes the replies.
    async fn take(mut self, session: &mut Session<'_>) -> Result<(), Failure> {
        self.cuts.take(session).await?;
        take_unlinked(session, self.unlinks).await
    }
}

/// Raises every existing counter that the batch's patterns match: `bump`s, and `tags` where a
/// tag is a counter. A counter that goes between its page and its bump is made anew, above
/// all values that it had: harmless. A string that is no number is no counter and stays.
pub(super) async fn bump_matching(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let config = session.config;
    let mut patterns = Vec::new();
    for action in batch.iter() {
        match action.verb.deleting() {
            Verb::BumpMatching => patterns.push(config.key_pattern(action.value)),
            Verb::TagMatching if config.tag_mode == TagMode::Version => {
                patterns.push(config.tag_pattern(action.shown()));
            }
            _ => {}
        }
    }
    let mut pass = Pass::new(&patterns, Some(b"string"));
    let mut keys = Keys::default();
    loop {
        pass.ask(session.request);
        session.flush().await?;
        for key in pass.take(session).await? {
            if pass.matches(&key) {
                keys.push(None, &[&key]);
            }
            if session.is_paced() && keys.len() == session.share_of(usize::MAX) {
                session.turn(keys.len()).await;
                bump_keys(session, &keys).await?;
                keys.clear();
            }
        }
        session.turn(keys.len()).await;
        bump_keys(session, &keys).await?;
        keys.clear();
        if pass.is_over() {
            return Ok(());
        }
    }
}

/// Invalidates every existing tag that the batch's patterns match, where a tag's key is a set.
///
/// A set that a crash left under its taken name counts as the tag that it was. Patterns see the
/// readers' name, which the server cannot tell from a taken one, so all sets are looked at here.
/// If another walpurge renames a set during the pass, neither name may come up: it is finished by
/// that one's action, which is confirmed only then and repeated by whoever takes over.
pub(super) async fn invalidate_matching(
    session: &mut Session<'_>,
    batch: &Batch,
) -> Result<(), Failure> {
    let mut globs = Vec::new();
    for action in batch.iter().filter(|action| action.verb == Verb::TagMatching) {
        globs.push(Glob::new(&session.config.tag_pattern(action.value)));
    }
    // A taken name starts with its set's, so what all matches start with serves for both.
    let mut pass = Pass::with_common_prefix(&globs, b"set");
    let mut keys = Keys::default();
    loop {
        pass.ask(session.request);
        session.flush().await?;
        for key in pass.take(session).await? {
            let set = origin(&key);
            if globs.iter().any(|glob| glob.matches(set)) {
                keys.push(None, &[set]);
            }
            if keys.len() == TAGS_MAX {
                invalidate_keys(session, &keys).await?;
                keys.clear();
            }
        }
        if pass.is_over() {
            return invalidate_keys(session, &keys).await;
        }
    }
}
