//! Which messages of the stream belong to a replay, and what has come of it.
//!
//! Pure: no I/O, no clock.

use crate::decode::Event;
use crate::lsn::Lsn;
use crate::replay::{Place, Range};
use crate::rules::MESSAGE_PREFIX;

/// What a replay has brought so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Transactions with changes or messages.
    pub transactions: u64,
    /// Those changes and messages.
    pub changes: u64,
    /// How far the server has read.
    pub received_lsn: Lsn,
}

/// The part of a stream that is replayed.
pub(super) struct Replayed {
    range: Range,
    seen: Seen,
    /// The changes of the transaction that the stream is in.
    open: u64,
    /// The stream is in a transaction that does not count.
    is_leaving_out: bool,
    /// Nothing follows that counts.
    is_over: bool,
}

/// What becomes of a message of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It counts.
    Within,
    /// It does not.
    LeftOut,
    /// It does not, and a transaction ends there that does not count.
    EndLeftOut(Lsn),
}

impl Replayed {
    pub(super) fn new(range: Range) -> Self {
        Replayed { range, seen: Seen::default(), open: 0, is_leaving_out: false, is_over: false }
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn is_leaving_out(&self) -> bool {
        self.is_leaving_out
    }

    /// The server has read so far, and the stream is in no transaction.
    pub(super) fn received(&mut self, lsn: Lsn) {
        self.seen.received_lsn = self.seen.received_lsn.max(lsn);
        self.is_over |= lsn >= self.range.end_lsn;
    }

    /// Takes one message, `None` if it is unreadable.
    pub(super) fn take(&mut self, event: Option<&Event<'_>>, start_lsn: Lsn) -> Taken {
        match event {
            Some(Event::Begin(begin)) => {
                let place = self.range.place(begin);
                self.is_over |= place == Place::Behind;
                // Once it is over nobody reads on to the end of a transaction.
                self.is_leaving_out = self.is_over || place != Place::Within;
                self.open = 0;
            }
            Some(Event::Commit(commit)) => {
                let end_lsn = commit.end_lsn.unwrap_or(start_lsn);
                self.received(end_lsn);
                if std::mem::take(&mut self.is_leaving_out) {
                    return Taken::EndLeftOut(end_lsn);
                }
                let changes = std::mem::take(&mut self.open);
                self.count(changes);
            }
            Some(Event::Message(message)) if !message.transactional => {
                let place = self.range.place_of(message.lsn.unwrap_or(start_lsn));
                self.is_over |= place == Place::Behind;
                if self.is_over || place != Place::Within {
                    return Taken::LeftOut;
                }
                self.count(u64::from(message.prefix == MESSAGE_PREFIX.as_bytes()));
            }
            Some(Event::Message(message)) => {
                self.open += u64::from(message.prefix == MESSAGE_PREFIX.as_bytes());
            }
            Some(Event::Change(_)) | None => self.open += 1,
            Some(Event::Truncate(changes)) => self.open += changes.count() as u64,
            Some(Event::Aside) => {}
        }
        if self.is_leaving_out { Taken::LeftOut } else { Taken::Within }
    }

    fn count(&mut self, changes: u64) {
        self.seen.changes += changes;
        self.seen.transactions += u64::from(changes > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::wal2json::Decoder;

    fn replayed() -> Replayed {
        Replayed::new(Range::new(Lsn(0x10), None, Lsn(0x20), Lsn(0x100)))
    }

    /// Which lines count.
    #[track_caller]
    fn check(lines: &[&str], taken: &[bool], seen: (u64, u64)) -> Replayed {
        let (mut replayed, mut decoder) = (replayed(), Decoder::default());
        let mut take = |line: &&str| {
            let mut line = line.as_bytes().to_vec();
            let event = decoder.decode(&mut line);
            replayed.take(event.as_ref().ok(), Lsn(1)) == Taken::Within
        };
        let counted: Vec<_> = lines.iter().map(&mut take).collect();
        assert_eq!(counted, taken);
        assert_eq!((replayed.seen.transactions, replayed.seen.changes), seen);
        replayed
    }

    const CHANGE: &str = r#"{"action":"I","schema":"s","table":"t","columns":[]}"#;

    fn transaction(lsn: &str, action: &str) -> String {
        format!(r#"{{"action":"{action}","xid":7,"lsn":"0/{lsn}","nextlsn":"0/{lsn}"}}"#)
    }

    #[test]
    fn transactions_count_by_where_they_were_committed() {
        let lines: Vec<String> = ["F", "10", "20", "21"]
            .iter()
            .flat_map(|lsn| [transaction(lsn, "B"), CHANGE.to_owned(), transaction(lsn, "C")])
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let [no, yes] = [[false; 3], [true; 3]];
        let replayed = check(&lines, &[no, yes, yes, no].concat(), (2, 2));
        assert!(replayed.is_over());
        assert!(!check(&lines[..6], &[no, yes].concat(), (1, 1)).is_over());
    }

    #[test]
    fn an_empty_transaction_is_none_and_an_unreadable_change_is_one() {
        let (begin, commit) = (transaction("10", "B"), transaction("10", "C"));
        check(&[&begin, &commit], &[true, true], (0, 0));
        check(&[&begin, "{", &commit], &[true, true, true], (1, 1));
    }

    #[test]
    fn messages_outside_of_transactions_count_by_their_own_position() {
        let message = |lsn: &str, prefix: &str| {
            format!(
                r#"{{"action":"M","transactional":false,"lsn":"0/{lsn}","prefix":"{prefix}","content":""}}"#
            )
        };
        let lines = [
            message("F", "walpurge"),
            message("10", "walpurge"),
            message("10", "walpurge.heartbeat"),
            message("21", "walpurge.heartbeat"),
        ];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert!(check(&lines, &[false, true, true, false], (1, 1)).is_over());
    }

    #[test]
    fn a_server_that_has_read_past_the_end_has_sent_everything() {
        let mut replayed = replayed();
        replayed.received(Lsn(0x20));
        assert!(!replayed.is_over());
        replayed.received(Lsn(0x21));
        assert!(replayed.is_over());
    }
}
