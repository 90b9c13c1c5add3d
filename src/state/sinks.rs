//! How far each sink has come on its own, and when that may be relied on.
//!
//! Pure. A sink's position lets it leave out what it has done before, and so it counts only while
//! the same is asked of the same endpoint: the caller has compared everything else (cluster,
//! timeline, slot).

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

use super::Commit;
use crate::lsn::Lsn;

/// Sinks' positions, by name.
pub type SinkPositions = BTreeMap<String, SinkPosition>;

/// How far one sink has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkPosition {
    /// Every transaction that ends here or before is done on the sink.
    pub done_lsn: Lsn,
    /// Where the sink was, and how its keys were laid out.
    pub target: Fingerprint,
    /// What was asked of it.
    pub rules: Fingerprint,
}

/// A hash of what must stay the same, so that the file holds neither addresses nor rules.
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// How many hexadecimal digits it has: 128 bits.
    const DIGITS: usize = 32;

    /// The hash of a text.
    pub fn of(text: &str) -> Self {
        let hash = Sha256::digest(text.as_bytes());
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Fingerprint(digits[..Self::DIGITS].to_owned())
    }

    /// What a file holds. Anything else than what was written equals nothing.
    pub(super) fn from_file(digits: String) -> Self {
        Fingerprint(digits)
    }

    /// Its digits.
    pub(super) fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A configured sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownSink {
    /// Its name.
    pub name: String,
    /// Where it is, and how its keys are laid out.
    pub target: Fingerprint,
    /// What is asked of it.
    pub rules: Fingerprint,
    /// Whether what it is given is done.
    pub duty: Duty,
}

/// Whether a sink does what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It does, sooner or later.
    Works,
    /// It is off: what it is given is dropped, and so it has no position.
    Off,
}

/// Why a sink's position is not relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is another endpoint, or its keys have other names.
    Target,
    /// Something else is asked of it.
    Rules,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Changed::Target => "its address, prefix or tag keys are not what they were",
            Changed::Rules => "the rules that reach it are not what they were",
        })
    }
}

impl KnownSink {
    /// Whether what was done is what would be done now.
    ///
    /// # Errors
    /// What has changed.
    pub fn compare(&self, position: &SinkPosition) -> Result<(), Changed> {
        if position.target != self.target {
            return Err(Changed::Target);
        }
        if position.rules != self.rules {
            return Err(Changed::Rules);
        }
        Ok(())
    }
}

/// Drops the positions that cannot be relied on, and calls `report` with those that were changed.
pub fn retain_valid(
    positions: &mut SinkPositions,
    sinks: &[KnownSink],
    mut report: impl FnMut(&str, Changed),
) {
    positions.retain(|name, position| {
        let working = sinks.iter().find(|sink| sink.name == *name && sink.duty == Duty::Works);
        match working.map(|sink| sink.compare(position)) {
            Some(Ok(())) => true,
            Some(Err(changed)) => {
                report(name, changed);
                false
            }
            // The owed fallback of one that was off covers more than this could leave out.
            None => false,
        }
    });
}

/// The positions that are to be remembered: `start` is what was relied on when the stream started,
/// and `done` how far it has brought each of `sinks` since, in the same order.
///
/// None lies beyond the last commit that was seen, since only that one has to come again where the
/// stream goes on in the same history: beyond it an older copy of the server could have other
/// transactions at the same places.
pub fn advance(
    start: &SinkPositions,
    sinks: &[KnownSink],
    done: &[Lsn],
    seen: Option<Commit>,
) -> SinkPositions {
    let seen_lsn = seen.map_or(Lsn::ZERO, |seen| seen.end_lsn);
    let mut positions = SinkPositions::new();
    for (sink, &done_lsn) in sinks.iter().zip(done) {
        let before = start.get(&sink.name).map_or(Lsn::ZERO, |before| before.done_lsn);
        let done_lsn = done_lsn.min(seen_lsn).max(before);
        if sink.duty == Duty::Works && done_lsn > Lsn::ZERO {
            let (target, rules) = (sink.target.clone(), sink.rules.clone());
            positions.insert(sink.name.clone(), SinkPosition { done_lsn, target, rules });
        }
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(name: &str, target: &str, rules: &str, duty: Duty) -> KnownSink {
        let (target, rules) = (Fingerprint::of(target), Fingerprint::of(rules));
        KnownSink { name: name.into(), target, rules, duty }
    }

    fn at(lsn: u64, target: &str, rules: &str) -> SinkPosition {
        let (target, rules) = (Fingerprint::of(target), Fingerprint::of(rules));
        SinkPosition { done_lsn: Lsn(lsn), target, rules }
    }

    #[test]
    fn only_a_sink_of_which_the_same_is_asked_is_relied_on() {
        let names = ["same", "moved", "ruled", "off", "gone"];
        let mut positions: SinkPositions =
            names.iter().map(|&name| (name.to_owned(), at(9, "t", "r"))).collect();
        let sinks = [
            sink("same", "t", "r", Duty::Works),
            sink("moved", "u", "r", Duty::Works),
            sink("ruled", "t", "s", Duty::Works),
            sink("off", "t", "r", Duty::Off),
            sink("new", "t", "r", Duty::Works),
        ];
        let mut told = Vec::new();
        retain_valid(&mut positions, &sinks, |name, why| told.push((name.to_owned(), why)));
        assert_eq!(positions.keys().collect::<Vec<_>>(), ["same"]);
        let expected = [("moved".to_owned(), Changed::Target), ("ruled".into(), Changed::Rules)];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_position_lies_neither_beyond_the_last_commit_nor_before_an_earlier_one() {
        let sinks = [sink("a", "t", "r", Duty::Works), sink("b", "t", "r", Duty::Off)];
        let start: SinkPositions = [("a".to_owned(), at(50, "t", "r"))].into();
        let seen = |end| Some(Commit { commit_lsn: Lsn(end - 1), end_lsn: Lsn(end), xid: 7 });
        let done = |done, seen| {
            let positions = advance(&start, &sinks, &[Lsn(done), Lsn(done)], seen);
            assert!(!positions.contains_key("b"), "it is off");
            positions["a"].done_lsn.0
        };
        assert_eq!(done(80, seen(100)), 80);
        assert_eq!(done(180, seen(100)), 100);
        assert_eq!(done(20, seen(100)), 50);
        assert_eq!(advance(&SinkPositions::new(), &sinks, &[Lsn(80), Lsn(80)], None), [].into());
        assert_eq!(advance(&start, &sinks, &[], seen(100)), [].into());
    }
}
