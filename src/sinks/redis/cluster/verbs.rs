//! How are keys deleted, counters raised and messages published in a cluster?

use std::time::Duration;

use super::super::bump::bumped;
use super::super::config::TagMode;
use super::super::delete::UNLINK_KEYS_MAX;
use super::super::error::outage;
use super::super::expire;
use super::super::publish::add_to_stream;
use super::super::session::{Keys, next_seed};
use super::super::slot::hash_slot;
use super::super::wire::{Reply, push_decimal};
use super::errand::Errand;
use super::node::{Parcel, exchange};
use super::steps::{Outcome, Steps};
use crate::action::{Address, Batch, Verb};
use crate::sinks::Failure;

/// Does the batch's `delete` actions.
pub(super) async fn delete(errand: &mut Errand<'_>, batch: &Batch) -> Result<(), Failure> {
    let prefix = &errand.topology.config().prefix;
    let mut keys = Keys::default();
    for action in batch.iter().filter(|action| action.verb == Verb::Delete) {
        keys.push(None, &[prefix, action.value]);
    }
    unlink(errand, &keys).await.map(drop)
}

/// A key to be left some time at most.
pub(super) struct Cut {
    /// The place of its action, unless a page brought it.
    pub(super) index: Option<usize>,
    pub(super) key: Vec<u8>,
    pub(super) time: Duration,
}

/// Does the batch's `delete` actions that are to leave keys some time.
pub(super) async fn expire(errand: &mut Errand<'_>, batch: &Batch) -> Result<(), Failure> {
    let prefix = &errand.topology.config().prefix;
    let mut cuts = Vec::new();
    for (index, action) in batch.iter().enumerate() {
        if action.verb == Verb::Expire
            && let Some(time) = action.expire_in()
        {
            let key = [prefix, action.shown()].concat();
            cuts.push(Cut { index: Some(index), key, time });
        }
    }
    cut(errand, &cuts).await
}

/// Cuts the time that keys have left, wherever they are.
pub(super) async fn cut(errand: &mut Errand<'_>, cuts: &[Cut]) -> Result<(), Failure> {
    for cuts in cuts.chunks(errand.share_of(cuts.len().max(1))) {
        errand.turn(cuts.len()).await;
        cut_some(errand, cuts).await?;
    }
    Ok(())
}

async fn cut_some(errand: &mut Errand<'_>, cuts: &[Cut]) -> Result<(), Failure> {
    let mut steps = Steps::default();
    for Cut { key, time, .. } in cuts {
        steps.add(hash_slot(key), &["PEXPIRE"], |request| expire::cut(request, &[key], *time));
    }
    let answers = errand.run(&steps).await;
    for (step, Cut { index, .. }) in cuts.iter().enumerate() {
        errand.judge.report.requested += 1;
        if let Some([reply]) = answers.answered(&steps, step) {
            errand.judge.cut(*index, reply)?;
        }
    }
    Ok(())
}

/// UNLINKs keys, wherever they are: for each whether it is gone.
///
/// A cluster takes several keys in one command only if they are of one slot. Neighbours that are,
/// as of one hash tag, share a command. Looking for more such keys does not pay: 1,024 keys of one
/// of three masters lie in about 930 of its 5,461 slots, so that sorting them would save a tenth of
/// the commands.
pub(super) async fn unlink(errand: &mut Errand<'_>, keys: &Keys) -> Result<Vec<bool>, Failure> {
    let all: Vec<&[u8]> = keys.iter().map(|(_, key)| key).collect();
    let mut gone = Vec::with_capacity(all.len());
    for some in all.chunks(errand.share_of(all.len().max(1))) {
        errand.turn(some.len()).await;
        gone.extend(unlink_some(errand, some).await?);
    }
    Ok(gone)
}

async fn unlink_some(errand: &mut Errand<'_>, all: &[&[u8]]) -> Result<Vec<bool>, Failure> {
    const UNLINK: &[&str] = &["UNLINK"];
    let mut gone = vec![false; all.len()];
    errand.judge.report.requested += all.len() as u64;
    let mut steps = Steps::default();
    // Where each step's keys start.
    let mut starts = Vec::with_capacity(all.len());
    let mut at = 0;
    while at < all.len() {
        let slot = hash_slot(all[at]);
        let same = all[at..].iter().take(UNLINK_KEYS_MAX).skip(1);
        let end = at + 1 + same.take_while(|key| hash_slot(key) == slot).count();
        let step = steps.add(slot, UNLINK, |request| {
            request.command("UNLINK", 1 + end - at).args(all[at..end].iter().copied());
        });
        step.can_split = end - at > 1;
        starts.push(at);
        at = end;
    }
    starts.push(all.len());
    let answers = errand.run(&steps).await;
    let mut split = Vec::new();
    for (step, range) in starts.windows(2).enumerate() {
        let range = range[0]..range[1];
        match answers.outcome(step) {
            Outcome::Split => split.extend(range),
            _ => {
                if let Some([reply]) = answers.answered(&steps, step) {
                    count_removed(errand, reply, range.len())?;
                    gone[range].fill(true);
                }
            }
        }
    }
    if !split.is_empty() {
        steps.clear();
        for &at in &split {
            steps.add(hash_slot(all[at]), UNLINK, |request| {
                request.simple(&[b"UNLINK", all[at]]);
            });
        }
        let answers = errand.run(&steps).await;
        for (step, &at) in split.iter().enumerate() {
            if let Some([reply]) = answers.answered(&steps, step) {
                count_removed(errand, reply, 1)?;
                gone[at] = true;
            }
        }
    }
    Ok(gone)
}

fn count_removed(errand: &mut Errand<'_>, reply: &Reply, keys: usize) -> Result<(), Failure> {
    if let Reply::Error(text) = reply {
        return Err(errand.judge.failure(text, "UNLINK"));
    }
    let removed = reply.count(keys).ok_or_else(|| errand.judge.unexpected("UNLINK"))?;
    errand.judge.report.removed += removed;
    Ok(())
}

/// Does the batch's `bump` actions and, where a tag is a counter, its `tags`.
pub(super) async fn bump(errand: &mut Errand<'_>, batch: &Batch) -> Result<(), Failure> {
    let config = errand.topology.config();
    let (before, behind) = &config.tag_parts;
    let mut keys = Keys::default();
    for (index, action) in batch.iter().enumerate() {
        match action.verb.deleting() {
            Verb::Bump => keys.push(Some(index), &[&config.prefix, action.value]),
            Verb::Tag if config.tag_mode == TagMode::Version => {
                keys.push(Some(index), &[before, action.shown(), behind]);
            }
            _ => {}
        }
    }
    bump_keys(errand, &keys).await
}

/// Bumps whole keys, as on a single server.
pub(super) async fn bump_keys(errand: &mut Errand<'_>, keys: &Keys) -> Result<(), Failure> {
    let all: Vec<(Option<usize>, &[u8])> = keys.iter().collect();
    for some in all.chunks(errand.share_of(all.len().max(1))) {
        errand.turn(some.len()).await;
        bump_some(errand, some).await?;
    }
    Ok(())
}

async fn bump_some(
    errand: &mut Errand<'_>,
    keys: &[(Option<usize>, &[u8])],
) -> Result<(), Failure> {
    let mut seed = Vec::new();
    push_decimal(&mut seed, next_seed(errand.seed));
    let mut steps = Steps::default();
    for (_, key) in keys {
        steps.add(hash_slot(key), &["MULTI", "SET", "INCR", "EXEC"], |request| {
            request.simple(&[b"MULTI"]);
            request.simple(&[b"SET", key, &seed, b"NX"]);
            request.simple(&[b"INCR", key]);
            request.simple(&[b"EXEC"]);
        });
    }
    let answers = errand.run(&steps).await;
    for (step, (index, _)) in keys.iter().enumerate() {
        errand.judge.report.requested += 1;
        let Some(replies) = answers.answered(&steps, step) else { continue };
        match bumped(replies) {
            None => return Err(errand.judge.unexpected("EXEC")),
            Some(None) => {}
            Some(Some((text, command))) => errand.judge.note(*index, &text, command)?,
        }
    }
    Ok(())
}

/// Does the batch's `publish` actions: a stream is a key as any other.
pub(super) async fn publish(errand: &mut Errand<'_>, batch: &Batch) -> Result<(), Failure> {
    let (mut messages, mut told) = (Steps::default(), Vec::new());
    let (mut entries, mut added) = (Steps::default(), Vec::new());
    for (index, action) in batch.iter().enumerate() {
        if action.verb != Verb::Publish {
            continue;
        }
        let (address, text) = action.message();
        match Address::read(address) {
            Address::Channel(channel) => {
                messages.add(0, &["PUBLISH"], |request| {
                    request.simple(&[b"PUBLISH", channel, text]);
                });
                told.push(index);
            }
            Address::Stream { key, maxlen } => {
                let key = [&errand.topology.config().prefix, key].concat();
                entries.add(hash_slot(&key), &["XADD"], |request| {
                    add_to_stream(request, &[&key], maxlen, text);
                });
                added.push(index);
            }
        }
    }
    if !added.is_empty() {
        let answers = errand.run(&entries).await;
        for (step, &index) in added.iter().enumerate() {
            errand.judge.report.requested += 1;
            if let Some([Reply::Error(text)]) = answers.answered(&entries, step) {
                errand.judge.note(Some(index), text, "XADD")?;
            }
        }
    }
    match told.is_empty() {
        true => Ok(()),
        false => tell(errand, &messages, &told).await,
    }
}

/// Sends messages through any one node, which tells all the others.
async fn tell(errand: &mut Errand<'_>, steps: &Steps, sent: &[usize]) -> Result<(), Failure> {
    let map = errand.topology.map().await?;
    let seen = errand.topology.looks();
    let mut nodes = map.masters().to_vec();
    fastrand::shuffle(&mut nodes);
    // The one that served before, if any.
    nodes.sort_by_key(|node| !errand.connections.contains_key(node));
    let mut last = None;
    for node in nodes {
        let kept = errand.connections.remove(&node);
        let config = errand.topology.node(&node);
        let all = (0..steps.len()).collect();
        let parcel = Parcel { node: node.clone(), asking: false, steps: all };
        let exchanged = exchange(parcel, config, kept, steps, None).await;
        if let Some(failure) = exchanged.failure {
            last = Some(failure);
            continue;
        }
        errand.connections.extend(exchanged.connection.map(|connection| (node, connection)));
        for (&index, replies) in sent.iter().zip(&exchanged.replies) {
            errand.judge.report.requested += 1;
            if let [Reply::Error(text)] = &replies[..] {
                errand.judge.note(Some(index), text, "PUBLISH")?;
            }
        }
        return Ok(());
    }
    // All of them may have been replaced.
    let _ = errand.topology.look(seen, map.masters(), None).await;
    Err(last.unwrap_or_else(|| outage(errand.topology.config(), "PUBLISH", "no node serves")))
}
