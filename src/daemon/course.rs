//! Where a stream has come, and in whose history: what is remembered of it.

use crate::lsn::Lsn;
use crate::postgres::SystemIdentity;
use crate::state::{Commit, Continuity, GapCause, KnownSink, Position, advance};

/// The course of one stream.
pub(super) struct Course {
    /// What was known at its start.
    start: Position,
    continuity: Continuity,
    /// Whose positions are remembered too.
    sinks: Vec<KnownSink>,
}

impl Course {
    /// A stream starts at `slot_lsn`. `known` is what is remembered, as far as it is relied on;
    /// `None`: it does not matter.
    pub(super) fn new(
        identity: SystemIdentity,
        slot: &str,
        slot_lsn: Lsn,
        known: Option<&Position>,
        sinks: &[KnownSink],
    ) -> Self {
        let continuity = Continuity::new(known.and_then(|known| known.seen), slot_lsn);
        let start = Position {
            system_id: identity.system_id,
            timeline: identity.timeline,
            slot: slot.to_owned(),
            confirmed_lsn: known.map_or(slot_lsn, |known| known.confirmed_lsn.max(slot_lsn)),
            seen: continuity.seen(),
            sinks: known.map(|known| known.sinks.clone()).unwrap_or_default(),
            is_in_gap: false,
        };
        let sinks = known.map(|_| sinks.to_vec()).unwrap_or_default();
        Course { start, continuity, sinks }
    }

    /// The stream has brought a commit.
    ///
    /// # Errors
    /// If it should have brought another one before.
    pub(super) fn commit(&mut self, commit: Commit) -> Result<(), GapCause> {
        self.continuity.commit(commit)
    }

    /// The stream has come to a position, outside of a transaction.
    ///
    /// # Errors
    /// If it should have brought a commit before.
    pub(super) fn reached(&self, lsn: Lsn) -> Result<(), GapCause> {
        self.continuity.reached(lsn)
    }

    /// Everything before this was done, by some sink at least, or received before the stream started.
    pub(super) fn start_lsn(&self) -> Lsn {
        let furthest = self.start.sinks.values().map(|sink| sink.done_lsn).max();
        self.start.confirmed_lsn.max(furthest.unwrap_or_default())
    }

    /// For each sink up to where what the stream brings is done already.
    pub(super) fn done_before(&self) -> Vec<Lsn> {
        let done = |sink: &KnownSink| Some(self.start.sinks.get(&sink.name)?.done_lsn);
        self.sinks.iter().map(|sink| done(sink).unwrap_or_default()).collect()
    }

    /// What is to be remembered when everything up to `done_lsn` is done, and each sink has done
    /// everything up to its own of `sinks_done`.
    pub(super) fn position(&self, done_lsn: Lsn, sinks_done: &[Lsn]) -> Position {
        let confirmed_lsn = self.start.confirmed_lsn.max(done_lsn);
        let seen = self.continuity.seen();
        let sinks = advance(&self.start.sinks, &self.sinks, sinks_done, seen);
        let Position { system_id, timeline, slot, .. } = &self.start;
        let (system_id, timeline, slot) = (system_id.clone(), *timeline, slot.clone());
        Position { system_id, timeline, slot, confirmed_lsn, seen, sinks, is_in_gap: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Duty, Fingerprint, SinkPosition};

    #[test]
    fn what_any_sink_has_done_was_done_before_the_stream() {
        let (target, rules) = (Fingerprint::of("t"), Fingerprint::of("r"));
        let at = SinkPosition { done_lsn: Lsn(90), target: target.clone(), rules: rules.clone() };
        let known = Position {
            system_id: "1".into(),
            timeline: 1,
            slot: "walpurge".into(),
            confirmed_lsn: Lsn(50),
            seen: None,
            sinks: [("cache".to_owned(), at)].into(),
            is_in_gap: false,
        };
        let sink = |name: &str| {
            let (target, rules) = (target.clone(), rules.clone());
            KnownSink { name: name.into(), target, rules, duty: Duty::Works }
        };
        let identity = SystemIdentity {
            system_id: "1".into(),
            timeline: 1,
            flushed_lsn: Lsn(100),
            dbname: "shop".into(),
        };
        let sinks = [sink("slow"), sink("cache")];
        let course = Course::new(identity, "walpurge", Lsn(40), Some(&known), &sinks);
        assert_eq!((course.start_lsn(), course.done_before()), (Lsn(90), vec![Lsn(0), Lsn(90)]));
    }
}
