//! Load, and an oracle that knows what must be gone and what must be left.
//!
//! Each row is written exactly once, after its key was cached, and nobody fills a key again: so a
//! lost invalidation leaves its key behind for good. Keys of rows that are never written must
//! survive everything.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use testkit::redis::Redis;

use crate::world::World;

/// Rows in the table; every tenth is never written.
pub const ROWS: u64 = 20_000;

pub const TABLE: &str = "CREATE TABLE items (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO items SELECT generate_series(1, 20000)";

pub const RULE: &str = r#"
[[rule]]
name = "item"
table = "public.items"
delete = ["item:{id}"]
"#;

pub fn is_written(id: u64) -> bool {
    !id.is_multiple_of(10)
}

pub fn key(id: u64) -> String {
    format!("item:{id}")
}

/// Caches every row.
pub fn fill(world: &World) {
    fill_redis(&world.redis);
}

pub fn fill_redis(redis: &Redis) {
    let mut client = redis.client().unwrap();
    let ids: Vec<u64> = (1..=ROWS).collect();
    for chunk in ids.chunks(1000) {
        let commands: Vec<Vec<String>> =
            chunk.iter().map(|&id| vec!["SET".into(), key(id), "cached".into()]).collect();
        client.pipeline(&commands).unwrap();
    }
}

/// Writes the rows that are to be written, in small transactions, in a thread of its own.
pub struct Writer {
    thread: JoinHandle<()>,
    written: Arc<AtomicU64>,
    pace: Arc<AtomicBool>,
}

impl Writer {
    /// Starts writing, over about a second and a half, through every outage of Postgres.
    pub fn start(world: &World) -> Writer {
        let psql = world.pg.client("psql");
        let written = Arc::new(AtomicU64::new(0));
        let pace = Arc::new(AtomicBool::new(true));
        let (count, paced) = (Arc::clone(&written), Arc::clone(&pace));
        let thread = thread::spawn(move || {
            let ids: Vec<u64> = (1..=ROWS).filter(|&id| is_written(id)).collect();
            for chunk in ids.chunks(250) {
                // Again after an error: what was committed before is not written twice.
                while !succeeds(&psql, &transactions(chunk)) {
                    thread::sleep(Duration::from_millis(20));
                }
                count.fetch_add(chunk.len() as u64, Ordering::SeqCst);
                if paced.load(Ordering::SeqCst) {
                    // The pace of the load, so that the faults fall within it.
                    thread::sleep(Duration::from_millis(10));
                }
            }
        });
        Writer { thread, written, pace }
    }

    /// Waits until that share of the rows is written.
    #[track_caller]
    pub fn wait_for_percent(&self, percent: u64) {
        testkit::wait_until("the load goes on", crate::world::PATIENCE, || {
            self.written.load(Ordering::SeqCst) >= ROWS * 9 / 10 * percent / 100
        });
    }

    /// Waits until everything is written.
    pub fn finish(self) {
        self.pace.store(false, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// Transactions of 1 to 30 rows that write these, each row once however often this is run.
fn transactions(ids: &[u64]) -> String {
    let mut sql = String::new();
    let mut rest = ids;
    while !rest.is_empty() {
        let size = (ids[0] as usize * 7 + rest.len()) % 30 + 1;
        let (now, later) = rest.split_at(size.min(rest.len()));
        let listed: Vec<String> = now.iter().map(u64::to_string).collect();
        let listed = listed.join(",");
        sql += &format!("UPDATE items SET n = 1 WHERE n = 0 AND id IN ({listed});\n");
        rest = later;
    }
    sql
}

fn succeeds(psql: &Command, sql: &str) -> bool {
    let mut again = Command::new(psql.get_program());
    for (name, value) in psql.get_envs() {
        again.env(name, value.unwrap_or_default());
    }
    again.args(["-XAtq", "-v", "ON_ERROR_STOP=1"]);
    // Each statement a transaction of its own.
    for statement in sql.lines() {
        again.args(["-c", statement]);
    }
    again.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

/// What is wrong in the cache.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Keys of written rows that are still there.
    pub stale: usize,
    /// Keys of rows that were never written and are gone.
    pub overdone: usize,
}

pub fn judge(world: &World) -> Verdict {
    judge_redis(&world.redis)
}

pub fn judge_redis(redis: &Redis) -> Verdict {
    let mut client = redis.client().unwrap();
    let commands: Vec<Vec<String>> =
        (1..=ROWS).map(|id| vec!["EXISTS".to_owned(), key(id)]).collect();
    let mut verdict = Verdict::default();
    for (id, reply) in (1..=ROWS).zip(client.pipeline(&commands).unwrap()) {
        let exists = reply == testkit::redis::Reply::Int(1);
        verdict.stale += usize::from(is_written(id) && exists);
        verdict.overdone += usize::from(!is_written(id) && !exists);
    }
    verdict
}
