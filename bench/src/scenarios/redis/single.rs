//! UNLINKs on one server.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::redis::{Redis, Reply};
use tokio::runtime::Runtime;
use walpurge::action::Batch;
use walpurge::sinks::redis::{LaneClass, RedisConfig, RedisLane, RedisOptions};

use super::contenders::{batches, redis_benchmark, seconds, send_raw, unlinks};
use crate::report::{Section, Target};
use crate::stats::{median, thousands};

/// Keys of one command, and commands in flight: as the sink does.
const KEYS_EACH: usize = 512;
const TOGETHER: usize = 16;

pub(super) fn measure(keys: u64, runs: u64, section: &mut Section) -> Result<Value> {
    let redis = Redis::builder().config("enable-debug-command", "yes").try_start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let names: Vec<String> = (0..keys).map(|number| format!("item:{number}")).collect();
    let (batches, requests) = (batches(&names), unlinks(&names, KEYS_EACH, TOGETHER));
    let (mut sink, mut raw, mut benchmark) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        eprintln!("  one server, run {} of {runs}", run + 1);
        for contender in [run % 2, (run + 1) % 2] {
            fill(&redis, keys)?;
            let taken = match contender {
                0 => seconds(|| send(&redis, &runtime, &batches))?,
                _ => seconds(|| send_raw(redis.port(), &requests))?,
            };
            ensure!(redis.try_cmd(&["DBSIZE"])? == Reply::Int(0), "keys are left");
            let rates = if contender == 0 { &mut sink } else { &mut raw };
            rates.push(keys as f64 / taken);
        }
        let options = ["-c", "1", "-P", "512", "UNLINK", "item:__rand_int__"];
        benchmark.push(redis_benchmark(redis.port(), keys, &options)?);
    }
    let [of_sink, of_raw, of_benchmark] = [&sink, &raw, &benchmark].map(|rates| median(rates));
    section.row("one server, the sink, keys/s", thousands(of_sink));
    section.row("one server, raw UNLINK of 512, keys/s", thousands(of_raw));
    section.row("one server, redis-benchmark, keys/s", thousands(of_benchmark));
    section.row("the sink to raw", format!("{:.2}", of_sink / of_raw));
    let ratio = of_sink / of_benchmark;
    section.judged("the sink to redis-benchmark", ratio, "", Target::AtLeast(1.0));
    Ok(json!({ "sink": sink, "raw": raw, "redis_benchmark": benchmark }))
}

/// Makes the keys, and nothing else.
pub(super) fn fill(redis: &Redis, keys: u64) -> Result<()> {
    for command in [&["FLUSHALL", "SYNC"][..], &["DEBUG", "POPULATE", &keys.to_string(), "item"]] {
        let reply = redis.try_cmd(command)?;
        ensure!(!reply.is_error(), "{command:?}: {reply}");
    }
    Ok(())
}

/// A lane that is connected.
pub(super) fn lane(redis: &Redis, runtime: &Runtime) -> Result<RedisLane> {
    let config = RedisConfig::new(RedisOptions::new("cache", redis.url()))?;
    let mut lane = RedisLane::new(Arc::new(config), LaneClass::Precise);
    runtime.block_on(lane.send(&super::contenders::batches(&["none".to_owned()])[0]))?;
    Ok(lane)
}

fn send(redis: &Redis, runtime: &Runtime, batches: &[Batch]) -> Result<()> {
    let mut lane = lane(redis, runtime)?;
    runtime.block_on(async {
        for batch in batches {
            lane.send(batch).await?;
        }
        Ok(())
    })
}
