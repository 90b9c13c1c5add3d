//! What the daemon tells of itself while nobody asks: to its service manager (systemd), and once a
//! minute to the log.
//!
//! It has a thread of its own and reads what the daemon publishes, so that a service manager that is
//! slow to listen holds up nothing. That thread knows nothing of its own to report: a ping for
//! systemd's watchdog goes out only if the daemon's stages have turned since the one before.

mod notify;
mod summary;
mod watchdog;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use crate::status::Board;
use notify::Notifier;
use summary::Summary;
use watchdog::Watchdog;

/// How often the state is looked at; it is told if it has changed.
const STATE_EVERY: Duration = Duration::from_secs(2);

/// How often the log has a summary, if there is anything to say.
const SUMMARY_EVERY: Duration = Duration::from_secs(60);

/// How long the end may wait for a service manager that does not listen.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// The thread's stack, in bytes: it only writes short texts.
const STACK_BYTES: usize = 256 * 1024;

/// Log lines that were left out because there were too many like them: how many, and one of them.
pub trait LeftOut: Send {
    /// What was left out since it was asked last.
    fn take(&mut self) -> Vec<(u64, String)>;
}

/// Tells of the daemon until it is dropped.
#[derive(Debug)]
pub struct Herald {
    news: Option<mpsc::Sender<News>>,
    ended: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// What the board does not show.
#[derive(Debug)]
enum News {
    Ready,
    Reloading,
    Refused,
    Stopping(Option<String>),
}

impl Herald {
    /// Starts it. Without a thread nothing is told.
    pub fn start(board: Board, left_out: impl LeftOut + 'static) -> Self {
        let (news, heard) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("herald".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                Teller::new(board, Box::new(left_out)).run(&heard);
                // Whoever waits for it may be gone.
                let _ = end.send(());
            });
        let thread = thread.map_err(|error| error!("systemd is told nothing: {error}")).ok();
        Herald { news: Some(news), ended, thread }
    }

    /// The configuration is valid, and the daemon runs with it. Whether Postgres or a sink can be
    /// reached does not matter: the daemon waits for both, for ever if need be, and a start that is
    /// not ready in time would be ended by systemd.
    pub fn ready(&self) {
        self.tell(News::Ready);
    }

    /// The configuration is being read again.
    pub fn reloading(&self) {
        self.tell(News::Reloading);
    }

    /// The new configuration is not taken, and the daemon runs on with the old one.
    pub fn refused(&self) {
        self.tell(News::Refused);
    }

    /// The daemon ends, for this reason unless it was asked to.
    pub fn stopping(&self, why: Option<String>) {
        self.tell(News::Stopping(why));
    }

    fn tell(&self, news: News) {
        if let Some(to) = &self.news {
            // It ends only with this value, unless its thread could not be started.
            let _ = to.send(news);
        }
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        drop(self.news.take());
        if let Some(thread) = self.thread.take()
            && self.ended.recv_timeout(END_PATIENCE).is_ok()
        {
            // It has ended.
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Teller {
    board: Board,
    notifier: Notifier,
    watchdog: Option<Watchdog>,
    summary: Summary,
    left_out: Box<dyn LeftOut>,
}

impl Teller {
    fn new(board: Board, left_out: Box<dyn LeftOut>) -> Self {
        let now = Instant::now();
        let (notifier, watchdog) = (Notifier::from_environment(), Watchdog::from_environment(now));
        Teller { board, notifier, watchdog, summary: Summary::new(now), left_out }
    }

    /// Tells until the other end of `heard` is dropped.
    fn run(mut self, heard: &mpsc::Receiver<News>) {
        let start = Instant::now();
        let (mut state_at, mut summary_at) = (start + STATE_EVERY, start + SUMMARY_EVERY);
        loop {
            let now = Instant::now();
            if let Some(watchdog) = &mut self.watchdog
                && watchdog.is_due(now, &self.board)
            {
                self.notifier.alive();
            }
            if now >= state_at {
                state_at = now + STATE_EVERY;
                self.notifier.state(&self.board.look());
            }
            if now >= summary_at {
                summary_at = now + SUMMARY_EVERY;
                self.summarize(now);
            }
            let next = self.watchdog.as_ref().map(Watchdog::next);
            let state_at = self.notifier.is_heard().then_some(state_at);
            let next = [next, state_at].into_iter().flatten().fold(summary_at, Instant::min);
            match heard.recv_timeout(next.saturating_duration_since(now)) {
                Ok(news) => self.take(news),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.summarize(Instant::now());
    }

    fn take(&mut self, news: News) {
        let published = self.board.look();
        match news {
            News::Ready => self.notifier.ready(&published),
            News::Reloading => self.notifier.reloading(),
            News::Refused => self.notifier.refused(&published),
            News::Stopping(why) => self.notifier.stopping(why),
        }
    }

    fn summarize(&mut self, now: Instant) {
        self.summary.tell(now, &self.board.look());
        for (lines, like) in self.left_out.take() {
            warn!(lines, like, "log lines were left out, as there were too many like this one");
        }
    }
}
