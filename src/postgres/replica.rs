//! How far has a replica replayed the log?
//!
//! A session of its own to each replica, in a task of its own, which asks only while somebody
//! waits, and keeps trying to connect. A replica has replayed a commit when
//! `pg_last_wal_replay_lsn()` has reached the *end* of its record: while a delayed standby waits
//! before a commit, it stands at that record's start. What follows another history than the server
//! that streams says nothing about it, whatever its position.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::client::ServerIdentity;
use super::error::PgError;
use super::query::Rows;
use super::session::{ReplicationSession, SystemIdentity};
use super::url::ConnectConfig;
use crate::lsn::Lsn;

/// How long an answer may take before the connection counts as dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The wait before connecting again.
const RECONNECT_WAIT: Duration = Duration::from_millis(500);

/// How often it is asked whose history it follows, while somebody waits.
const IDENTIFY_EVERY: Duration = Duration::from_secs(1);

/// How many questions in a row are asked without a wait: a healthy replica is that close behind.
const IMPATIENT_QUESTIONS: u32 = 3;

/// The longest wait between questions.
const QUESTION_WAIT_MAX: Duration = Duration::from_millis(10);

/// One question, so that both answers are about the same moment.
const QUERY: &str = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn(), \
     extract(epoch FROM pg_catalog.pg_postmaster_start_time())";

/// Whose log is replayed: the server that streams.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its history.
    pub history: SystemIdentity,
    /// The very process, which may be listed among its replicas.
    pub server: ServerIdentity,
}

/// Why a replica is not waited for.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaLost {
    /// It cannot be asked.
    #[error(transparent)]
    Unreachable(#[from] PgError),
    /// It is a primary.
    #[error("it is not in recovery, but a primary of its own")]
    Promoted,
    /// Its history is another one.
    #[error("it follows timeline {timeline} of system {system_id}, not the server that streams")]
    OtherHistory {
        /// Its system.
        system_id: String,
        /// Its timeline.
        timeline: u32,
    },
}

/// What is heard of a replica.
pub type Replayed = Result<Lsn, ReplicaLost>;

/// Asks one replica, in a task of its own that ends when this is dropped.
pub struct Replica {
    questions: mpsc::Sender<Duration>,
    answers: mpsc::Receiver<Replayed>,
    is_asked: bool,
    /// Questions since somebody began to wait.
    repeated: u32,
    _task: JoinSet<()>,
}

impl Replica {
    /// Connects when it is first asked.
    pub fn start(config: ConnectConfig, upstream: Upstream) -> Self {
        let (questions, asked) = mpsc::channel(1);
        let (answer, answers) = mpsc::channel(1);
        let asker = Asker { config, upstream, asked, answer };
        let mut task = JoinSet::new();
        task.spawn(asker.run());
        Replica { questions, answers, is_asked: false, repeated: 0, _task: task }
    }

    /// Asks how far it is, unless that is under way; the more often in a row, the slower.
    pub fn ask(&mut self) {
        if self.is_asked {
            return;
        }
        let wait = match self.repeated.checked_sub(IMPATIENT_QUESTIONS) {
            None => Duration::ZERO,
            Some(late) => QUESTION_WAIT_MAX.min(Duration::from_millis(1 << late.min(10))),
        };
        // The channel is empty: its only question was answered. The task lives as long as we do.
        if self.questions.try_send(wait).is_ok() {
            self.is_asked = true;
            self.repeated += 1;
        }
    }

    /// Nobody waits any more.
    pub fn rest(&mut self) {
        self.repeated = 0;
    }

    /// The next thing that is heard of it.
    pub fn poll_hear(&mut self, context: &mut Context<'_>) -> Poll<Replayed> {
        match self.answers.poll_recv(context) {
            Poll::Ready(Some(answer)) => {
                self.is_asked = false;
                Poll::Ready(answer)
            }
            // The task ends only with us.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// The task behind a [`Replica`].
struct Asker {
    config: ConnectConfig,
    upstream: Upstream,
    asked: mpsc::Receiver<Duration>,
    answer: mpsc::Sender<Replayed>,
}

/// A session that was found to be a replica's.
struct Open {
    session: ReplicationSession,
    identified_at: Instant,
}

impl Asker {
    async fn run(mut self) {
        let mut open = None;
        while let Some(wait) = self.asked.recv().await {
            sleep(wait).await;
            let answer = self.ask(&mut open).await;
            let is_lost = answer.is_err();
            if self.answer.send(answer).await.is_err() {
                return;
            }
            if is_lost {
                open = None;
                sleep(RECONNECT_WAIT).await;
            }
        }
    }

    async fn ask(&self, open: &mut Option<Open>) -> Replayed {
        // Taken out, so that a session is of no use any more whose answer was not waited for.
        let mut session = match open.take() {
            Some(kept) if kept.identified_at.elapsed() < IDENTIFY_EVERY => kept,
            Some(Open { session, .. }) => self.identified(session).await?,
            None => self.identified(ReplicationSession::connect(&self.config).await?).await?,
        };
        let replayed = match timeout(ANSWER_TIMEOUT, session.session.simple_query(QUERY)).await {
            Ok(rows) => self.replayed(&rows?)?,
            Err(_) => return Err(no_answer()),
        };
        *open = Some(session);
        Ok(replayed)
    }

    /// Makes sure that a session's server follows the history that is streamed.
    async fn identified(&self, mut session: ReplicationSession) -> Result<Open, ReplicaLost> {
        let identity = match timeout(ANSWER_TIMEOUT, session.identify_system()).await {
            Ok(identity) => identity?,
            Err(_) => return Err(no_answer()),
        };
        let SystemIdentity { system_id, timeline, .. } = identity;
        let ours = &self.upstream.history;
        if (&system_id, timeline) != (&ours.system_id, ours.timeline) {
            return Err(ReplicaLost::OtherHistory { system_id, timeline });
        }
        Ok(Open { session, identified_at: Instant::now() })
    }

    fn replayed(&self, rows: &Rows) -> Replayed {
        let Some([in_recovery, lsn, started]) = rows.first().map(Vec::as_slice) else {
            return Ok(Lsn::ZERO);
        };
        if in_recovery.as_deref() == Some("t") {
            return Ok(lsn.as_deref().and_then(|lsn| lsn.parse().ok()).unwrap_or_default());
        }
        // Whoever reads there reads what is visible.
        match started.as_deref() == Some(&self.upstream.server.postmaster_start) {
            true => Ok(Lsn(u64::MAX)),
            false => Err(ReplicaLost::Promoted),
        }
    }
}

fn no_answer() -> ReplicaLost {
    PgError::timeout("ask how far it has replayed the log", ANSWER_TIMEOUT).into()
}
