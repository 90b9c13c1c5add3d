//! Ports that nobody else takes, neither another test nor an outgoing connection.

use std::fs::File;
use std::net::TcpListener;
use std::sync::Mutex;

use rustix::fs::{FlockOperation, flock};

/// Below the range from which Linux takes the ports of outgoing connections, so that a
/// server can be stopped and started again on its port.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// The locks of the ports handed out; they live as long as this process.
static LOCKS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port on 127.0.0.1 that is free, and reserved for this process until it ends.
///
/// # Panics
///
/// When the whole range is taken.
#[track_caller]
pub fn free_port() -> u16 {
    let uid = rustix::process::getuid().as_raw();
    let locks = std::env::temp_dir().join(format!("walpurge-ports-{uid}"));
    std::fs::create_dir_all(&locks).expect("a directory for port locks");

    let mut held = LOCKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let count = RANGE.end - RANGE.start;
    let first = start_of_search(count);
    for step in 0..count {
        let port = RANGE.start + (first + step) % count;
        let lock = File::create(locks.join(port.to_string())).expect("a port's lock file");
        // The lock is on the open file: a second one in this process is refused as well.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            held.push(lock);
            return port;
        }
    }
    panic!("no free port in {RANGE:?}");
}

/// A place that differs from process to process, so that searches seldom meet.
fn start_of_search(count: u16) -> u16 {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(std::process::id());
    u16::try_from(random % u64::from(count)).unwrap_or_default()
}
