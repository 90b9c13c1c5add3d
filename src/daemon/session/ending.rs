//! How a stream ends: what is still done of it, and what the server hears last.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{interval, timeout};
use tracing::{info, warn};

use super::{STATUS_EVERY, Session};
use crate::daemon::interrupted::Interrupted;
use crate::postgres::{Heard, PgError, PgErrorKind};
use crate::state::Commit;
use crate::status::Stage;

/// How long what is in flight may delay the server's shutdown.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// The server cannot decode the rest of the transaction that the stream is in: fallbacks take
    /// its place. Works until they and everything before them are done; answers whether they are,
    /// or what `stop` says if that came first.
    pub(in crate::daemon) async fn give_up_transaction<T>(
        &mut self,
        commit: Commit,
        mut stop: Pin<&mut impl Future<Output = T>>,
    ) -> Result<Option<T>, Interrupted> {
        self.reader.give_up_open(self.dispatcher.plan_mut());
        self.course.commit(commit)?;
        let mut clock = interval(STATUS_EVERY);
        while self.dispatcher.plan().confirmed_lsn() < commit.end_lsn {
            self.dispatcher.dispatch();
            self.ask_for_visibility();
            tokio::select! {
                biased;
                why = stop.as_mut() => return Ok(Some(why)),
                () = self.dispatcher.turn() => {}
                news = self.replicas.hear() => self.take_news(news),
                _ = clock.tick() => {
                    self.pulse.turned(Stage::Loop);
                    self.look_at_replicas();
                }
                // Nothing comes any more; but that the server is gone, nobody else may notice.
                read = self.stream.read() => {
                    read?;
                    while self.stream.next_frame()?.is_some() {}
                }
                answer = self.barrier.hear() => match answer {
                    Heard::Snapshot(snapshot) => self.show(snapshot),
                    // The next stream asks for them again.
                    Heard::Tables(_) | Heard::Held(_) => {}
                    Heard::WaitsForUs => return Err(self.waits_for_us().into()),
                    Heard::ShuttingDown => {
                        let kind = PgErrorKind::ServerShuttingDown;
                        return Err(PgError::new(kind, "stay connected").into());
                    }
                },
            }
        }
        self.remember().await;
        Ok(None)
    }

    /// Whoever waits for us goes on when the connection is closed.
    pub(super) fn waits_for_us(&self) -> PgError {
        PgError::new(PgErrorKind::SynchronousStandby, "wait for commits that wait for walpurge")
    }

    /// The server is shutting down, and would wait for ever for what it cannot have: leaves, after
    /// a moment for what can be done.
    pub(super) async fn let_go(&mut self) -> PgError {
        info!("Postgres is shutting down");
        self.finish(SHUTDOWN_PATIENCE).await;
        self.remember().await;
        let operation = "stay connected";
        match self.send_status().await {
            Ok(()) => PgError::new(PgErrorKind::ServerShuttingDown, operation),
            Err(error) => error,
        }
    }

    /// Works off what was received, for as long as `patience` lasts and a sink works. Says whether
    /// it is done.
    pub(in crate::daemon) async fn finish(&mut self, patience: Duration) -> bool {
        self.dispatcher.hurry();
        let work = async {
            loop {
                self.dispatcher.dispatch();
                self.ask_for_visibility();
                if self.dispatcher.is_stuck_or_idle() && !self.dispatcher.plan().wants_snapshot() {
                    return;
                }
                tokio::select! {
                    () = self.dispatcher.turn() => {}
                    answer = self.barrier.hear() => {
                        if let Heard::Snapshot(snapshot) = answer {
                            self.show(snapshot);
                        }
                    }
                }
            }
        };
        timeout(patience, work).await.is_ok()
    }

    /// Ends the stream at once, so that the next one finds the slot free and repeats little.
    pub(in crate::daemon) async fn leave(mut self) {
        self.remember().await;
        // What cannot be ended in order ends with the connection.
        if self.send_status().await.is_ok() {
            let _ = self.stream.stop().await;
        }
    }

    /// Finishes what was received, confirms it and ends the stream. What the sinks do not take
    /// within `patience`, or not at all, is not confirmed and so repeated by the next start.
    pub(in crate::daemon) async fn stop(mut self, patience: Duration) {
        if !self.finish(patience).await {
            warn!("stopping although a sink has not answered; its actions will be repeated");
        }
        self.remember().await;
        let said = self.send_status().await;
        let confirmed_lsn = self.status.sent_lsn;
        match said {
            Ok(()) => match self.stream.stop().await {
                Ok(()) => info!(%confirmed_lsn, "stopped"),
                Err(error) => warn!(%confirmed_lsn, "stopped, but the stream did not end: {error}"),
            },
            Err(error) => warn!("stopped without a last confirm: {error}"),
        }
    }
}
