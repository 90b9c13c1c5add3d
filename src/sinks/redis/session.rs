//! What do the verbs share while one batch is sent? The connection, and what a [`Judge`] makes of
//! errors.

use std::time::{SystemTime, UNIX_EPOCH};

use super::LaneClass;
use super::config::RedisConfig;
use super::connection::Connection;
use super::judge::Judge;
use super::pacer::Pacer;
use super::wire::{Reply, Request};
use crate::failpoint::Place;
use crate::sinks::{Failure, Report};

/// One batch on its way.
pub(super) struct Session<'a> {
    pub(super) config: &'a RedisConfig,
    /// Commands being gathered; empty between exchanges.
    pub(super) request: &'a mut Request,
    pub(super) judge: Judge<'a>,
    /// What is asked before keys are touched; `None`: nothing.
    pacer: Option<&'a Pacer>,
    connection: Connection,
    seed: &'a mut u64,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        connection: Connection,
        config: &'a RedisConfig,
        class: LaneClass,
        request: &'a mut Request,
        seed: &'a mut u64,
        give_up_on_unknown: bool,
    ) -> Self {
        let judge = Judge::new(config, class, give_up_on_unknown);
        let pacer = config.pacer(class);
        Session { config, request, judge, pacer, connection, seed }
    }

    /// What is left of it: the connection, what was done, and an unknown error if there was one.
    pub(super) fn finish(self) -> (Connection, Report, Option<Failure>) {
        let (report, unknown) = self.judge.finish();
        (self.connection, report, unknown)
    }

    /// Whether keys go out only so many a second.
    pub(super) fn is_paced(&self) -> bool {
        self.pacer.is_some()
    }

    /// How many keys go out together, of `most` for which there is room.
    pub(super) fn share_of(&self, most: usize) -> usize {
        self.pacer.map_or(most, |pacer| pacer.share().min(most))
    }

    /// Waits until so many keys may go out.
    pub(super) async fn turn(&mut self, keys: usize) {
        if let Some(pacer) = self.pacer {
            pacer.turn(keys).await;
        }
    }

    /// Sends the gathered commands. The caller then takes one reply for each.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        self.connection.send(self.request).await?;
        Place::Sent.pass();
        self.request.clear();
        Ok(())
    }

    /// The reply to the next command.
    pub(super) async fn reply(&mut self, command: &str) -> Result<Reply, Failure> {
        self.connection.reply(command).await
    }

    /// The reply to the next command, which has no error of a key's own.
    pub(super) async fn reply_or_fail(&mut self, command: &str) -> Result<Reply, Failure> {
        match self.reply(command).await? {
            Reply::Error(text) => Err(self.failure(&text, command)),
            reply => Ok(reply),
        }
    }

    /// See [`Judge::failure`].
    pub(super) fn failure(&self, text: &str, command: &str) -> Failure {
        self.judge.failure(text, command)
    }

    /// See [`Judge::note`].
    pub(super) fn note(
        &mut self,
        index: Option<usize>,
        text: &str,
        command: &str,
    ) -> Result<(), Failure> {
        self.judge.note(index, text, command)
    }

    /// See [`Judge::unexpected`].
    pub(super) fn unexpected(&self, command: &str) -> Failure {
        self.judge.unexpected(command)
    }

    /// Microseconds since the epoch, never less than before.
    pub(super) fn seed(&mut self) -> u64 {
        next_seed(self.seed)
    }
}

/// Microseconds since the epoch, never less than before.
pub(super) fn next_seed(last: &mut u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    *last = (*last).max(now.as_micros() as u64);
    *last
}

/// Whole keys, each with the place of its action, in one buffer.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// The action's place, unless a scan found the key; and where the key ends.
    entries: Vec<(Option<usize>, usize)>,
}

impl Keys {
    pub(super) fn push(&mut self, index: Option<usize>, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.entries.push((index, self.bytes.len()));
    }

    /// Adds those of another list.
    pub(super) fn append(&mut self, other: &Keys) {
        other.iter().for_each(|(index, key)| self.push(index, &[key]));
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// About how many bytes they take.
    pub(super) fn cost(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<(Option<usize>, usize)>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Option<usize>, &[u8])> {
        let mut start = 0;
        self.entries.iter().map(move |&(index, end)| {
            let key = &self.bytes[start..end];
            start = end;
            (index, key)
        })
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}
