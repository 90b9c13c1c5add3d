//! The barrier: which transactions can other sessions see?
//!
//! A walsender may send a commit before anybody can see it. So an ordinary connection to the same
//! server is asked for its snapshot, whenever somebody waits and only then. The same connection
//! writes the heartbeat, which proves that the whole way works, looks from time to time whether the
//! rules' tables are what they were, and notices a fast shutdown of the server, which closes
//! ordinary connections at once but waits for the replication connection.

mod asker;
mod broken;
mod held;
mod look;
mod questions;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use asker::Asker;
pub use held::WalHeld;
use look::Look;

use super::catalog::TablesQuery;
use super::client::ServerIdentity;
use super::socket::ChosenHost;
use super::url::ConnectConfig;
use crate::rules::KnownTables;
use crate::snapshot::Snapshot;

/// The prefix of the messages that prove that the whole way works.
pub const HEARTBEAT_PREFIX: &str = "walpurge.heartbeat";

/// How many questions in a row are asked without a wait: a commit is usually visible within
/// microseconds after it was streamed.
const IMPATIENT_QUESTIONS: u32 = 3;

/// How long somebody waits before Postgres is suspected of waiting for us.
const DOUBT_AFTER: Duration = Duration::from_secs(2);

/// The longest wait between questions, which bounds how late a transaction is noticed.
const QUESTION_WAIT_MAX: Duration = Duration::from_millis(10);

/// How long an answer may take before the connection counts as dead: the question touches no table.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks one server for snapshots, in a task of its own that ends when this is dropped.
pub struct Barrier {
    questions: mpsc::Sender<Question>,
    answers: mpsc::Receiver<Heard>,
    asked: Asked,
    /// Questions since somebody began to wait, and since when.
    repeated: u32,
    since: Option<Instant>,
    _task: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Snapshot,
}

/// What is to be known of other sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Whether certain transactions are visible.
    Visible,
    /// Every transaction that is open, too.
    Open,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The snapshot that was asked for.
    Snapshot(Snapshot),
    /// The rules' tables, if they may be others than before.
    Tables(KnownTables),
    /// How much WAL our slot holds.
    Held(WalHeld),
    /// It waits for us before anybody can see a commit.
    WaitsForUs,
    /// It is shutting down, and waits for the end of the replication connection.
    ShuttingDown,
}

impl Barrier {
    /// Connects to `host`, which must be `server`, and again whenever that breaks.
    pub fn start(
        config: ConnectConfig,
        host: ChosenHost,
        server: ServerIdentity,
        heartbeat: Option<Duration>,
        tables: TablesQuery,
        slot: &str,
    ) -> Self {
        let (questions, asked) = mpsc::channel(1);
        let (answer, answers) = mpsc::channel(1);
        let (look, slot) = (Look::new(tables), slot.to_owned());
        let asker =
            Asker { config, host, server, heartbeat, look, slot, asked, answer, open: None };
        let mut task = JoinSet::new();
        task.spawn(asker.run());
        let (asked, repeated, since) = (Asked::Nothing, 0, None);
        Barrier { questions, answers, asked, repeated, since, _task: task }
    }

    /// Asks for a snapshot, unless one is under way; the more often in a row, the slower.
    pub fn ask(&mut self, wanted: Wanted) {
        if self.asked == Asked::Snapshot {
            return;
        }
        let wait = match self.repeated.checked_sub(IMPATIENT_QUESTIONS) {
            None => Duration::ZERO,
            Some(late) => QUESTION_WAIT_MAX.min(Duration::from_millis(1 << late.min(10))),
        };
        let since = *self.since.get_or_insert_with(Instant::now);
        let doubts = since.elapsed() >= DOUBT_AFTER;
        if doubts {
            self.since = Some(Instant::now());
        }
        // The channel is empty: its only question was answered. The task lives as long as we do.
        if self.questions.try_send(Question { wait, doubts, wanted }).is_ok() {
            self.asked = Asked::Snapshot;
            self.repeated += 1;
        }
    }

    /// Nobody waits any more.
    pub fn rest(&mut self) {
        self.repeated = 0;
        self.since = None;
    }

    /// The next thing that the server says. Cancel safe.
    pub async fn hear(&mut self) -> Heard {
        match self.answers.recv().await {
            Some(answer) => {
                if matches!(answer, Heard::Snapshot(_)) {
                    self.asked = Asked::Nothing;
                }
                answer
            }
            None => std::future::pending().await,
        }
    }
}

/// What the task is asked for.
#[derive(Clone, Copy, Debug)]
struct Question {
    /// How long to wait before.
    wait: Duration,
    /// Somebody waits for so long that Postgres may be waiting for us.
    doubts: bool,
    wanted: Wanted,
}
