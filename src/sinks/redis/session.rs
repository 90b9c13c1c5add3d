//! What do the verbs share while one batch is sent? The connection, the report so far, and the
//! judgement of errors.

use std::time::{SystemTime, UNIX_EPOCH};

use super::LaneClass;
use super::check::{Duties, class_verbs, missing_rights};
use super::config::RedisConfig;
use super::connection::Connection;
use super::error::{Verdict, classify, outage};
use super::wire::{Reply, Request};
use crate::failpoint::Place;
use crate::sinks::{Failure, Rejected, Report};

/// One batch on its way.
pub(super) struct Session<'a> {
    pub(super) config: &'a RedisConfig,
    /// Commands being gathered; empty between exchanges.
    pub(super) request: &'a mut Request,
    pub(super) report: Report,
    connection: Connection,
    class: LaneClass,
    seed: &'a mut u64,
    give_up_on_unknown: bool,
    unknown: Option<Failure>,
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
        let (report, unknown) = (Report::default(), None);
        Session { config, request, report, connection, class, seed, give_up_on_unknown, unknown }
    }

    /// What is left of it: the connection, what was done, and an unknown error if there was one.
    pub(super) fn finish(mut self) -> (Connection, Report, Option<Failure>) {
        self.report.rejected.sort_by_key(|rejected| rejected.index);
        self.report.rejected.dedup_by_key(|rejected| rejected.index);
        (self.connection, self.report, self.unknown)
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

    /// The failure that `text` is where no single action can be blamed. An unknown one is an
    /// outage here for as long as it lasts: it fails many actions at once, so giving up on them
    /// would lose more than the wait costs.
    pub(super) fn failure(&self, text: &str, command: &str) -> Failure {
        match self.classify(text, command) {
            Verdict::Batch(failure) | Verdict::Unknown(failure) => failure,
            Verdict::Key(reason) => outage(self.config, command, reason),
        }
    }

    /// Notes that the action at `index` got the error `text`; without an index it is one of a
    /// pattern's keys.
    ///
    /// A key of the wrong type that a pattern matched is no counter and no tag, and nobody's
    /// loss; at an exact key it is a rejected action. An *unknown* error may be a proxy's passing
    /// trouble or an action that can never succeed. It is never taken for done: the send fails
    /// once the rest is through, and only when that went on for
    /// [`UNKNOWN_SENDS_MAX`](super::UNKNOWN_SENDS_MAX) sends is the action rejected.
    pub(super) fn note(
        &mut self,
        index: Option<usize>,
        text: &str,
        command: &str,
    ) -> Result<(), Failure> {
        match (self.classify(text, command), index) {
            (Verdict::Batch(failure), _) => return Err(failure),
            (Verdict::Key(_), None) => {}
            (Verdict::Key(reason), Some(index)) => {
                self.report.rejected.push(Rejected { index, reason });
            }
            (Verdict::Unknown(failure), Some(index)) if self.give_up_on_unknown => {
                self.report.rejected.push(Rejected { index, reason: failure.to_string() });
            }
            (Verdict::Unknown(failure), _) => self.unknown = Some(failure),
        }
        Ok(())
    }

    /// An answer that Redis does not give to `command`.
    pub(super) fn unexpected(&self, command: &str) -> Failure {
        outage(self.config, command, "an answer that Redis does not give")
    }

    /// Microseconds since the epoch, never less than before.
    pub(super) fn seed(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        *self.seed = (*self.seed).max(now.as_micros() as u64);
        *self.seed
    }

    fn classify(&self, text: &str, command: &str) -> Verdict {
        let duties = || {
            let streams = if command == "XADD" { vec![Vec::new()] } else { Vec::new() };
            Duties { streams, ..Duties::of(class_verbs(self.config, self.class)) }
        };
        let acl = || missing_rights(&duties(), self.config);
        classify(text, command, self.config, acl)
    }
}

/// Whole keys, each with the place of its action, in one buffer.
#[derive(Default)]
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

    pub(super) fn len(&self) -> usize {
        self.entries.len()
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
