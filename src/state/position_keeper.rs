//! Keeps the position: in memory, and in a file that is written beside the work.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::{Position, SinkPositions, position_file};
use crate::failpoint::Place;
use crate::lsn::Lsn;

/// How long a disk may take when somebody waits for it; afterwards less is confirmed.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// How often a file that cannot be written is logged.
const REMINDER: Duration = Duration::from_secs(30);

/// What keeps the position.
pub struct PositionKeeper {
    directory: Option<PathBuf>,
    slot: String,
    /// The newest.
    known: Option<Position>,
    /// How far the file has come; without one, or where it cannot be written, there is no end.
    written_lsn: Lsn,
    /// The file's content, once that is known.
    on_disk: Option<Position>,
    /// What is being written.
    writing: Option<(Position, JoinHandle<io::Result<()>>)>,
    complained: Option<Instant>,
}

/// What counts for any slot of the same server: up to where everything is done, so that one that
/// stands beyond it is a gap. A commit that one slot has brought another one may leave out.
fn former(position: Position) -> Position {
    Position { seen: None, sinks: SinkPositions::new(), ..position }
}

impl PositionKeeper {
    /// Reads what an earlier run has left for `slot`. Without a directory positions stay in memory.
    pub fn open(directory: Option<&Path>, slot: &str) -> Self {
        let known = directory.and_then(|directory| {
            let path = directory.join(position_file::FILE_NAME).display().to_string();
            match position_file::read(directory) {
                Ok(Some(position)) if position.slot != slot => {
                    warn!(
                        file = path,
                        slot = position.slot,
                        "every sink starts at this slot, whatever is remembered of it: it is about another \
                         slot"
                    );
                    Some(Position { slot: slot.to_owned(), ..former(position) })
                }
                Ok(None) => {
                    info!(file = path, "nothing is remembered: every sink starts at the slot");
                    None
                }
                Ok(position) => position,
                Err(error) => {
                    warn!(
                        file = path,
                        "ignoring what is remembered, so that no gap from before is noticed, and every \
                         sink starts at the slot: {error}"
                    );
                    None
                }
            }
        });
        let written_lsn = match directory {
            Some(_) => known.as_ref().map_or(Lsn::ZERO, |known| known.confirmed_lsn),
            None => Lsn(u64::MAX),
        };
        PositionKeeper {
            directory: directory.map(Path::to_owned),
            slot: slot.to_owned(),
            // What is there of another slot is to be replaced.
            on_disk: None,
            known,
            written_lsn,
            writing: None,
            complained: None,
        }
    }

    /// What is remembered.
    pub fn known(&self) -> Option<&Position> {
        self.known.as_ref()
    }

    /// Reads the file again: another daemon that shares it may have worked on the slot since. What
    /// it says of the same server counts where it is further than what we know, or tells of a gap.
    ///
    /// To be called after the slot was looked at: whoever moves the slot has written the file before.
    /// Answers whether something is new, so that what was asked of the server is older than that.
    pub async fn refresh(&mut self) -> bool {
        let Some(directory) = self.directory.clone().filter(|_| self.writing.is_none()) else {
            return false;
        };
        let read = spawn_blocking(move || position_file::read(&directory));
        // What cannot be read was said at the start, or is when it is written.
        let Ok(Ok(Ok(Some(found)))) = timeout(WRITE_PATIENCE, read).await else { return false };
        let counts = self.known.as_ref().is_none_or(|known| {
            // A gap that is being closed leaves the position where it is.
            let is_gap = found.is_in_gap && !known.is_in_gap;
            let is_further = found.confirmed_lsn > known.confirmed_lsn;
            found.system_id == known.system_id && (is_gap || is_further)
        });
        let is_news = found.slot == self.slot && counts;
        if is_news {
            self.written_lsn = found.confirmed_lsn;
            self.on_disk = Some(found.clone());
            self.known = Some(found);
        }
        is_news
    }

    /// How far the slot may be confirmed.
    pub fn confirmable_lsn(&self) -> Lsn {
        self.written_lsn
    }

    /// Takes a position without writing it.
    pub fn learn(&mut self, position: Position) {
        self.known = Some(position);
    }

    /// Takes a position, and begins to write it unless that is under way or there is no news.
    pub fn remember(&mut self, position: Position) {
        let is_news = self.on_disk.as_ref() != Some(&position);
        self.known = Some(position.clone());
        let Some(directory) = self.directory.clone().filter(|_| is_news) else { return };
        if self.writing.is_none() {
            Place::BeforePosition.pass();
            let written = position.clone();
            let work = spawn_blocking(move || position_file::write(&directory, &written));
            self.writing = Some((position, work));
        }
    }

    /// Waits until what is being written is on disk; for ever if nothing is. Cancel safe.
    pub async fn written(&mut self) {
        let Some((_, work)) = &mut self.writing else { return std::future::pending().await };
        let result = work.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let Some((position, _)) = self.writing.take() else { return };
        match result {
            Ok(()) => {
                if self.complained.take().is_some() {
                    info!("positions are kept in the file again");
                }
                self.written_lsn = position.confirmed_lsn;
                self.on_disk = Some(position);
                Place::AfterPosition.pass();
            }
            Err(error) => self.give_up(&error),
        }
    }

    /// Takes a position, and waits until it is on disk, unless that takes too long.
    pub async fn remember_now(&mut self, position: Position) {
        let work = async {
            while self.writing.is_some() {
                self.written().await;
            }
            self.remember(position);
            while self.writing.is_some() {
                self.written().await;
            }
        };
        if timeout(WRITE_PATIENCE, work).await.is_err() {
            warn!("the disk of state_dir is slow, and less is confirmed than is done");
        }
    }

    /// WAL is not held for want of a file. One from before would look like a gap at the next start,
    /// and so it goes, if it can.
    fn give_up(&mut self, error: &io::Error) {
        let Some(directory) = &self.directory else { return };
        if self.complained.is_none_or(|at| at.elapsed() > REMINDER) {
            self.complained = Some(Instant::now());
            let file = directory.join(position_file::FILE_NAME);
            error!(
                file = %file.display(),
                hint = "make room, or let walpurge write to its state_dir",
                "cannot keep the position, so that the next start may take it for a gap: {error}"
            );
        }
        // Where this fails too, the next start runs fallbacks in vain.
        let _ = position_file::remove(directory);
        self.on_disk = None;
        self.written_lsn = Lsn(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::state::{Commit, Fingerprint, SinkPosition};

    fn position(confirmed_lsn: u64) -> Position {
        Position {
            system_id: "1".into(),
            timeline: 1,
            slot: "walpurge".into(),
            confirmed_lsn: Lsn(confirmed_lsn),
            seen: None,
            sinks: Default::default(),
            is_in_gap: false,
        }
    }

    #[tokio::test]
    async fn nothing_may_be_confirmed_that_is_not_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = PositionKeeper::open(Some(dir.path()), "walpurge");
        assert_eq!((keeper.known(), keeper.confirmable_lsn()), (None, Lsn::ZERO));
        keeper.remember(position(10));
        keeper.remember(position(20));
        assert_eq!(keeper.confirmable_lsn(), Lsn::ZERO);
        keeper.written().await;
        assert_eq!(keeper.confirmable_lsn(), Lsn(10));
        assert_eq!(keeper.known(), Some(&position(20)));
        keeper.remember_now(position(30)).await;
        assert_eq!(keeper.confirmable_lsn(), Lsn(30));
        assert_eq!(position_file::read(dir.path()).unwrap(), Some(position(30)));
        let again = PositionKeeper::open(Some(dir.path()), "walpurge");
        assert_eq!((again.known(), again.confirmable_lsn()), (Some(&position(30)), Lsn(30)));
        // Of another slot only that counts.
        let (target, rules) = (Fingerprint::of("t"), Fingerprint::of("r"));
        let sinks =
            [("cache".to_owned(), SinkPosition { done_lsn: Lsn(40), target, rules })].into();
        let seen = Some(Commit { commit_lsn: Lsn(40), end_lsn: Lsn(41), xid: 7 });
        keeper.remember_now(Position { seen, sinks, ..position(30) }).await;
        let other = PositionKeeper::open(Some(dir.path()), "other");
        let expected = Position { slot: "other".into(), ..position(30) };
        assert_eq!((other.known(), other.confirmable_lsn()), (Some(&expected), Lsn(30)));
    }

    #[tokio::test]
    async fn what_another_daemon_has_written_counts_where_it_is_further() {
        let dir = tempfile::tempdir().unwrap();
        let mut ours = PositionKeeper::open(Some(dir.path()), "walpurge");
        let mut other = PositionKeeper::open(Some(dir.path()), "walpurge");
        assert!(!ours.refresh().await);
        assert_eq!(ours.known(), None);
        other.remember_now(position(20)).await;
        assert!(ours.refresh().await && !ours.refresh().await);
        assert_eq!((ours.known(), ours.confirmable_lsn()), (Some(&position(20)), Lsn(20)));
        // A slot that another daemon has been seen on.
        ours.learn(position(30));
        assert!(!ours.refresh().await);
        assert_eq!(ours.known(), Some(&position(30)));
        for else_ in [
            Position { system_id: "2".into(), ..position(40) },
            Position { slot: "another".into(), ..position(40) },
        ] {
            other.remember_now(else_).await;
            assert!(!ours.refresh().await);
            assert_eq!(ours.known(), Some(&position(30)));
        }
        other.remember_now(Position { is_in_gap: true, ..position(20) }).await;
        assert!(ours.refresh().await);
        assert!(ours.known().is_some_and(|known| known.is_in_gap));
    }

    #[tokio::test]
    async fn without_a_directory_everything_may_be_confirmed() {
        let mut keeper = PositionKeeper::open(None, "walpurge");
        keeper.remember_now(position(10)).await;
        assert_eq!(keeper.known(), Some(&position(10)));
        assert_eq!(keeper.confirmable_lsn(), Lsn(u64::MAX));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_holds_no_wal_and_leaves_no_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = PositionKeeper::open(Some(dir.path()), "walpurge");
        keeper.remember_now(position(10)).await;
        // Nothing can be opened for writing at this name.
        let blocker = dir.path().join(format!("{}.new", position_file::FILE_NAME));
        std::fs::create_dir(&blocker).unwrap();
        keeper.remember_now(position(20)).await;
        assert_eq!(keeper.confirmable_lsn(), Lsn(u64::MAX));
        assert!(position_file::read(dir.path()).unwrap().is_none());
        std::fs::remove_dir(&blocker).unwrap();
        keeper.remember_now(position(30)).await;
        assert_eq!(keeper.confirmable_lsn(), Lsn(30));
    }
}
