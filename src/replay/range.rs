//! Which part of the log is replayed?
//!
//! Pure: it judges what the stream says of a transaction.

use crate::decode::{Boundary, CommitTime};
use crate::lsn::Lsn;

/// What is asked for: a transaction counts if `from_lsn` ≤ its commit_lsn ≤ `to_lsn`, and if it was
/// committed at `from_time` or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first commit_lsn.
    pub from_lsn: Lsn,
    /// The earliest time of a commit, in microseconds since 1970.
    pub from_time: Option<i64>,
    /// The last commit_lsn.
    pub to_lsn: Lsn,
    /// When the server has read so far, everything within the range has been sent.
    pub end_lsn: Lsn,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the range; later ones may lie within.
    Before,
    /// Within.
    Within,
    /// Behind, as is everything that follows.
    Behind,
}

impl Range {
    /// A range of a log that ended at `flushed_lsn` when it was asked for.
    pub fn new(from_lsn: Lsn, from_time: Option<i64>, to_lsn: Lsn, flushed_lsn: Lsn) -> Self {
        // A record that starts at `to_lsn` counts, and ends behind it, unless there is none yet.
        let end_lsn = Lsn(to_lsn.0.saturating_add(1)).min(flushed_lsn);
        Range { from_lsn, from_time, to_lsn, end_lsn }
    }

    /// Where a transaction stands that begins so. What the stream does not tell counts as within.
    pub fn place(&self, begin: &Boundary<'_>) -> Place {
        match begin.commit_lsn.map(|lsn| self.place_of(lsn)) {
            Some(Place::Within) | None => {}
            Some(place) => return place,
        }
        let committed_at = || match begin.committed_at? {
            CommitTime::Printed(text) => micros_of(text),
            CommitTime::Micros(at) => Some(at),
        };
        let is_early = |from| committed_at().is_some_and(|at| at < from);
        // Commits are not in the order of their times.
        if self.from_time.is_some_and(is_early) { Place::Before } else { Place::Within }
    }

    /// Where a position stands.
    pub fn place_of(&self, lsn: Lsn) -> Place {
        if lsn < self.from_lsn {
            Place::Before
        } else if lsn > self.to_lsn {
            Place::Behind
        } else {
            Place::Within
        }
    }
}

/// A timestamptz as Postgres prints it with DateStyle ISO, in microseconds since 1970.
pub(crate) fn micros_of(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    Some(text.parse::<jiff::Timestamp>().ok()?.as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_count() {
        let range = Range::new(Lsn(10), None, Lsn(20), Lsn(100));
        let places = [9, 10, 20, 21].map(|lsn| range.place_of(Lsn(lsn)));
        assert_eq!(places, [Place::Before, Place::Within, Place::Within, Place::Behind]);
        assert_eq!(range.end_lsn, Lsn(21));
        assert_eq!(Range::new(Lsn(10), None, Lsn(100), Lsn(100)).end_lsn, Lsn(100));
    }

    #[test]
    fn times_are_those_that_postgres_prints() {
        let at = 1_763_711_015_123_456;
        let cases = [
            ("2025-11-21 07:43:35.123456+00", Some(at)),
            ("2025-11-21 07:43:35+00", Some(at - 123_456)),
            ("2025-11-21 09:13:35.123456+01:30", Some(at)),
            ("infinity", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(micros_of(text.as_bytes()), expected, "{text}");
        }
        let range = Range::new(Lsn(1), Some(at), Lsn(9), Lsn(9));
        let place = |committed_at| {
            let commit_lsn = Some(Lsn(5));
            range.place(&Boundary { commit_lsn, committed_at, ..Boundary::default() })
        };
        let printed = |text: &'static str| Some(CommitTime::Printed(text.as_bytes()));
        assert_eq!(place(printed("2025-11-21 07:43:35.123455+00")), Place::Before);
        assert_eq!(place(printed("2025-11-21 07:43:35.123456+00")), Place::Within);
        assert_eq!(place(printed("what")), Place::Within);
        assert_eq!(place(Some(CommitTime::Micros(at - 1))), Place::Before);
        assert_eq!(place(Some(CommitTime::Micros(at))), Place::Within);
        assert_eq!(place(None), Place::Within);
    }
}
