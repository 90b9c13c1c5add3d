//! What each streamed transaction has asked for, and what was done of it since it could be.

use std::collections::HashSet;

use super::{Action, Batch, Lsn, PURGE, PURGE_ALL, Verb, before, value};

/// What the server sends, again after each disconnect until it is confirmed.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// `None`: a message.
    pub(super) xid: Option<u32>,
    pub(super) lsn: Lsn,
    pub(super) asked: Vec<(usize, u8)>,
}

/// What one stream has brought of it.
#[derive(Debug)]
pub(super) struct Streamed {
    pub(super) sent: usize,
    pub(super) is_closed: bool,
    pub(super) is_hidden: bool,
    /// What tells its own lookups from those of others, and of other streams.
    pub(super) whose: [u8; 2],
    pub(super) asks: Vec<Ask>,
}

impl Streamed {
    /// Notes what may run from now on, since all that comes before it is done.
    pub(super) fn settle(&mut self, clock: u64) {
        if !self.is_closed || self.is_hidden {
            return;
        }
        let undone: HashSet<usize> =
            self.asks.iter().filter(|ask| !ask.is_done).map(|ask| ask.lane).collect();
        for ask in self.asks.iter_mut().filter(|ask| !before(ask.lane).is_empty()) {
            if before(ask.lane).iter().all(|lane| !undone.contains(lane)) {
                ask.entered.get_or_insert(clock);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Ask {
    pub(super) lane: usize,
    pub(super) key: u8,
    /// When a batch could first hold it.
    pub(super) entered: Option<u64>,
    pub(super) is_done: bool,
}

impl Ask {
    /// Whether a batch of a lane that began at `since` does it, maybe once more.
    pub(super) fn is_reached_by(
        &self,
        lane: usize,
        batch: &Batch,
        since: u64,
        whose: [u8; 2],
    ) -> bool {
        let is_it = |action: Action<'_>| match action.verb {
            Verb::PurgeAll => match lane {
                PURGE_ALL => matches!(self.lane, PURGE | PURGE_ALL),
                _ => self.lane == lane,
            },
            verb => self.lane == lane && action.value == value(verb, self.key, whose),
        };
        self.entered.is_some_and(|entered| entered <= since) && batch.iter().any(is_it)
    }

    /// Whether such a batch does it for the first time.
    pub(super) fn is_done_by(
        &self,
        lane: usize,
        batch: &Batch,
        since: u64,
        whose: [u8; 2],
    ) -> bool {
        !self.is_done && self.is_reached_by(lane, batch, since, whose)
    }
}
