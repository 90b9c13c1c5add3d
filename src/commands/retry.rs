//! `parked retry`: what a sink refused, once more.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::endpoints::sinks;
use super::lanes::{Work, lanes};
use super::{Outcome, block_on, print, say};
use crate::action::{Action, Batch, Verb};
use crate::config::{Kept, Loaded, SinkMode, state_dir};
use crate::parked::{Record, Retry, Tried, read};
use crate::pipeline::{LaneSpec, Routes, Urgency};
use crate::problem::nearest;
use crate::rules::SinkId;
use crate::sinks::Failure;

/// After so many failures in a row nothing more is asked of a sink: it is down.
const FAILURES_MAX: u32 = 3;

/// Tries what is in the file once more, at all sinks or at `asked`.
pub(super) fn retry(loaded: Loaded, file: &Path, asked: &[String]) -> anyhow::Result<Outcome> {
    let names: Vec<_> = loaded.config.sinks().map(|(name, _)| name).collect();
    if let Some(unknown) = asked.iter().find(|sink| !names.contains(&sink.as_str())) {
        let hint = match nearest(unknown, names.iter().copied()) {
            Some(known) => format!("did you mean {known}?"),
            None => format!("there are: {}", names.join(", ")),
        };
        say(&format!("error: there is no sink {unknown}\nhint: {hint}\n"));
        return Ok(Outcome::Misused);
    }
    let mut trial = Trial::new(loaded, asked)?;
    let cannot = || format!("cannot keep {}", file.display());
    let (mut retry, mut records) =
        Retry::begin(file, |record| trial.judge(record).is_ok()).with_context(cannot)?;
    // Messages come after what is removed, as ever.
    records.sort_by_key(|record| record.what.verb() == Some(Verb::Publish));
    let mut summary = Summary::default();
    block_on(async {
        for record in &records {
            let outcome = trial.send(record).await;
            summary.count(&outcome);
            retry.tried(record, outcome).with_context(cannot)?;
        }
        retry.note().with_context(cannot)
    })?;
    for (sink, message) in &trial.failing {
        say(&format!("sink {sink}: {message}\n"));
    }
    for record in read(file).with_context(cannot)?.records {
        if let Err(why) = trial.judge(&record) {
            *summary.untried.entry(why).or_default() += 1;
        }
    }
    print(&summary.show())?;
    Ok(if summary.is_all_gone() { Outcome::Done } else { Outcome::Failed })
}

/// Why a record is not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Untried {
    /// It is a message, or nothing that a sink can do.
    Message,
    /// Its sink is not configured any more.
    NoSink,
    /// Its sink is held or off.
    Switched,
    /// Another sink was asked for.
    NotAsked,
}

/// The sinks, and how they fare.
struct Trial {
    /// In the order of the configuration.
    sinks: Vec<(String, SinkMode)>,
    lanes: Vec<LaneSpec>,
    routes: Routes,
    asked: Vec<String>,
    /// How often in a row each sink has failed.
    failures: BTreeMap<String, u32>,
    /// What the sinks that failed last said.
    failing: BTreeMap<String, String>,
}

impl Trial {
    fn new(mut loaded: Loaded, asked: &[String]) -> anyhow::Result<Self> {
        let state_dir = state_dir(&loaded.config);
        let kept = Kept::charges(state_dir.as_deref());
        let sinks = sinks(&loaded.config, kept).into_iter().collect::<Result<Vec<_>, _>>()?;
        let rules = Arc::new(std::mem::take(&mut loaded.rules));
        let (lanes, routes) = lanes(&loaded.config, sinks, &rules, None, |_| Work::Done);
        let sinks = loaded.config.sinks().map(|(name, mode)| (name.to_owned(), mode)).collect();
        let asked = asked.to_vec();
        let (failures, failing) = (BTreeMap::new(), BTreeMap::new());
        Ok(Trial { sinks, lanes, routes, asked, failures, failing })
    }

    /// Where a record's action goes, unless it is not tried.
    fn judge(&self, record: &Record) -> Result<(SinkId, Verb), Untried> {
        let sink = record.sink.as_ref();
        if !self.asked.is_empty() && sink.is_none_or(|sink| !self.asked.contains(sink)) {
            return Err(Untried::NotAsked);
        }
        let (Some(sink), Some(verb)) = (sink, record.what.verb()) else {
            return Err(Untried::Message);
        };
        let mut known = (0..).map(SinkId).zip(&self.sinks);
        match known.find(|(_, (name, _))| name == sink) {
            Some((id, (_, SinkMode::On))) => Ok((id, verb)),
            Some(_) => Err(Untried::Switched),
            None => Err(Untried::NoSink),
        }
    }

    /// Sends one record's action, once. Alone, so that what a sink says of it is about it.
    async fn send(&mut self, record: &Record) -> Tried {
        let Ok((id, verb)) = self.judge(record) else { return Tried::Left };
        let sink = record.sink.clone().unwrap_or_default();
        let failures = self.failures.entry(sink.clone()).or_default();
        if *failures >= FAILURES_MAX {
            return Tried::Left;
        }
        // A lane for messages is there only if a rule publishes now; any lane can do it.
        let routed = if verb == Verb::Publish { Verb::Delete } else { verb };
        let (value, mut batch) = (record.what.value(), Batch::default());
        let routed = Action { verb: routed, value: &value };
        let lane = (self.routes.actions)(id, routed, Urgency::Prompt);
        batch.push(Action { verb, value: &value });
        match self.lanes[lane.0].lane.send(&batch, 0).await {
            Ok(report) => {
                *failures = 0;
                match report.rejected.into_iter().next() {
                    Some(rejected) => Tried::Refused(rejected.reason),
                    None => Tried::Done,
                }
            }
            Err(failure) => {
                *failures = match failure {
                    // Each further trial would be refused as well.
                    Failure::Refused { .. } | Failure::Held => FAILURES_MAX,
                    Failure::Outage { .. } => *failures + 1,
                };
                let hint = match &failure {
                    Failure::Refused { hint, .. } => format!("\nhint: {hint}"),
                    _ => String::new(),
                };
                self.failing.insert(sink, format!("{failure}{hint}"));
                Tried::Left
            }
        }
    }
}

/// What has come of it, without values.
#[derive(Default)]
struct Summary {
    done: usize,
    refused: usize,
    not_reached: usize,
    untried: BTreeMap<Untried, usize>,
}

impl Summary {
    fn count(&mut self, outcome: &Tried) {
        match outcome {
            Tried::Done => self.done += 1,
            Tried::Refused(_) => self.refused += 1,
            Tried::Left => self.not_reached += 1,
        }
    }

    fn untried(&self, why: Untried) -> usize {
        self.untried.get(&why).copied().unwrap_or_default()
    }

    /// Whether nothing is left of what was asked for.
    fn is_all_gone(&self) -> bool {
        let others = self.untried.keys().any(|&why| why != Untried::NotAsked);
        self.refused + self.not_reached == 0 && !others
    }

    fn show(&self) -> String {
        let Summary { done, refused, not_reached, .. } = self;
        let mut lines = format!("{done} done");
        for (count, what) in [
            (*refused, "refused again"),
            (*not_reached, "not tried to the end: their sink fails"),
            (self.untried(Untried::NoSink), "not tried: their sink is not configured any more"),
            (self.untried(Untried::Switched), "not tried: their sink is held or off"),
            (
                self.untried(Untried::Message),
                "only listed: messages that ask for what cannot be done",
            ),
        ] {
            if count > 0 {
                lines.push_str(&format!("\n{count} {what}"));
            }
        }
        if !self.is_all_gone() {
            lines.push_str("\nhint: walpurge parked list shows what is left, and why");
        }
        lines.push('\n');
        lines
    }
}
