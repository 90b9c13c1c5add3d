//! A small set of sinks.

use crate::rules::SinkId;

/// Some of the sinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SinkSet(u64);

impl SinkSet {
    /// How many sinks can be told apart.
    pub(super) const SINKS_MAX: usize = u64::BITS as usize;

    /// Adds a sink, one of the first [`SINKS_MAX`](Self::SINKS_MAX).
    pub(super) fn insert(&mut self, sink: SinkId) {
        debug_assert!((sink.0 as usize) < Self::SINKS_MAX, "a sink that has a place");
        self.0 |= 1u64.checked_shl(sink.0).unwrap_or(0);
    }

    /// Whether a sink is one of them.
    pub(super) fn contains(self, sink: SinkId) -> bool {
        self.0 & 1u64.checked_shl(sink.0).unwrap_or(0) != 0
    }

    /// Whether there is none.
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of them are in another set too.
    pub(super) fn is_within(self, other: SinkSet) -> bool {
        self.0 & !other.0 == 0
    }

    /// Those that are in another set too.
    pub(super) fn shared_with(self, other: SinkSet) -> SinkSet {
        SinkSet(self.0 & other.0)
    }
}

impl FromIterator<SinkId> for SinkSet {
    fn from_iter<I: IntoIterator<Item = SinkId>>(sinks: I) -> Self {
        let mut set = SinkSet::default();
        sinks.into_iter().for_each(|sink| set.insert(sink));
        set
    }
}
