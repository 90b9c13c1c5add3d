//! How is everything found that matches a pattern, on all masters, while slots move and masters
//! change?
//!
//! All masters are scanned at once, each on a connection of the scan's own and from cursor 0. A
//! master's scan counts as long as its connection lasts (a new one may lead to another server, or
//! to the same one after a restart) and no key has come to the master since the scan began (its
//! [`Fence`]). When every master of the slot map has a scan that counts, at a moment after all of
//! them, each key that exists then was met or is newer than the sweep. A scan that does not count
//! is repeated, the others stand, over retries of the same batch too: so a master that is down
//! costs the others one scan, and not one for each retry. None stands when something that was found
//! could not be done, or nobody would find it again.

use std::sync::Arc;

use futures_util::future::join_all;

use super::super::LaneClass;
use super::super::config::{NodeAddress, RedisConfig, TagMode};
use super::super::connection::Connection;
use super::super::error::{Verdict, classify, outage};
use super::super::expire_tags::TagHunt;
use super::super::hunt::{Deed as KeyDeed, Fate, Hunts};
use super::super::rights::{Duties, class_verbs, missing_rights};
use super::super::scan::Pass;
use super::super::session::Keys;
use super::super::slot::hash_slot;
use super::super::tags::{TAGS_MAX, origin};
use super::super::wire::{Reply, Request};
use super::errand::Errand;
use super::expire_tags::expire_sets;
use super::fence::Fence;
use super::steps::Steps;
use super::tags::invalidate_keys;
use super::verbs::{Cut, bump_keys, cut, unlink};
use crate::action::{Batch, Verb};
use crate::glob::Glob;
use crate::sinks::Failure;

/// How often a send scans a master at most to which keys keep coming. Then the driver's wait comes
/// in between.
const SCANS_MAX: u32 = 2;

/// The sweeps of one batch, one for each thing that is done to what they find.
#[derive(Default)]
pub(super) struct Sweeps {
    keys: Option<Sweep>,
    bump: Option<Sweep>,
    tag: Option<Sweep>,
    tag_expiry: Option<Sweep>,
}

/// What is scanned for, and how far that is.
struct Sweep {
    patterns: Vec<Vec<u8>>,
    scans: Vec<Scan>,
}

/// The scan of one master.
struct Scan {
    node: NodeAddress,
    config: Arc<RedisConfig>,
    connection: Connection,
    fence: Fence,
    pass: Pass,
    /// Whether a page has come: the cursor starts as it ends.
    has_begun: bool,
}

/// What is done to the keys that are found.
enum Deed {
    /// They are deleted, or left some time.
    Remove(Hunts),
    Bump,
    /// Those whose origin matches are tags' sets.
    Tag(Vec<Glob>),
    /// The same, of tags whose keys are left some time.
    ExpireTag(TagHunt),
}

impl Sweeps {
    /// Does the batch's actions that have patterns.
    ///
    /// Until it succeeds it is to be called with the same batch.
    pub(super) async fn run(
        &mut self,
        errand: &mut Errand<'_>,
        batch: &Batch,
    ) -> Result<(), Failure> {
        let config = errand.topology.config();
        let is_counter = config.tag_mode == TagMode::Version;
        let (mut bump, mut tag, mut tag_expiry) = (Vec::new(), Vec::new(), Vec::new());
        for action in batch.iter() {
            let tag_pattern = || config.tag_pattern(action.shown());
            match action.verb {
                Verb::BumpMatching => bump.push(config.key_pattern(action.value)),
                Verb::TagMatching | Verb::ExpireTagMatching if is_counter => {
                    bump.push(tag_pattern());
                }
                Verb::TagMatching => tag.push(tag_pattern()),
                Verb::ExpireTagMatching => tag_expiry.push(tag_pattern()),
                _ => {}
            }
        }
        let hunts = Hunts::new(batch, config);
        let (patterns, pass) = (hunts.patterns(), hunts.pass());
        sweep(&mut self.keys, errand, patterns, pass, &Deed::Remove(hunts)).await?;
        let pass = Pass::new(&bump, Some(b"string"));
        sweep(&mut self.bump, errand, bump, pass, &Deed::Bump).await?;
        let globs: Vec<_> = tag.iter().map(|pattern| Glob::new(pattern)).collect();
        let pass = Pass::with_common_prefix(&globs, b"set");
        sweep(&mut self.tag, errand, tag, pass, &Deed::Tag(globs)).await?;
        let hunt = TagHunt::new(batch, |pattern| config.tag_pattern(pattern));
        let pass = hunt.pass();
        sweep(&mut self.tag_expiry, errand, tag_expiry, pass, &Deed::ExpireTag(hunt)).await
    }

    /// The batch is done.
    pub(super) fn clear(&mut self) {
        *self = Sweeps::default();
    }
}

/// Finds what `pass` matches and does `deed` to it. What could not be done is the errand's failure.
async fn sweep(
    kept: &mut Option<Sweep>,
    errand: &mut Errand<'_>,
    patterns: Vec<Vec<u8>>,
    pass: Pass,
    deed: &Deed,
) -> Result<(), Failure> {
    if patterns.is_empty() {
        return Ok(());
    }
    // Taken out, so that a dropped future leaves no scan behind whose replies are under way.
    let kept_scans = kept.take().filter(|kept| kept.patterns == patterns);
    let mut scans = kept_scans.map(|kept| kept.scans).unwrap_or_default();
    let outcome = sweep_all(&mut scans, errand, &pass, deed).await;
    scans.retain(Scan::is_over);
    *kept = Some(Sweep { patterns, scans });
    outcome
}

async fn sweep_all(
    scans: &mut Vec<Scan>,
    errand: &mut Errand<'_>,
    pass: &Pass,
    deed: &Deed,
) -> Result<(), Failure> {
    for scanned in 0..=SCANS_MAX {
        errand.topology.look(errand.topology.looks(), &[], None).await?;
        let map = errand.topology.map().await?;
        scans.retain(|scan| map.masters().contains(&scan.node));
        keep_what_counts(scans).await;
        let is_missing = |node: &&NodeAddress| !scans.iter().any(|scan| scan.node == **node);
        let missing: Vec<_> = map.masters().iter().filter(is_missing).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        if scanned == SCANS_MAX {
            break;
        }
        let reachable = missing.into_iter().filter(|node| !errand.is_down(node));
        let begin = |node: NodeAddress| {
            let config = errand.topology.node(&node);
            Scan::begin(node, config, pass.clone())
        };
        let opening: Vec<_> = reachable.map(begin).collect();
        for (node, begun) in join_all(opening).await {
            match begun {
                Ok(scan) => scans.push(scan),
                Err(failure) => errand.give_up_on(&node, failure),
            }
        }
        scan_on(scans, errand, deed).await?;
        if errand.has_failed() {
            return Ok(());
        }
    }
    let message = "slots are being moved, and keys with them: patterns wait for the end of that";
    Err(outage(errand.topology.config(), "SCAN", message))
}

/// Drops the scans of masters to which keys have come meanwhile.
async fn keep_what_counts(scans: &mut Vec<Scan>) {
    let looks = scans.drain(..).map(|mut scan| async {
        let now = look_at(&mut scan.connection, &scan.config).await;
        let counts = now.is_ok_and(|now| now == scan.fence && !now.is_importing());
        counts.then_some(scan)
    });
    let looks: Vec<_> = looks.collect();
    *scans = join_all(looks).await.into_iter().flatten().collect();
}

/// Scans all masters to their ends, page by page together, while what the pages before have brought
/// is dealt with.
async fn scan_on(
    scans: &mut Vec<Scan>,
    errand: &mut Errand<'_>,
    deed: &Deed,
) -> Result<(), Failure> {
    let mut found = Keys::default();
    loop {
        let going_on = scans.iter_mut().filter(|scan| !scan.is_over());
        let pages: Vec<_> = going_on.map(Scan::next_page).collect();
        if pages.is_empty() && found.is_empty() {
            return Ok(());
        }
        let failures = errand.failures();
        let (pages, done) = tokio::join!(join_all(pages), deed.on(errand, &found));
        if done.is_err() || errand.failures() != failures {
            // What was found and not dealt with has to be found again.
            scans.clear();
            return done;
        }
        found.clear();
        for (node, page) in pages {
            match page {
                Ok(keys) => deed.choose(&keys, &mut found),
                Err(failure) => {
                    scans.retain(|scan| scan.node != node);
                    errand.give_up_on(&node, failure);
                }
            }
        }
    }
}

impl Scan {
    /// Connects to a master for a scan. The fence comes first: what comes later than that counts.
    async fn begin(
        node: NodeAddress,
        config: Arc<RedisConfig>,
        pass: Pass,
    ) -> (NodeAddress, Result<Scan, Failure>) {
        let beginning = async {
            let mut connection = Connection::open(Arc::clone(&config)).await?;
            let fence = look_at(&mut connection, &config).await?;
            Ok((connection, fence))
        };
        let begun = beginning.await.map(|(connection, fence)| {
            let (node, config) = (node.clone(), Arc::clone(&config));
            Scan { node, config, connection, fence, pass, has_begun: false }
        });
        (node, begun)
    }

    fn is_over(&self) -> bool {
        self.has_begun && self.pass.is_over()
    }

    /// The keys of the next page that match.
    async fn next_page(&mut self) -> (NodeAddress, Result<Vec<Vec<u8>>, Failure>) {
        let asking = async {
            let mut request = Request::default();
            self.pass.ask(&mut request);
            self.connection.send(&request).await?;
            let reply = self.connection.reply("SCAN").await?;
            if let Reply::Error(text) = &reply {
                return Err(refusal(text, "SCAN", &self.config));
            }
            let keys = self.pass.accept(reply).ok_or_else(|| unexpected("SCAN", &self.config))?;
            self.has_begun = true;
            Ok(keys)
        };
        let mut page = asking.await;
        if let Ok(keys) = &mut page {
            keys.retain(|key| self.pass.matches(key));
        }
        (self.node.clone(), page)
    }
}

impl Deed {
    /// Adds what the deed is to be done to.
    fn choose(&self, keys: &[Vec<u8>], found: &mut Keys) {
        for key in keys {
            match self {
                Deed::Remove(_) | Deed::Bump | Deed::ExpireTag(_) => found.push(None, &[key]),
                Deed::Tag(globs) => {
                    let set = origin(key);
                    if globs.iter().any(|glob| glob.matches(set)) {
                        found.push(None, &[set]);
                    }
                }
            }
        }
    }

    async fn on(&self, errand: &mut Errand<'_>, found: &Keys) -> Result<(), Failure> {
        if found.is_empty() {
            return Ok(());
        }
        match self {
            Deed::Remove(hunts) => {
                let (mut doomed, mut cuts) = (Keys::default(), Vec::new());
                for (deed, key) in judge(errand, hunts, found).await? {
                    match deed {
                        KeyDeed::Delete => doomed.push(None, &[key]),
                        KeyDeed::Cut(time) => {
                            cuts.push(Cut { index: None, key: key.to_vec(), time });
                        }
                    }
                }
                if !doomed.is_empty() {
                    unlink(errand, &doomed).await?;
                }
                cut(errand, &cuts).await
            }
            Deed::ExpireTag(hunt) => {
                let tags: Vec<_> = found.iter().filter_map(|(_, key)| hunt.tag(key)).collect();
                expire_sets(errand, &tags).await
            }
            Deed::Bump => bump_keys(errand, found).await,
            Deed::Tag(_) => {
                let sets: Vec<&[u8]> = found.iter().map(|(_, set)| set).collect();
                for some in sets.chunks(TAGS_MAX) {
                    let mut keys = Keys::default();
                    some.iter().for_each(|set| keys.push(None, &[set]));
                    invalidate_keys(errand, &keys).await?;
                }
                Ok(())
            }
        }
    }
}

/// What is to be done to which keys. Where that depends on their types, they are asked for, wherever
/// they are now.
async fn judge<'k>(
    errand: &mut Errand<'_>,
    hunts: &Hunts,
    keys: &'k Keys,
) -> Result<Vec<(KeyDeed, &'k [u8])>, Failure> {
    let (mut found, mut doubtful, mut types) = (Vec::new(), Vec::new(), Steps::default());
    for (_, key) in keys.iter() {
        match hunts.fate(key) {
            Fate::Spared => {}
            Fate::Meets(deed) => found.push((deed, key)),
            Fate::Depends => {
                types.add(hash_slot(key), &["TYPE"], |request| {
                    request.simple(&[b"TYPE", key]);
                });
                doubtful.push(key);
            }
        }
    }
    if doubtful.is_empty() {
        return Ok(found);
    }
    let answers = errand.run(&types).await;
    for (step, key) in doubtful.into_iter().enumerate() {
        match answers.answered(&types, step) {
            Some([Reply::Status(of)]) => {
                found.extend(hunts.deed(key, of).map(|deed| (deed, key)));
            }
            Some([Reply::Error(text)]) => return Err(errand.judge.failure(text, "TYPE")),
            Some(_) => return Err(errand.judge.unexpected("TYPE")),
            // Noted as failed: the sweep does not count.
            None => {}
        }
    }
    Ok(found)
}

/// What a node says of itself now.
async fn look_at(connection: &mut Connection, config: &Arc<RedisConfig>) -> Result<Fence, Failure> {
    let mut request = Request::default();
    connection.send(request.simple(&[b"CLUSTER", b"NODES"])).await?;
    let reply = connection.reply("CLUSTER").await?;
    if let Reply::Error(text) = &reply {
        return Err(refusal(text, "CLUSTER NODES", config));
    }
    Fence::parse(&reply).ok_or_else(|| outage(config, "CLUSTER NODES", "it is no master any more"))
}

/// An error that no key is to blame for.
fn refusal(text: &str, command: &str, config: &RedisConfig) -> Failure {
    let scans = Duties::of(class_verbs(config, LaneClass::Scan));
    match classify(text, command, config, || missing_rights(&scans, config)) {
        Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
        Verdict::Key(reason) => outage(config, command, reason),
    }
}

fn unexpected(command: &str, config: &RedisConfig) -> Failure {
    outage(config, command, "an answer that Redis does not give")
}
