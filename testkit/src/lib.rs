//! Private servers, and a browser, for tests, benchmarks and the demo.
//!
//! Everything here starts on a free port, in a directory of its own, and goes away with
//! the value that holds it, even when the process that started it is killed.
//! Nothing here touches a server that was already running.
//!
//! Set `WALPURGE_KEEP=1` to keep the directories (data and logs), and `WALPURGE_PG_BIN`
//! to use the Postgres binaries of another directory.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "in a test a broken environment should stop it at once and loudly"
)]

pub mod browser;
pub mod cdn;
pub mod dir;
pub mod install;
pub mod machine;
pub mod notify;
pub mod port;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;

use std::time::{Duration, Instant};

pub use dir::TestDir;
pub use machine::Machine;
pub use port::free_port;

/// How long to pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(3);

/// Waits until `condition` holds, looking every few milliseconds.
///
/// # Panics
///
/// With `what`, at the caller's line, when `deadline` has passed.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    assert!(holds_within(deadline, &mut condition), "not within {deadline:?}: {what}");
}

/// Whether `condition` comes to hold before `deadline` has passed.
pub fn holds_within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL);
    }
}
