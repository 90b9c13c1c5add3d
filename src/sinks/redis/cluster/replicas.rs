//! How many replicas have what was done, on every master that was asked for anything?
//!
//! As on a single server ([`replicas`](super::super::replicas)), with two differences.
//!
//! **What makes WAIT count.** It has to come behind a write on its own connection, and a message does
//! not do: a cluster passes it on through its bus, and not with the writes that replicas get. So a
//! key of our own is set, which is gone a second later. Its name lies in a slot of the master.
//!
//! **Across masters.** What one master has done may be all that tells of work on another: a scan
//! that is over, or a tag's list from which a member was taken. So which masters have not been
//! waited for is kept over the sends of a batch ([`Unheard`]), and members on other masters are
//! waited for before they leave their list.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::super::config::{NodeAddress, RedisConfig};
use super::super::error::{Verdict, outage};
use super::super::replicas::{CHANNEL, WAIT_TIMEOUT};
use super::super::slot::{hash_slot, hash_tag};
use super::super::wire::Reply;
use super::errand::Errand;
use super::map::SlotMap;
use super::node::{Exchanged, Parcel, exchange};
use super::steps::Steps;
use crate::sinks::Failure;

/// Masters that were asked for something, and of whose replicas nothing is known since.
pub(super) type Unheard = BTreeSet<NodeAddress>;

/// How many names are tried for one that lies on a master. A master of a single slot takes about
/// 16,384.
const NAMES_MAX: u32 = 200_000;

/// How long the key lives that WAIT stands behind.
const KEY_MILLIS: &[u8] = b"1000";

const COMMANDS: &[&str] = &["SET", "WAIT"];

/// Forgets masters that serve no slots any more, before a batch is sent again: all of it goes to
/// their successors.
pub(super) fn forget_strangers(unheard: &mut Unheard, map: &SlotMap) {
    unheard.retain(|node| map.masters().contains(node));
}

/// Waits until as many replicas as configured have what was done so far, on every master. Whether
/// they have; why they have not is the errand's failure.
pub(super) async fn wait(errand: &mut Errand<'_>) -> bool {
    let wanted = errand.topology.config().wait_replicas;
    if wanted == 0 || errand.unheard.is_empty() {
        return true;
    }
    let map = match errand.topology.map().await {
        Ok(map) => map,
        Err(failure) => {
            errand.fail(failure);
            return false;
        }
    };
    let patience = WAIT_TIMEOUT.min(errand.topology.config().timeouts.command / 2);
    let (count, millis) = (wanted.to_string(), patience.as_millis().to_string());
    let mut steps = Steps::default();
    let mut parcels = Vec::new();
    for node in errand.unheard.iter().cloned().collect::<Vec<_>>() {
        let Some(key) = key_on(&map, &errand.topology.config().prefix, &node) else {
            // All of it is sent again, to its successor.
            let what = format!("{node} serves no slots any more");
            errand.fail(outage(errand.topology.config(), "WAIT", what));
            return false;
        };
        parcels.push(Parcel { node, asking: false, steps: vec![steps.len()] });
        steps.add(hash_slot(&key), COMMANDS, |request| {
            request.simple(&[b"SET", &key, b"", b"PX", KEY_MILLIS]);
            request.simple(&[b"WAIT", count.as_bytes(), millis.as_bytes()]);
        });
    }
    let mut exchanges = Vec::new();
    for parcel in parcels {
        let kept = errand.connections.remove(&parcel.node);
        let config = errand.topology.node(&parcel.node);
        exchanges.push(exchange(parcel, config, kept, &steps, None));
    }
    let mut have_all = true;
    for exchanged in join_all(exchanges).await {
        let node = exchanged.parcel.node.clone();
        match judge(errand, exchanged, wanted) {
            Ok(()) => {
                errand.unheard.remove(&node);
            }
            Err(failure) => {
                have_all = false;
                errand.fail(failure);
            }
        }
    }
    if !have_all {
        // One of them may have been replaced. If nobody knows, the next send finds out.
        let seen = errand.topology.looks();
        let _ = errand.topology.look(seen, &[], None).await;
    }
    have_all
}

/// Whether enough replicas of one master have acknowledged.
fn judge(errand: &mut Errand<'_>, exchanged: Exchanged, wanted: u32) -> Result<(), Failure> {
    let Exchanged { parcel, config, connection, replies, failure } = exchanged;
    if let Some(failure) = failure {
        return Err(failure);
    }
    errand.connections.extend(connection.map(|connection| (parcel.node, connection)));
    let replies = replies.into_iter().next().unwrap_or_default();
    for (reply, command) in replies.iter().zip(COMMANDS) {
        if let Reply::Error(text) = reply {
            return Err(refusal(errand, &config, text, command));
        }
    }
    match replies.last().and_then(Reply::int) {
        Some(have) if have >= i64::from(wanted) => Ok(()),
        Some(have) => {
            let told = format!(
                "{have} of {wanted} replicas have acknowledged in time (see wait_replicas)"
            );
            Err(outage(&config, "WAIT", told))
        }
        None => Err(errand.judge.unexpected("WAIT")),
    }
}

/// A slot that moves, or whatever else the master says.
fn refusal(errand: &Errand<'_>, config: &RedisConfig, text: &str, command: &str) -> Failure {
    match errand.judge.classify_at(config, text, command) {
        Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
        Verdict::Key(reason) => outage(config, command, reason),
    }
}

/// A key of our own in a slot of `node`; `None`: it serves none.
fn key_on(map: &SlotMap, prefix: &[u8], node: &NodeAddress) -> Option<Vec<u8>> {
    if !map.masters().contains(node) {
        return None;
    }
    let on_node = |prefix: &[u8], number: u32| {
        let key = [prefix, CHANNEL, b":", number.to_string().as_bytes()].concat();
        (map.owner(hash_slot(&key)) == Some(node)).then_some(key)
    };
    // A prefix with a hash tag leads to one slot, whatever comes behind it.
    let numbers = if hash_tag(prefix).is_some() { 1 } else { NAMES_MAX };
    let found = (0..numbers).find_map(|number| on_node(prefix, number));
    // A tag may list keys without the prefix, on other masters.
    found.or_else(|| (0..NAMES_MAX).find_map(|number| on_node(b"", number)))
}
