//! Is there a gap: a stretch of the log that can no longer be read, or that was never ours?
//!
//! Pure: what is remembered and what the server says come in, a cause goes out.

use std::fmt;

use super::{Commit, Position};
use crate::lsn::Lsn;

/// Why there is a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// There is no slot.
    SlotMissing,
    /// WAL that the slot needs is gone.
    SlotLost,
    /// Somebody else has moved the slot on.
    SlotAhead {
        /// Where it stands.
        slot_lsn: Lsn,
        /// Up to where everything is done.
        done_lsn: Lsn,
    },
    /// The server is another cluster.
    OtherSystem,
    /// The server's history left ours before its end, or was never ours.
    Forked {
        /// The timeline that was followed.
        timeline: u32,
        /// Where the server's history left it; `None`: it was never a part of that.
        fork_lsn: Option<Lsn>,
        /// How far it was followed.
        reached_lsn: Lsn,
    },
    /// The server's log ends before what it has sent us: it is an older copy.
    LogShorter {
        /// Its end.
        flushed_lsn: Lsn,
        /// How far it was followed.
        reached_lsn: Lsn,
    },
    /// The stream does not bring the last commit that was seen a second time: the server is an
    /// older copy that has gone on.
    CommitMissing {
        /// That commit.
        commit_lsn: Lsn,
    },
    /// There was no publication for a part of the log, so that nobody can tell what it holds.
    PublicationMissing,
    /// It was being closed when walpurge ended.
    Unfinished,
    /// `--assume-gap`.
    Assumed,
}

impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GapCause::SlotMissing => write!(f, "there is no slot"),
            GapCause::SlotLost => write!(f, "WAL that the slot needs is gone"),
            GapCause::SlotAhead { slot_lsn, done_lsn } => write!(
                f,
                "the slot stands at {slot_lsn}, and walpurge has worked only up to {done_lsn}"
            ),
            GapCause::OtherSystem => write!(f, "the server is another one than before"),
            GapCause::Forked { timeline, fork_lsn: Some(fork_lsn), reached_lsn } => write!(
                f,
                "the server left timeline {timeline} at {fork_lsn}, which was followed up to \
                 {reached_lsn}"
            ),
            GapCause::Forked { timeline, fork_lsn: None, .. } => {
                write!(f, "timeline {timeline}, which was followed, is not in the server's history")
            }
            GapCause::LogShorter { flushed_lsn, reached_lsn } => write!(
                f,
                "the server's log ends at {flushed_lsn}, and was followed up to {reached_lsn}: it \
                 is an older copy"
            ),
            GapCause::CommitMissing { commit_lsn } => write!(
                f,
                "the commit at {commit_lsn}, which was seen before, is not in the server's log: \
                 it is an older copy"
            ),
            GapCause::PublicationMissing => {
                write!(f, "the publication was missing, or is younger than the slot's position")
            }
            GapCause::Unfinished => write!(f, "walpurge ended while it closed one"),
            GapCause::Assumed => write!(f, "--assume-gap says so"),
        }
    }
}

/// What a server says of itself and of the slot.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Its cluster's identifier.
    pub system_id: &'a str,
    /// Its timeline.
    pub timeline: u32,
    /// The end of its log.
    pub flushed_lsn: Lsn,
    /// Where its history left the timeline that is remembered, if it is another one and was a
    /// part of it.
    pub fork_lsn: Option<Lsn>,
    /// Where the slot stands; `None`: not to be compared, since another daemon has moved it.
    pub slot_lsn: Option<Lsn>,
}

/// Compares what is remembered with what the server says.
pub fn judge(known: &Position, server: &Server<'_>) -> Option<GapCause> {
    let (reached_lsn, done_lsn) = (known.reached_lsn(), known.confirmed_lsn);
    if known.system_id != server.system_id {
        return Some(GapCause::OtherSystem);
    }
    if known.timeline != server.timeline && server.fork_lsn.is_none_or(|fork| fork < reached_lsn) {
        let (timeline, fork_lsn) = (known.timeline, server.fork_lsn);
        return Some(GapCause::Forked { timeline, fork_lsn, reached_lsn });
    }
    if server.flushed_lsn < reached_lsn {
        return Some(GapCause::LogShorter { flushed_lsn: server.flushed_lsn, reached_lsn });
    }
    let ahead = server.slot_lsn.filter(|&slot_lsn| slot_lsn > done_lsn);
    ahead.map(|slot_lsn| GapCause::SlotAhead { slot_lsn, done_lsn })
}

/// Watches that a stream brings what was seen before: a slot that stands before the last commit
/// that was seen has to bring that very commit again.
#[derive(Debug, Default)]
pub struct Continuity {
    /// The commit that has to come.
    expected: Option<Commit>,
    last: Option<Commit>,
}

impl Continuity {
    /// For a stream from `slot_lsn` on, after `seen` was seen.
    pub fn new(seen: Option<Commit>, slot_lsn: Lsn) -> Self {
        Continuity { expected: seen.filter(|seen| slot_lsn <= seen.commit_lsn), last: seen }
    }

    /// The last commit that was seen; while it has not come again, the one from before.
    pub fn seen(&self) -> Option<Commit> {
        self.last
    }

    /// The stream brings a commit.
    ///
    /// # Errors
    /// If the one that has to come cannot come any more.
    pub fn commit(&mut self, commit: Commit) -> Result<(), GapCause> {
        if let Some(expected) = self.expected {
            if commit.commit_lsn < expected.commit_lsn {
                return Ok(());
            }
            if !commit.is(&expected) {
                return Err(GapCause::CommitMissing { commit_lsn: expected.commit_lsn });
            }
            self.expected = None;
        }
        self.last = Some(commit);
        Ok(())
    }

    /// The stream has come to a position, outside of a transaction.
    ///
    /// # Errors
    /// If the commit that has to come lies before it.
    pub fn reached(&self, lsn: Lsn) -> Result<(), GapCause> {
        match self.expected {
            Some(expected) if lsn >= expected.end_lsn => {
                Err(GapCause::CommitMissing { commit_lsn: expected.commit_lsn })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Commit = Commit { commit_lsn: Lsn(90), end_lsn: Lsn(100), xid: 7 };

    fn known() -> Position {
        Position {
            system_id: "1".into(),
            timeline: 2,
            slot: "walpurge".into(),
            confirmed_lsn: Lsn(80),
            seen: Some(SEEN),
            sinks: Default::default(),
            is_in_gap: false,
        }
    }

    fn server() -> Server<'static> {
        Server {
            system_id: "1",
            timeline: 2,
            flushed_lsn: Lsn(100),
            fork_lsn: None,
            slot_lsn: Some(Lsn(80)),
        }
    }

    #[track_caller]
    fn check(server: Server<'_>, cause: Option<&str>) {
        let found = judge(&known(), &server).map(|cause| format!("{cause:?}"));
        let name = found.as_deref().and_then(|text| text.split(' ').next());
        assert_eq!(name, cause, "{server:?}");
    }

    #[test]
    fn only_what_was_not_followed_is_a_gap() {
        check(server(), None);
        check(Server { slot_lsn: Some(Lsn(10)), ..server() }, None);
        check(Server { slot_lsn: Some(Lsn(81)), ..server() }, Some("SlotAhead"));
        check(Server { slot_lsn: None, ..server() }, None);
        check(Server { system_id: "2", ..server() }, Some("OtherSystem"));
        check(Server { flushed_lsn: Lsn(99), ..server() }, Some("LogShorter"));
        check(Server { timeline: 3, ..server() }, Some("Forked"));
        check(Server { timeline: 3, fork_lsn: Some(Lsn(99)), ..server() }, Some("Forked"));
        check(Server { timeline: 3, fork_lsn: Some(Lsn(100)), ..server() }, None);
    }

    #[test]
    fn what_was_seen_has_to_come_again() {
        let commit = |lsn: u64| Commit { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 10), xid: 7 };
        let mut same = Continuity::new(Some(SEEN), Lsn(50));
        assert_eq!(same.commit(commit(60)), Ok(()));
        assert_eq!((same.reached(Lsn(99)), same.seen()), (Ok(()), Some(SEEN)));
        assert_eq!(same.commit(SEEN), Ok(()));
        assert_eq!((same.commit(commit(120)), same.reached(Lsn(130))), (Ok(()), Ok(())));
        assert_eq!(same.seen(), Some(commit(120)));

        let missing = Err(GapCause::CommitMissing { commit_lsn: Lsn(90) });
        let other = || Continuity::new(Some(SEEN), Lsn(90));
        assert_eq!(other().commit(commit(91)), missing);
        assert_eq!(other().commit(Commit { xid: 8, ..SEEN }), missing);
        assert_eq!(other().reached(Lsn(100)), missing);
    }

    #[test]
    fn what_was_confirmed_need_not_come_again() {
        let mut past = Continuity::new(Some(SEEN), Lsn(100));
        let next = Commit { commit_lsn: Lsn(110), end_lsn: Lsn(120), xid: 8 };
        assert_eq!((past.reached(Lsn(105)), past.commit(next)), (Ok(()), Ok(())));
        assert_eq!(Continuity::new(None, Lsn(1)).seen(), None);
    }

    #[test]
    fn a_commit_whose_end_was_not_known_comes_again_with_its_end() {
        // One that was given up with pgoutput.
        let given_up = Commit { end_lsn: Lsn(91), ..SEEN };
        let mut continuity = Continuity::new(Some(given_up), Lsn(80));
        assert_eq!(continuity.reached(Lsn(90)), Ok(()));
        assert!(continuity.reached(Lsn(100)).is_err());
        assert_eq!(continuity.commit(SEEN), Ok(()));
        assert_eq!(continuity.seen(), Some(SEEN));
        // The other way round it is another transaction.
        let mut continuity = Continuity::new(Some(SEEN), Lsn(80));
        assert!(continuity.commit(Commit { end_lsn: Lsn(99), ..SEEN }).is_err());
        let other = Commit { xid: 8, ..SEEN };
        assert!(Continuity::new(Some(given_up), Lsn(80)).commit(other).is_err());
    }
}
