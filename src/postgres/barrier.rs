//! The barrier: which transactions can other sessions see?
//!
//! A walsender may send a commit before anybody can see it. So an ordinary connection to the same
//! server is asked for its snapshot, whenever somebody waits and only then. The same connection
//! writes the heartbeat, which proves that the whole way works, looks from time to time whether the
//! rules' tables are what they were, and notices a fast shutdown of the server, which closes
//! ordinary connections at once but waits for the replication connection.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tracing::{debug, error, info, warn};

use super::catalog::TablesQuery;
use super::client::{
    OrdinaryConnection, ServerIdentity, connect_client, server_identity, simple_query,
};
use super::error::{PgError, PgErrorKind};
use super::query::Rows;
use super::socket::ChosenHost;
use super::standby_names;
use super::url::ConnectConfig;
use crate::lsn::Lsn;
use crate::rules::KnownTables;
use crate::snapshot::Snapshot;
use crate::ticks;

/// The prefix of the messages that prove that the whole way works.
pub const HEARTBEAT_PREFIX: &str = "walpurge.heartbeat";

/// How long an answer may take before the connection counts as dead: the question touches no table.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the catalog is asked for the rules' tables: a table that was renamed or dropped is
/// noticed so soon.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How many times as long as a look took there is none after it: in a catalog where it takes long,
/// it shall neither load the server nor hold up snapshots.
const LOOK_REST: u32 = 100;

/// How many failed connections lie between two warnings: half a minute or more.
const FAILURES_PER_WARNING: u32 = 60;

/// The wait before connecting again.
const RECONNECT_WAIT: Duration = Duration::from_millis(500);

/// How many questions in a row are asked without a wait: a commit is usually visible within
/// microseconds after it was streamed.
const IMPATIENT_QUESTIONS: u32 = 3;

/// How often the server is asked where its log ends, and how much of it our slot holds.
const HELD_EVERY: Duration = Duration::from_secs(2);

/// How long somebody waits before Postgres is suspected of waiting for us.
const DOUBT_AFTER: Duration = Duration::from_secs(2);

/// The longest wait between questions, which bounds how late a transaction is noticed.
const QUESTION_WAIT_MAX: Duration = Duration::from_millis(10);

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
        let look = Look { tables, digest: None, due: Instant::now() + LOOK_EVERY };
        let slot = slot.to_owned();
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

/// The task behind a [`Barrier`].
struct Asker {
    config: ConnectConfig,
    host: ChosenHost,
    server: ServerIdentity,
    heartbeat: Option<Duration>,
    look: Look,
    slot: String,
    asked: mpsc::Receiver<Question>,
    answer: mpsc::Sender<Heard>,
    /// A question that is not answered yet, which the next connection goes on with.
    open: Option<Question>,
}

/// The WAL that a slot holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeld {
    /// From the oldest that it needs to the newest.
    pub held: u64,
    /// How much more there may be before the slot is lost; `None`: any amount.
    pub left: Option<u64>,
    /// Where the log ends.
    pub end_lsn: Lsn,
    /// When it ended there, by the server's clock, in microseconds since 1970.
    pub at: i64,
}

/// How much WAL a slot holds; nothing on a standby, which does not write it.
const HELD_QUERY: &str = "SELECT \
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::bigint, \
       safe_wal_size::bigint, \
       pg_catalog.pg_current_wal_flush_lsn()::text, \
       (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint \
     FROM pg_catalog.pg_replication_slots \
     WHERE slot_name = $1 AND NOT pg_catalog.pg_is_in_recovery()";

async fn wal_held(client: &tokio_postgres::Client, slot: &str) -> Result<Option<WalHeld>, Broken> {
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&slot, Type::TEXT)];
    let rows = timeout(ANSWER_TIMEOUT, client.query_typed(HELD_QUERY, &parameters))
        .await
        .map_err(|_| Broken::NoAnswer)?;
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) if error.is_closed() => return Err(Broken::Query(error)),
        // It is for people alone.
        Err(_) => return Ok(None),
    };
    let held = rows.first().and_then(|row| {
        let held: Option<i64> = row.try_get(0).ok()?;
        let left: Option<i64> = row.try_get(1).ok()?;
        let left = left.map(|left| u64::try_from(left).unwrap_or(0));
        let end_lsn: String = row.try_get(2).ok()?;
        let (end_lsn, at) = (end_lsn.parse().ok()?, row.try_get(3).ok()?);
        Some(WalHeld { held: u64::try_from(held?).ok()?, left, end_lsn, at })
    });
    Ok(held)
}

/// What was seen of the rules' tables.
struct Look {
    tables: TablesQuery,
    /// `None`: nothing yet.
    digest: Option<Rows>,
    due: Instant,
}

/// Why a connection is of no use any more.
enum Broken {
    Connection(PgError),
    Query(tokio_postgres::Error),
    NoAnswer,
    OtherServer,
    /// Nobody asks any more.
    Unused,
}

impl Asker {
    async fn run(mut self) {
        let mut failures = 0u32;
        loop {
            match self.serve(&mut failures).await {
                Broken::Unused => return,
                broken => {
                    failures += 1;
                    if broken.is_shutdown() && self.answer.send(Heard::ShuttingDown).await.is_err()
                    {
                        return;
                    }
                    // The stream breaks together with this and says why; a warning here is for
                    // the case that only this connection is refused.
                    if failures % FAILURES_PER_WARNING == 3 {
                        broken.log();
                    }
                }
            }
            // At once the first time: the server may be shutting down and waiting for us.
            if failures > 1 {
                sleep(RECONNECT_WAIT).await;
            }
        }
    }

    async fn serve(&mut self, failures: &mut u32) -> Broken {
        let mut connection = match connect_client(&self.config, &self.host).await {
            Ok(connection) => connection,
            Err(error) => return Broken::Connection(error),
        };
        match server_identity(&connection.client).await {
            Ok(server) if server == self.server => {}
            Ok(_) => return Broken::OtherServer,
            Err(error) => return Broken::Connection(error),
        }
        let result = self.answer_questions(&mut connection, failures).await;
        result.err().unwrap_or(Broken::Unused)
    }

    async fn answer_questions(
        &mut self,
        connection: &mut OrdinaryConnection,
        failures: &mut u32,
    ) -> Result<(), Broken> {
        let client = &connection.client;
        let ask = client.prepare("SELECT pg_catalog.pg_current_snapshot()::text");
        let question = ask.await.map_err(Broken::Query)?;
        // Only who gets an answer is connected: the role may lack the right to ask.
        snapshot(client, &question).await?;
        if *failures >= 3 {
            info!("the barrier's connection works again");
        }
        *failures = 0;
        // A day is as good as never, and an interval needs a period.
        let period = self.heartbeat.unwrap_or(Duration::from_secs(86_400));
        let mut heartbeat = interval_at(Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held_clock = interval_at(Instant::now(), HELD_EVERY);
        loop {
            if let Some(Question { wait, doubts, wanted }) = self.open {
                if doubts && waits_for_us(client, self.config.application_name()).await? {
                    // Whoever hears this asks no more.
                    let _ = self.answer.send(Heard::WaitsForUs).await;
                    return Ok(());
                }
                if !wait.is_zero() {
                    sleep(wait).await;
                }
                let snapshot = match wanted {
                    Wanted::Visible => snapshot(client, &question).await?,
                    Wanted::Open => {
                        use_transaction_id(client).await?;
                        snapshot(client, &question).await?.bounded()
                    }
                };
                self.open = None;
                if self.answer.send(Heard::Snapshot(snapshot)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                question = self.asked.recv() => match question {
                    Some(question) => self.open = Some(question),
                    None => return Ok(()),
                },
                error = connection.task.ended() => return Err(Broken::Connection(error)),
                _ = heartbeat.tick(), if self.heartbeat.is_some() => {
                    beat(client).await?;
                }
                _ = held_clock.tick() => {
                    held_clock.reset_at(ticks::within(HELD_EVERY));
                    if let Some(held) = wal_held(client, &self.slot).await?
                        && self.answer.send(Heard::Held(held)).await.is_err()
                    {
                        return Ok(());
                    }
                }
                () = sleep_until(self.look.due) => {
                    if let Some(tables) = self.look.at(client).await?
                        && self.answer.send(Heard::Tables(tables)).await.is_err()
                    {
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Look {
    /// Looks at the rules' tables. Answers with them if there is a difference to the last look.
    async fn at(&mut self, client: &tokio_postgres::Client) -> Result<Option<KnownTables>, Broken> {
        let start = Instant::now();
        // Should it not come to an end.
        self.due = start + LOOK_REST * ANSWER_TIMEOUT;
        let digest = rows(client, &self.tables.digest()).await?;
        self.due = ticks::within(LOOK_EVERY.max(LOOK_REST * start.elapsed()));
        if digest.is_none() || digest == self.digest {
            return Ok(None);
        }
        let Some(answer) = rows(client, &self.tables.sql()).await? else { return Ok(None) };
        let mut tables = self.tables.answer(answer);
        if let Some(publication) = self.tables.publication() {
            let Some(answer) = rows(client, publication.sql()).await? else { return Ok(None) };
            tables.publication = publication.answer(answer);
        }
        self.digest = digest;
        Ok(Some(tables))
    }
}

/// The rows of a question about the catalog; `None` if the server does not answer it: the barrier
/// can do without.
async fn rows(client: &tokio_postgres::Client, sql: &str) -> Result<Option<Rows>, Broken> {
    match timeout(ANSWER_TIMEOUT, simple_query(client, sql)).await {
        Ok(Ok(rows)) => Ok(Some(rows)),
        Ok(Err(error)) if *error.kind() != PgErrorKind::ConnectionLost => {
            debug!("no look at the rules' tables: {error}");
            Ok(None)
        }
        Ok(Err(error)) => Err(Broken::Connection(error)),
        Err(_) => Err(Broken::NoAnswer),
    }
}

async fn snapshot(
    client: &tokio_postgres::Client,
    question: &tokio_postgres::Statement,
) -> Result<Snapshot, Broken> {
    let answer = timeout(ANSWER_TIMEOUT, client.query_one(question, &[])).await;
    let row = answer.map_err(|_| Broken::NoAnswer)?.map_err(Broken::Query)?;
    let snapshot: String = row.try_get(0).map_err(Broken::Query)?;
    snapshot.parse().map_err(|_| Broken::NoAnswer)
}

/// Begins and ends a transaction with an ID of its own: a snapshot goes no further than the last
/// one that has ended, and does not list those that are open beyond that.
async fn use_transaction_id(client: &tokio_postgres::Client) -> Result<(), Broken> {
    // Its end is not to wait for a standby.
    let sql = "BEGIN; SET LOCAL synchronous_commit = off; \
               SELECT pg_catalog.pg_current_xact_id(); COMMIT";
    match timeout(ANSWER_TIMEOUT, client.batch_execute(sql)).await {
        Ok(Ok(())) => Ok(()),
        // A standby has no IDs to give, and shows what it has replayed.
        Ok(Err(error)) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
            let rolled_back = timeout(ANSWER_TIMEOUT, client.batch_execute("ROLLBACK")).await;
            rolled_back.map_err(|_| Broken::NoAnswer)?.map_err(Broken::Query)
        }
        Ok(Err(error)) => Err(Broken::Query(error)),
        Err(_) => Err(Broken::NoAnswer),
    }
}

/// Whether the server takes us for a synchronous standby.
async fn waits_for_us(
    client: &tokio_postgres::Client,
    application_name: &str,
) -> Result<bool, Broken> {
    let asked = timeout(ANSWER_TIMEOUT, simple_query(client, standby_names::QUERY)).await;
    let rows = asked.map_err(|_| Broken::NoAnswer)?.map_err(Broken::Connection)?;
    Ok(standby_names::refuse(&rows, application_name).is_err())
}

async fn beat(client: &tokio_postgres::Client) -> Result<(), Broken> {
    let sql = "SELECT pg_catalog.pg_logical_emit_message(false, $1, '')";
    match timeout(ANSWER_TIMEOUT, client.execute(sql, &[&HEARTBEAT_PREFIX])).await {
        Ok(Ok(_)) => Ok(()),
        // A standby cannot write one, and needs none.
        Ok(Err(error)) if !error.is_closed() => {
            debug!("no heartbeat: {error}");
            Ok(())
        }
        Ok(Err(error)) => Err(Broken::Query(error)),
        Err(_) => Err(Broken::NoAnswer),
    }
}

impl Broken {
    /// Whether a new connection was refused because the server is shutting down. The end of the
    /// old one does not tell that from a single session's end.
    ///
    /// A server that streams to us is not starting: it says that it takes no connections in its
    /// own language, in which the two cannot be told apart.
    fn is_shutdown(&self) -> bool {
        use PgErrorKind::{ServerShuttingDown, ServerStarting};
        matches!(self, Broken::Connection(error)
            if matches!(error.kind(), ServerShuttingDown | ServerStarting))
    }

    fn log(&self) {
        const HELD: &str = "invalidations wait until visibility can be asked for";
        match self {
            Broken::Connection(error) => {
                let hint = error.hint();
                warn!(hint, "{HELD}: {error}: {:?}", error.kind());
            }
            Broken::Query(error) => warn!("{HELD}: {error}"),
            Broken::NoAnswer => warn!("{HELD}: the server gave no answer"),
            Broken::OtherServer => error!(
                hint = "let postgres.url lead to one server, without a balancer in between",
                "{HELD}: an ordinary connection reaches another server than the replication connection"
            ),
            Broken::Unused => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::fields::ServerError;

    #[test]
    fn a_shutdown_is_known_in_every_language() {
        for message in
            ["the database system is shutting down", "das Datenbanksystem fährt herunter"]
        {
            let (sqlstate, message) = ("57P03".into(), message.into());
            let said = ServerError { sqlstate, message, ..ServerError::default() };
            let refused = Broken::Connection(PgError::server("connect", said));
            assert!(refused.is_shutdown());
        }
    }
}
