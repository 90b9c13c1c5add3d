//! Writers and readers.
//!
//! An entity belongs to one thread at a time. A reader has read its rows and filled its keys, or
//! Redis is dead, before a writer may touch it; a writer knows what became of its transaction
//! before a reader may. So a fill never races with a write, and a key that holds something else
//! than its rows say, once everything is confirmed, is an invalidation that was lost.
//!
//! The next write of an entity hides what was lost of the one before. So only a few are in use at a
//! time, and each is left alone for the rest of the round.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, TryLockError};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::clients::{Cache, Sql, command, text};
use super::shop::{ENTITIES, KEPT, KEPT_PER_WRITER, Kind, tell, tell_of_note};

/// The paces of each writer and each reader, so that most of what is written was cached.
const WRITES_EVERY: Duration = Duration::from_millis(6);
const READS_EVERY: Duration = Duration::from_millis(1);

/// How many entities of each kind are in use at a time.
const IN_USE: usize = 30;

/// What writers and readers share.
pub struct Load {
    start: Instant,
    length: Duration,
    entities: Vec<Vec<Mutex<Entity>>>,
    /// Whoever touches an entity of [`Kind::Bulk`] reads this; who truncates writes it.
    bulk: RwLock<()>,
    stop: AtomicBool,
    pub committed: AtomicU64,
    pub filled: AtomicU64,
    pub bumped: AtomicU64,
    pub repeated: AtomicU64,
}

#[derive(Default)]
struct Entity {
    /// The highest value that its counter has had, for [`Kind::Cat`].
    version: u64,
}

/// An entity that is this thread's for now.
struct Held<'l> {
    entity: MutexGuard<'l, Entity>,
    _bulk: Option<RwLockReadGuard<'l, ()>>,
}

impl Load {
    /// A load that takes so long to come by every entity.
    pub fn new(length: Duration) -> Self {
        let entities = || (0..ENTITIES).map(|_| Mutex::default()).collect();
        Load {
            start: Instant::now(),
            length,
            entities: Kind::ALL.iter().map(|_| entities()).collect(),
            bulk: RwLock::default(),
            stop: AtomicBool::default(),
            committed: AtomicU64::default(),
            filled: AtomicU64::default(),
            bumped: AtomicU64::default(),
            repeated: AtomicU64::default(),
        }
    }

    /// One of the entities that are in use now.
    fn choose(&self, rng: &mut Rng) -> (Kind, usize) {
        let gone_by = self.start.elapsed().as_secs_f64() / self.length.as_secs_f64();
        let first = (ENTITIES - IN_USE) as f64 * gone_by.min(1.0);
        (*rng.choice(Kind::ALL.iter()).unwrap(), first as usize + rng.usize(..IN_USE))
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    fn is_over(&self, pause: Duration) -> bool {
        // The pace of the load.
        std::thread::sleep(pause);
        self.stop.load(Ordering::SeqCst)
    }

    /// Takes an entity, unless somebody has it.
    fn hold(&self, kind: Kind, e: usize) -> Option<Held<'_>> {
        let _bulk = match kind {
            Kind::Bulk => Some(self.bulk.try_read().ok()?),
            _ => None,
        };
        match self.entities[kind as usize][e].try_lock() {
            Ok(entity) => Some(Held { entity, _bulk }),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("another thread has failed"),
        }
    }

    /// Commits random transactions until the load is over.
    pub fn write(&self, mut rng: Rng, mut sql: Sql, writer: usize, first_txn: u64) {
        let mut txn = first_txn;
        while !self.is_over(WRITES_EVERY) {
            txn += 2;
            if rng.u16(..1500) == 0 {
                let _alone = self.bulk.write().unwrap();
                self.commit(&mut sql, txn, "TRUNCATE bulk;");
            } else {
                self.transact(&mut rng, &mut sql, writer, txn);
            }
        }
    }

    fn transact(&self, rng: &mut Rng, sql: &mut Sql, writer: usize, txn: u64) {
        let size = if rng.u8(..40) == 0 { 60 } else { rng.usize(1..6) };
        let mut held = Vec::new();
        let mut notes = Vec::new();
        let mut work = String::new();
        for savepoint in 0..size {
            let (kind, e) = self.choose(rng);
            let mut write = kind.write(rng, e, txn);
            let is_told_later = kind == Kind::Note && rng.bool();
            if kind == Kind::Note && !is_told_later {
                write += &tell_of_note(true, e);
            }
            let nesting = rng.u8(..10);
            let Some(entity) = self.hold(kind, e) else { continue };
            held.push(entity);
            work += &match nesting {
                0 => format!("SAVEPOINT s{savepoint}; {write} ROLLBACK TO s{savepoint};"),
                1 | 2 => format!("SAVEPOINT s{savepoint}; {write} RELEASE s{savepoint};"),
                _ => write,
            };
            if is_told_later {
                notes.push(e);
            }
        }
        if rng.u8(..4) == 0 {
            let id = KEPT + writer * KEPT_PER_WRITER + rng.usize(..KEPT_PER_WRITER);
            let key = tell(true, &format!(r#"{{"delete":["note:{id}"]}}"#));
            work += &format!(
                "SAVEPOINT kept; UPDATE items SET v = {txn} WHERE id = {id}; {key} ROLLBACK TO kept;"
            );
        }
        match rng.u16(..400) {
            0 => work += &tell(true, "nonsense"),
            1..40 => {
                sql.try_rows(&format!("BEGIN; {work} ROLLBACK;"));
                return;
            }
            _ => {}
        }
        if self.commit(sql, txn, &work) && !notes.is_empty() {
            // No part of any transaction; the commit after it is what brings it to disk.
            let told: String = notes.iter().map(|&e| tell_of_note(false, e)).collect();
            let rolled_back = if rng.bool() { "ROLLBACK; BEGIN;" } else { "" };
            while !self.commit(sql, txn + 1, &format!("{told} {rolled_back}")) {}
        }
    }

    /// Runs a transaction and finds out whether it has committed.
    fn commit(&self, sql: &mut Sql, txn: u64, work: &str) -> bool {
        let journal = format!("INSERT INTO journal VALUES ({txn});");
        let has_committed = sql.try_rows(&format!("BEGIN; {work} {journal} COMMIT;")).is_some()
            // Over a new connection, which the old one's server process does not outlive.
            || !sql.rows(&format!("SELECT FROM journal WHERE txn = {txn}")).is_empty();
        self.committed.fetch_add(u64::from(has_committed), Ordering::SeqCst);
        has_committed
    }

    /// Fills keys until the load is over.
    pub fn read(&self, mut rng: Rng, mut sql: Sql, mut cache: Cache) {
        while !self.is_over(READS_EVERY) {
            let (kind, e) = self.choose(&mut rng);
            let evicts = rng.u8(..100) == 0;
            let Some(mut held) = self.hold(kind, e) else { continue };
            let Some(rows) = sql.try_rows(&kind.truth(e, e)) else { continue };
            if kind == Kind::Cat {
                self.fill_version(&mut cache, &mut held.entity, e, &rows[0].1, evicts);
            } else {
                self.fill(&mut cache, kind, e, &rows);
            }
        }
    }

    fn fill(&self, cache: &mut Cache, kind: Kind, e: usize, rows: &[(String, String)]) {
        let gets: Vec<_> = rows.iter().map(|(key, _)| command(&["GET", key])).collect();
        let Some(cached) = cache.pipeline(&gets) else { return };
        let mut sets = Vec::new();
        for ((key, value), _) in rows.iter().zip(&cached).filter(|(_, got)| text(got).is_none()) {
            self.filled.fetch_add(1, Ordering::SeqCst);
            if kind == Kind::Doc {
                sets.push(command(&["MULTI"]));
                sets.push(command(&["SET", key, value]));
                sets.push(command(&["SADD", &format!("tags:doc:{e}"), key]));
                sets.push(command(&["EXEC"]));
            } else {
                sets.push(command(&["SET", key, value]));
            }
        }
        cache.pipeline(&sets);
    }

    fn fill_version(
        &self,
        cache: &mut Cache,
        entity: &mut Entity,
        e: usize,
        value: &str,
        evicts: bool,
    ) {
        let counter = format!("cat:{e}:version");
        let Some(replies) = cache.pipeline(&[command(&["GET", &counter])]) else { return };
        let Some(version) = text(&replies[0]).and_then(|version| version.parse().ok()) else {
            return;
        };
        self.see(entity, version);
        let page = version_page(e, version);
        // What is there already stays, as with any other key.
        cache.pipeline(&[command(&["SET", &page, value, "NX"])]);
        if evicts {
            cache.pipeline(&[command(&["DEL", &counter])]);
        }
    }

    fn see(&self, entity: &mut Entity, version: u64) {
        self.bumped.fetch_add(u64::from(version > entity.version), Ordering::SeqCst);
        self.repeated.fetch_add(u64::from(version < entity.version), Ordering::SeqCst);
        entity.version = version;
    }

    /// A counter's value at the end.
    pub fn judge_version(&self, e: usize, version: u64) {
        self.see(&mut self.entities[Kind::Cat as usize][e].lock().unwrap(), version);
    }
}

/// The key of a page under a counter's value.
pub fn version_page(e: usize, version: u64) -> String {
    format!("catpage:{e}:{version}")
}
