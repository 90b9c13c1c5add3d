//! UNLINKs on a cluster of three masters.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::redis::{RedisCluster, Reply};
use tokio::task::JoinSet;
use walpurge::action::{Action, Batch, Verb};
use walpurge::sinks::redis::{ClusterLane, LaneClass, RedisConfig, RedisOptions, SHARDS, Topology};

use super::contenders::{Request, batches, redis_benchmark, seconds, send_raw, unlinks};
use crate::report::{Section, Target};
use crate::stats::{median, thousands};

/// Longer than any stall of a busy machine.
const NODE_TIMEOUT: Duration = Duration::from_secs(600);

const MASTERS: usize = 3;

/// Commands of one key in flight: as the sink does.
const TOGETHER: usize = 1024;

pub(super) fn measure(keys: u64, runs: u64, section: &mut Section) -> Result<Value> {
    let cluster = RedisCluster::start(MASTERS, false, NODE_TIMEOUT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let names: Vec<String> = (0..keys).map(|number| format!("item:{number}")).collect();
    let mut homes = vec![Vec::new(); MASTERS];
    for name in &names {
        homes[cluster.home(slot(name.as_bytes()))].push(name.clone());
    }
    let requests: Vec<_> = homes.iter().map(|names| unlinks(names, 1, TOGETHER)).collect();
    let (mut sink, mut raw, mut benchmark) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        eprintln!("  a cluster, run {} of {runs}", run + 1);
        for contender in [run % 2, (run + 1) % 2] {
            fill(&cluster, &homes)?;
            let taken = match contender {
                0 => {
                    let lanes = runtime.block_on(lanes(&cluster, &names))?;
                    seconds(|| runtime.block_on(send(lanes)))?
                }
                _ => seconds(|| send_to_all(&cluster, &requests))?,
            };
            for node in 0..MASTERS {
                let left = cluster.node(node).try_cmd(&["DBSIZE"])?;
                ensure!(left == Reply::Int(0), "keys are left");
            }
            let rates = if contender == 0 { &mut sink } else { &mut raw };
            rates.push(keys as f64 / taken);
        }
        let options = ["--cluster", "-c", "3", "-P", "512", "UNLINK", "item:{tag}:__rand_int__"];
        benchmark.push(redis_benchmark(cluster.node(0).port(), keys, &options)?);
    }
    let [of_sink, of_raw, of_benchmark] = [&sink, &raw, &benchmark].map(|rates| median(rates));
    section.row("a cluster of 3, the sink, keys/s", thousands(of_sink));
    section.row("a cluster of 3, raw UNLINK of one, keys/s", thousands(of_raw));
    section.row("a cluster of 3, redis-benchmark, keys/s", thousands(of_benchmark));
    section.row("in a cluster, the sink to raw", format!("{:.2}", of_sink / of_raw));
    let ratio = of_sink / of_benchmark;
    section.judged("in a cluster, the sink to redis-benchmark", ratio, "", Target::AtLeast(0.5));
    Ok(json!({ "sink": sink, "raw": raw, "redis_benchmark": benchmark }))
}

/// Makes each node's keys there.
fn fill(cluster: &RedisCluster, homes: &[Vec<String>]) -> Result<()> {
    for (node, names) in homes.iter().enumerate() {
        let commands: Vec<Vec<&str>> =
            names.iter().map(|name| vec!["SET", name, "cached"]).collect();
        let replies = cluster.node(node).client()?.pipeline(&commands)?;
        let refused = replies.iter().find(|reply| reply.is_error());
        ensure!(refused.is_none(), "{refused:?}");
    }
    Ok(())
}

/// The lanes of a sink that has found the cluster, each with its batches.
async fn lanes(cluster: &RedisCluster, names: &[String]) -> Result<Vec<(ClusterLane, Vec<Batch>)>> {
    let mut options = RedisOptions::new("cache", "");
    options.cluster = cluster.urls().iter().map(|url| url.as_str().into()).collect();
    let topology = Arc::new(Topology::new(Arc::new(RedisConfig::new(options)?)));
    let lane = || ClusterLane::new(Arc::clone(&topology), LaneClass::Precise);
    lane().send(&batches(&["none".to_owned()])[0]).await?;
    let mut shards = vec![Vec::new(); SHARDS];
    for name in names {
        let action = Action { verb: Verb::Delete, value: name.as_bytes() };
        shards[topology.shard(action)].push(name.clone());
    }
    let mut lanes = Vec::new();
    for names in shards.iter().filter(|names| !names.is_empty()) {
        let mut lane = lane();
        // Connected before the time is taken, as a daemon's are.
        lane.send(&batches(&["none".to_owned(), names[0].clone() + ":none"])[0]).await?;
        lanes.push((lane, batches(names)));
    }
    Ok(lanes)
}

/// All lanes at once, in one thread.
async fn send(lanes: Vec<(ClusterLane, Vec<Batch>)>) -> Result<()> {
    let mut tasks = JoinSet::new();
    for (mut lane, batches) in lanes {
        tasks.spawn(async move {
            for batch in &batches {
                lane.send(batch).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// A thread for each node.
fn send_to_all(cluster: &RedisCluster, requests: &[Vec<Request>]) -> Result<()> {
    thread::scope(|scope| {
        let sending: Vec<_> = requests
            .iter()
            .enumerate()
            .map(|(node, requests)| {
                let port = cluster.node(node).port();
                scope.spawn(move || send_raw(port, requests))
            })
            .collect();
        for thread in sending {
            thread.join().ok().context("a thread has panicked")??;
        }
        Ok(())
    })
}

/// The slot of a key without a hash tag: CRC16 (XMODEM), as the cluster specification has it.
fn slot(key: &[u8]) -> u16 {
    let crc = key.iter().fold(0_u16, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::slot;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot(b"123456789"), 12_739);
        assert_eq!(slot(b"foo"), 12_182);
    }
}
