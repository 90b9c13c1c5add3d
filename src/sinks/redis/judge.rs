//! What is noted while a batch is sent: what was done, which actions were refused, and whether an
//! error was none that walpurge knows.

use super::LaneClass;
use super::config::RedisConfig;
use super::error::{Verdict, classify, outage};
use super::rights::{Duties, class_verbs, missing_rights};
use super::wire::Reply;
use crate::action::Verb;
use crate::key_type::KeyType;
use crate::sinks::{Failure, Rejected, Report};

/// The report of one batch, as far as it has come.
pub(super) struct Judge<'a> {
    pub(super) report: Report,
    config: &'a RedisConfig,
    class: LaneClass,
    give_up_on_unknown: bool,
    unknown: Option<Failure>,
}

impl<'a> Judge<'a> {
    /// With `give_up_on_unknown` an action with an unknown error is rejected.
    pub(super) fn new(config: &'a RedisConfig, class: LaneClass, give_up_on_unknown: bool) -> Self {
        Judge { report: Report::default(), config, class, give_up_on_unknown, unknown: None }
    }

    /// What was done, and an unknown error if there was one.
    pub(super) fn finish(mut self) -> (Report, Option<Failure>) {
        self.report.rejected.sort_by_key(|rejected| rejected.index);
        self.report.rejected.dedup_by_key(|rejected| rejected.index);
        (self.report, self.unknown)
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

    /// Takes the reply to a PEXPIRE for the action at `index`.
    pub(super) fn cut(&mut self, index: Option<usize>, reply: &Reply) -> Result<(), Failure> {
        match reply {
            Reply::Error(text) => self.note(index, text, "PEXPIRE"),
            reply => {
                self.report.removed += reply.count(1).ok_or_else(|| self.unexpected("PEXPIRE"))?;
                Ok(())
            }
        }
    }

    /// An answer that Redis does not give to `command`.
    pub(super) fn unexpected(&self, command: &str) -> Failure {
        outage(self.config, command, "an answer that Redis does not give")
    }

    /// Judges an error of the sink.
    fn classify(&self, text: &str, command: &str) -> Verdict {
        self.classify_at(self.config, text, command)
    }

    /// Judges an error of the server that `config` leads to.
    pub(super) fn classify_at(&self, config: &RedisConfig, text: &str, command: &str) -> Verdict {
        let duties = || {
            let streams = if command == "XADD" { vec![Vec::new()] } else { Vec::new() };
            let mut duties = Duties::of(class_verbs(self.config, self.class));
            duties.verbs.extend(match command {
                "PEXPIRE" => Some(Verb::Expire),
                "TYPE" => Some(Verb::DeleteTyped(KeyType::String)),
                _ => None,
            });
            Duties { streams, ..duties }
        };
        let acl = || missing_rights(&duties(), self.config);
        classify(text, command, config, acl)
    }
}
