//! What removes keys, as fast as it can: requests that only have to be sent, and redis-benchmark.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use walpurge::action::{Action, Batch, Verb};

/// Keys of a batch: the most that the daemon sends at once.
const BATCH_KEYS: usize = 4096;

/// How long a reply may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Seconds that work takes.
pub(super) fn seconds<T>(work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

/// Keys, as the daemon gives them to a lane.
pub(super) fn batches(keys: &[String]) -> Vec<Batch> {
    let batch = |keys: &[String]| {
        let mut batch = Batch::default();
        for key in keys {
            batch.push(Action { verb: Verb::Delete, value: key.as_bytes() });
        }
        batch
    };
    keys.chunks(BATCH_KEYS).map(batch).collect()
}

/// Commands that are sent together, and how many they are.
pub(super) struct Request {
    bytes: Vec<u8>,
    commands: usize,
}

/// UNLINKs of so many keys each, so many of them together.
pub(super) fn unlinks(keys: &[String], keys_each: usize, together: usize) -> Vec<Request> {
    let request = |keys: &[String]| {
        let mut request = Request { bytes: Vec::new(), commands: 0 };
        for keys in keys.chunks(keys_each) {
            let bytes = &mut request.bytes;
            bytes.extend(format!("*{}\r\n$6\r\nUNLINK\r\n", 1 + keys.len()).bytes());
            for key in keys {
                bytes.extend(format!("${}\r\n{key}\r\n", key.len()).bytes());
            }
            request.commands += 1;
        }
        request
    };
    keys.chunks(keys_each * together).map(request).collect()
}

/// Sends requests, one after the other, and counts the lines of their replies, which are numbers.
pub(super) fn send_raw(port: u16, requests: &[Request]) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut buffer = vec![0; 1 << 16];
    for request in requests {
        stream.write_all(&request.bytes)?;
        let mut left = request.commands;
        while left > 0 {
            let length = stream.read(&mut buffer)?;
            ensure!(length > 0, "redis has closed the connection");
            let bytes = &buffer[..length];
            ensure!(!bytes.contains(&b'-'), "redis refuses: {}", String::from_utf8_lossy(bytes));
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            left = left.checked_sub(lines).context("more replies than commands")?;
        }
    }
    Ok(())
}

/// Commands a second of redis-benchmark with these options besides.
pub(super) fn redis_benchmark(port: u16, commands: u64, options: &[&str]) -> Result<f64> {
    let count = commands.to_string();
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-n", &count, "-r", &count, "--csv"])
        .args(options)
        .output()
        .context("cannot start redis-benchmark")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "redis-benchmark: {text}");
    // "COMMAND","RATE",…
    let rate = text.lines().next_back().and_then(|line| line.split("\",\"").nth(1));
    match rate.and_then(|rate| rate.trim_end_matches('"').parse().ok()) {
        Some(rate) => Ok(rate),
        None => bail!("redis-benchmark says {text:?}"),
    }
}
