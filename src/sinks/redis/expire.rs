//! How is the time cut that a key has left? With `PEXPIRE key milliseconds LT`, in one step: a key
//! that expires sooner keeps its time, and one that never would gets some.
//!
//! A hot key is then filled again by whoever finds it gone, a while later, while readers get the
//! stale value: that is what `expire_in` asks for. Keys that change together get different times,
//! from 80 to 100 % of what the rule says and never more, so that they are not all missing at once.
//! A repeat draws anew and cuts, if anything, further.
//!
//! `LT` came with Redis 7.0; every Valkey has it. Without it the time would have to be asked for
//! first, and a reader that sets the key in between would have its fresh value's time lengthened.

use std::time::Duration;

use super::session::Session;
use super::wire::{Request, push_decimal};
use crate::action::{Batch, Verb};
use crate::sinks::Failure;

/// Keys of one request: of some 60 bytes each.
const PIPELINE_KEYS_MAX: usize = 2048;

/// What is at least left of a time, as one part in so many is at stake.
const JITTER_PART: u64 = 5;

/// Adds the command that leaves the key whose parts these are so much time at most.
pub(super) fn cut(request: &mut Request, key: &[&[u8]], time: Duration) {
    let mut left = Vec::new();
    push_decimal(&mut left, jittered(time));
    request.command("PEXPIRE", 4).arg_joined(key).arg(&left).arg(b"LT");
}

/// A time that a key gets, in milliseconds.
fn jittered(time: Duration) -> u64 {
    let most = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    fastrand::u64(most - most / JITTER_PART..=most)
}

/// Keys whose times are being cut: for each of them its action's place, unless a page brought it.
#[derive(Default)]
pub(super) struct Cuts(Vec<Option<usize>>);

impl Cuts {
    /// Adds a key. Requests that are full go out.
    pub(super) async fn add(
        &mut self,
        session: &mut Session<'_>,
        index: Option<usize>,
        key: &[&[u8]],
        time: Duration,
    ) -> Result<(), Failure> {
        cut(session.request, key, time);
        self.0.push(index);
        match self.0.len() >= session.share_of(PIPELINE_KEYS_MAX) {
            true => self.send(session).await,
            false => Ok(()),
        }
    }

    /// How many wait for their replies.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sends what was added.
    pub(super) async fn send(&mut self, session: &mut Session<'_>) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        session.turn(self.0.len()).await;
        session.flush().await?;
        self.take(session).await
    }

    /// Takes the replies to what was added, which has been sent.
    pub(super) async fn take(&mut self, session: &mut Session<'_>) -> Result<(), Failure> {
        for index in self.0.drain(..) {
            session.judge.report.requested += 1;
            let reply = session.reply("PEXPIRE").await?;
            session.judge.cut(index, &reply)?;
        }
        Ok(())
    }
}

/// Does the batch's `delete` actions that are to leave keys some time.
pub(super) async fn expire(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let config = session.config;
    let mut cuts = Cuts::default();
    for (index, action) in batch.iter().enumerate() {
        if action.verb == Verb::Expire
            && let Some(time) = action.expire_in()
        {
            cuts.add(session, Some(index), &[&config.prefix, action.shown()], time).await?;
        }
    }
    cuts.send(session).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gets_four_fifths_of_the_time_or_more_and_never_more_than_all() {
        for ms in [1, 2, 4, 5, 6, 1000, 86_400_000] {
            let times: Vec<u64> = (0..2000).map(|_| jittered(Duration::from_millis(ms))).collect();
            let bounds = (times.iter().min().copied(), times.iter().max().copied());
            assert!(bounds.0 >= Some((ms * 4).div_ceil(5)) && bounds.1 <= Some(ms), "{bounds:?}");
            assert!(ms < 5 || bounds.0 < bounds.1, "{ms}: no jitter");
        }
        assert_eq!(jittered(Duration::ZERO), 0);
    }
}
