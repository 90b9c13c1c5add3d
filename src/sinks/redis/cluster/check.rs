//! May and can every master of a cluster do what the rules ask of it?

use std::sync::Arc;

use futures_util::future::join_all;

use super::super::check::{CheckLine, check_server};
use super::super::config::RedisConfig;
use super::super::connection::Connection;
use super::super::count::{KEYS_MAX, KeyCounts, KeyPattern, count_at};
use super::super::error::{Verdict, classify, outage};
use super::super::rights::{Duties, missing_rights};
use super::super::slot::{SLOTS, hash_slot};
use super::super::wire::{Reply, Request};
use super::failover::read_info;
use super::topology::Topology;
use crate::sinks::Failure;

/// Tries everything that `duties` need on every master, with a key of a slot of its own.
///
/// A line about the whole, then what each master is, then each verb: once if all masters do it, and
/// once for each that does not.
pub(in super::super) async fn check(config: &RedisConfig, duties: &Duties) -> Vec<CheckLine> {
    let topology = Topology::new(Arc::new(config.clone()));
    let map = match topology.map().await {
        Ok(map) => map,
        Err(failure) => {
            let what = format!("connect: {failure}");
            let (_, hint) = failure.into_parts();
            return vec![CheckLine { ok: false, what, hint }];
        }
    };
    let tries = map.masters().iter().map(|node| {
        let (config, map) = (topology.node(node), Arc::clone(&map));
        async move {
            let takes = |key: &[u8]| map.owner(hash_slot(key)) == Some(node);
            let lines = check_server(&config, duties, takes).await;
            (node, lines)
        }
    });
    let tried: Vec<_> = join_all(tries.collect::<Vec<_>>()).await;
    let (masters, covered) = (map.masters().len(), map.covered());
    let (name, is_whole) = (config.name(), covered == SLOTS);
    let mut lines = vec![CheckLine {
        ok: is_whole,
        what: format!(
            "redis {name}: a cluster of {masters} masters with {covered} of {SLOTS} slots"
        ),
        hint: (!is_whole).then(|| "redis-cli --cluster fix".to_owned()),
    }];
    let mut verbs: Vec<CheckLine> = Vec::new();
    for (node, tried) in tried {
        let mut tried = tried.into_iter();
        lines.extend(tried.next());
        for line in tried {
            match line.ok {
                true if verbs.contains(&line) => {}
                true => verbs.push(line),
                false => {
                    let hint = line.hint.map(|hint| format!("on {node}, as on every node: {hint}"));
                    verbs.push(CheckLine { hint, ..line });
                }
            }
        }
    }
    // A verb works if it does so everywhere.
    let failed: Vec<String> =
        verbs.iter().filter(|line| !line.ok).map(|line| line.what.clone()).collect();
    let fails = |verb: &str| failed.iter().any(|what| what.starts_with(&format!("{verb}: ")));
    verbs.retain(|line| !line.ok || !fails(&line.what));
    lines.extend(verbs);
    lines
}

/// Asks a master what `failover_window` has to know of it.
pub(in super::super) async fn try_window(
    connection: &mut Connection,
    config: &RedisConfig,
    duties: &Duties,
) -> Result<CheckLine, Failure> {
    const COMMAND: &str = "CLUSTER INFO";
    let mut request = Request::default();
    connection.send(request.simple(&[b"CLUSTER", b"INFO"])).await?;
    let info = match connection.reply(COMMAND).await? {
        Reply::Bulk(info) => String::from_utf8_lossy(&info).into_owned(),
        Reply::Error(text) => {
            let acl = || missing_rights(duties, config);
            return Err(match classify(&text, COMMAND, config, acl) {
                Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
                Verdict::Key(reason) => outage(config, COMMAND, reason),
            });
        }
        _ => return Err(outage(config, COMMAND, "an answer that Redis does not give")),
    };
    let (ok, _) = read_info(&info);
    let what = if ok { "failover_window" } else { "failover_window: the cluster is down" };
    let hint = "nothing is forgotten until it works again: redis-cli --cluster check, then fix";
    Ok(CheckLine { ok, what: what.to_owned(), hint: (!ok).then(|| hint.to_owned()) })
}

/// Counts the keys of all masters that each pattern matches.
pub(in super::super) async fn count(
    config: &RedisConfig,
    patterns: &[KeyPattern],
    duties: &Duties,
) -> Result<KeyCounts, Failure> {
    let topology = Topology::new(Arc::new(config.clone()));
    let map = topology.map().await?;
    let share = KEYS_MAX / map.masters().len().max(1) as u64;
    let counts = map.masters().iter().map(|node| {
        let config = topology.node(node);
        async move { count_at(&config, patterns, duties, share).await }
    });
    let mut all = KeyCounts { keys: Some(0), looked_at: 0, matching: vec![0; patterns.len()] };
    for counts in join_all(counts.collect::<Vec<_>>()).await {
        let counts = counts?;
        all.keys = all.keys.zip(counts.keys).map(|(all, keys)| all + keys);
        all.looked_at += counts.looked_at;
        for (all, matching) in all.matching.iter_mut().zip(&counts.matching) {
            *all += matching;
        }
    }
    Ok(all)
}
