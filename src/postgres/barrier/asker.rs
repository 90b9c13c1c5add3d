//! The task behind a [`Barrier`](super::Barrier): one connection, and another whenever it breaks.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};
use tracing::info;

use super::broken::Broken;
use super::held::wal_held;
use super::look::Look;
use super::questions::{beat, snapshot, use_transaction_id, waits_for_us};
use super::{Heard, Question, Wanted};
use crate::postgres::client::{
    OrdinaryConnection, ServerIdentity, connect_client, server_identity,
};
use crate::postgres::socket::ChosenHost;
use crate::postgres::url::ConnectConfig;
use crate::ticks;

/// How many failed connections lie between two warnings: half a minute or more.
const FAILURES_PER_WARNING: u32 = 60;

/// The wait before connecting again.
const RECONNECT_WAIT: Duration = Duration::from_millis(500);

/// How often the server is asked where its log ends, and how much of it our slot holds.
const HELD_EVERY: Duration = Duration::from_secs(2);

/// What the task needs.
pub(super) struct Asker {
    pub(super) config: ConnectConfig,
    pub(super) host: ChosenHost,
    pub(super) server: ServerIdentity,
    pub(super) heartbeat: Option<Duration>,
    pub(super) look: Look,
    pub(super) slot: String,
    pub(super) asked: mpsc::Receiver<Question>,
    pub(super) answer: mpsc::Sender<Heard>,
    /// A question that is not answered yet, which the next connection goes on with.
    pub(super) open: Option<Question>,
}

impl Asker {
    pub(super) async fn run(mut self) {
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
