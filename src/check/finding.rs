//! What was found: the list that `check` shows.

use serde::Serialize;

/// Which part of the world a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The file.
    Configuration,
    /// The server, the role, the slot.
    Postgres,
    /// The tables that rules name.
    Tables,
    /// Where actions go.
    Sinks,
}

impl Group {
    /// Its heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Group::Configuration => "Configuration",
            Group::Postgres => "Postgres",
            Group::Tables => "Tables",
            Group::Sinks => "Sinks",
        }
    }
}

/// What a finding means for the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// As many have it; what can be had more, or could not be learned and does not matter.
    Note,
    /// The daemon works, but somebody should know; or it could not be looked at.
    Warning,
    /// The daemon would not work, or not precisely.
    Failed,
}

/// One line of the list. Its keys are what `--json` prints; others build on them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The part of the world.
    pub group: Group,
    /// What it means.
    pub status: Status,
    /// What was looked at: a setting, a rule, a table, a sink.
    pub subject: String,
    /// What came of it. Never a secret, never a row's value.
    pub message: String,
    /// The SQL or setting that mends it, ready to be run, or what differs where a test of a rule
    /// fails; may have several lines.
    pub hint: Option<String>,
}

/// Findings of one group, as they are made.
#[derive(Debug)]
pub(super) struct Findings {
    group: Group,
    list: Vec<Finding>,
}

impl Findings {
    pub(super) fn new(group: Group) -> Self {
        Findings { group, list: Vec::new() }
    }

    pub(super) fn ok(&mut self, subject: impl Into<String>, message: impl Into<String>) {
        self.push(Status::Ok, subject.into(), message.into(), None);
    }

    pub(super) fn note(
        &mut self,
        subject: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push(Status::Note, subject.into(), message.into(), hint.into());
    }

    pub(super) fn warning(
        &mut self,
        subject: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push(Status::Warning, subject.into(), message.into(), hint.into());
    }

    pub(super) fn failed(
        &mut self,
        subject: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push(Status::Failed, subject.into(), message.into(), hint.into());
    }

    fn push(&mut self, status: Status, subject: String, message: String, hint: Option<String>) {
        self.list.push(Finding { group: self.group, status, subject, message, hint });
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        self.list
    }
}

/// How many findings there are of each status; notes are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// As they should be.
    pub ok: usize,
    /// To be known.
    pub warning: usize,
    /// To be mended.
    pub failed: usize,
}

impl Summary {
    /// Counts.
    pub fn of(findings: &[Finding]) -> Summary {
        let count = |status| findings.iter().filter(|finding| finding.status == status).count();
        Summary {
            ok: count(Status::Ok),
            warning: count(Status::Warning),
            failed: count(Status::Failed),
        }
    }
}
