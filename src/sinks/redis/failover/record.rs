//! On which server has a sink done what it did, over all of its lanes and over restarts?
//!
//! What single lanes remember is gone with the process. So the server is noted, by the id of its
//! history, and whoever starts and finds another one runs the fallbacks of every rule that reaches
//! the sink. The note is moved to another server only when no lane has anything left that was done
//! on the one before: a crash before that moment costs fallbacks, and never loses anything.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// What a sink's lanes share.
pub struct ServerRecord {
    inner: Mutex<Inner>,
    /// A lane has repeated, or forgotten, what it had done.
    moved: Notify,
}

struct Inner {
    noted: Option<String>,
    /// Whether the one that is noted was met since the start, or everything was done anew.
    is_met: bool,
    /// The lane that does everything anew.
    claimed: Option<usize>,
    /// The server that was met last.
    latest: Option<String>,
    /// On which server what each lane remembers was done.
    lanes: Vec<Option<String>>,
    /// Which lanes do nothing but tell of what the others do.
    telling: Vec<bool>,
    note: Box<dyn FnMut(&str) + Send>,
}

impl ServerRecord {
    /// `noted` is what an earlier process has left, and `note` keeps it for the next one: it is on
    /// disk when that returns.
    pub fn new(noted: Option<String>, note: impl FnMut(&str) + Send + 'static) -> Self {
        let (claimed, latest, lanes, telling) = (None, None, Vec::new(), Vec::new());
        let note = Box::new(note);
        let inner = Inner { noted, is_met: false, claimed, latest, lanes, telling, note };
        ServerRecord { inner: Mutex::new(inner), moved: Notify::new() }
    }

    /// One more lane shares it, which does nothing but tell of the others' work if `tells`: its
    /// number, and for the first one the server of an earlier process, about which that lane is to
    /// care: it looks there at once, without having anything to do.
    pub(super) fn join(&self, tells: bool) -> (usize, Option<String>) {
        let mut inner = self.lock();
        inner.telling.push(tells);
        inner.lanes.push(None);
        let noted = inner.noted.clone().filter(|_| inner.lanes.len() == 1);
        (inner.lanes.len() - 1, noted)
    }

    /// A lane meets a server, before it does anything there. Whether it has to do everything anew.
    pub(super) fn meet(&self, lane: usize, server: &str) -> bool {
        let mut inner = self.lock();
        if inner.latest.as_deref() != Some(server) {
            inner.latest = Some(server.to_owned());
        }
        if !inner.is_met {
            match inner.noted.as_deref() {
                Some(noted) if noted != server => {
                    return *inner.claimed.get_or_insert(lane) == lane;
                }
                _ => inner.is_met = true,
            }
        }
        inner.settle();
        false
    }

    /// The lane has done everything anew.
    pub(super) fn done_anew(&self) {
        let mut inner = self.lock();
        (inner.is_met, inner.claimed) = (true, None);
        inner.settle();
    }

    /// What the lane remembers was done on this server; `None`: it remembers nothing.
    pub(super) fn remembers(&self, lane: usize, server: Option<&str>) {
        let mut inner = self.lock();
        if inner.lanes[lane].as_deref() == server {
            return;
        }
        inner.lanes[lane] = server.map(str::to_owned);
        inner.settle();
        drop(inner);
        self.moved.notify_waiters();
    }

    /// Waits until no other lane has anything to repeat on `server` that is told of; whether that
    /// came to be within `patience`.
    pub(super) async fn others_done(&self, lane: usize, server: &str, patience: Duration) -> bool {
        let waiting = async {
            loop {
                // Before the look, so that no move falls between the two.
                let moved = self.moved.notified();
                if !self.lock().is_another_behind(lane, server) {
                    return;
                }
                moved.await;
            }
        };
        tokio::time::timeout(patience, waiting).await.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Notes the latest server once nothing depends on the one before.
    fn settle(&mut self) {
        let Some(latest) = &self.latest else { return };
        let is_free = self.lanes.iter().flatten().all(|server| server == latest);
        if self.is_met && is_free && self.noted.as_ref() != Some(latest) {
            (self.note)(latest);
            self.noted = Some(latest.clone());
        }
    }

    fn is_another_behind(&self, lane: usize, server: &str) -> bool {
        let is_other = |at: usize| at != lane && !self.telling[at];
        let mut others = self.lanes.iter().enumerate().filter(|(at, _)| is_other(*at));
        let is_claimed = self.claimed.is_some_and(|claimed| claimed != lane);
        is_claimed || others.any(|(_, other)| other.as_deref().is_some_and(|other| other != server))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use std::sync::Arc;

    use super::*;

    fn record(noted: Option<&str>) -> (ServerRecord, Arc<Mutex<Vec<String>>>) {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&notes);
        let note = move |server: &str| kept.lock().unwrap().push(server.to_owned());
        (ServerRecord::new(noted.map(str::to_owned), note), notes)
    }

    #[test]
    fn another_server_is_noted_when_no_lane_has_anything_to_repeat() {
        let (record, notes) = record(None);
        let notes = || notes.lock().unwrap().join(" ");
        assert_eq!((record.join(false), record.join(false)), ((0, None), (1, None)));
        assert!(!record.meet(0, "a"));
        assert_eq!(notes(), "a", "before anything is done there");
        record.remembers(0, Some("a"));
        assert!(!record.meet(1, "a"));
        record.remembers(1, Some("a"));
        assert!(!record.meet(0, "b"));
        record.remembers(0, Some("b"));
        assert_eq!(notes(), "a", "what the other lane has done is lost with a crash");
        assert!(!record.meet(1, "b"));
        record.remembers(1, None);
        assert_eq!(notes(), "a b");
    }

    #[test]
    fn who_starts_and_finds_another_server_does_everything_anew_once() {
        let (record, notes) = record(Some("a"));
        let notes = || notes.lock().unwrap().join(" ");
        let noted = Some("a".to_owned());
        assert_eq!((record.join(false), record.join(false)), ((0, noted), (1, None)));
        assert!(record.meet(1, "b") && !record.meet(0, "b") && record.meet(1, "b"));
        record.remembers(0, Some("b"));
        assert_eq!(notes(), "");
        record.done_anew();
        assert_eq!(notes(), "b");
        assert!(!record.meet(0, "b") && !record.meet(1, "b") && !record.meet(1, "c"));
    }

    #[test]
    fn who_finds_the_same_server_has_nothing_to_do() {
        let (record, notes) = record(Some("a"));
        record.join(false);
        assert!(!record.meet(0, "a") && !record.meet(0, "b"));
        assert_eq!(notes.lock().unwrap().join(" "), "b");
    }

    #[tokio::test]
    async fn messages_wait_for_what_they_tell_of() {
        let (record, _) = record(None);
        let _ = (record.join(false), record.join(true), record.join(true));
        record.remembers(0, Some("a"));
        // What tells waits for nobody who tells.
        [1, 2].into_iter().for_each(|lane| record.remembers(lane, Some("a")));
        let short = Duration::from_millis(20);
        assert!(!record.others_done(1, "b", short).await);
        assert!(record.others_done(0, "b", short).await);
        let long = Duration::from_secs(20);
        let (done, ()) = tokio::join!(record.others_done(1, "b", long), async {
            tokio::task::yield_now().await;
            record.remembers(0, Some("b"));
        });
        assert!(done);
    }
}
