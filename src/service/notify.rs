//! Messages to the service manager, as sd_notify(3) lays them out. Without `$NOTIFY_SOCKET` nobody
//! is told.

use std::time::Instant;

use sd_notify::NotifyState;
use tracing::warn;

use crate::status::{Published, brief};

/// What is said of a file that is not as the daemon works.
const REFUSED: &str = "the new configuration is not taken, see the log";

/// Who is told.
pub(super) struct Notifier {
    is_heard: bool,
    has_complained: bool,
    /// Whether the daemon said once that it is ready.
    is_ready: bool,
    /// What is wrong with the newest configuration.
    refused: Option<&'static str>,
    /// What was said last.
    state: String,
    /// How many actions were done when.
    done: Option<(Instant, u64)>,
}

impl Notifier {
    /// Whom the environment names.
    pub(super) fn from_environment() -> Self {
        Notifier {
            is_heard: std::env::var_os("NOTIFY_SOCKET").is_some(),
            has_complained: false,
            is_ready: false,
            refused: None,
            state: String::new(),
            done: None,
        }
    }

    /// Whether anybody is told.
    pub(super) fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// All stages turn.
    pub(super) fn alive(&mut self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// The configuration is taken.
    pub(super) fn ready(&mut self, published: &Published) {
        self.refused = None;
        self.again(published);
    }

    /// It is not.
    pub(super) fn refused(&mut self, published: &Published) {
        self.refused = Some(REFUSED);
        self.again(published);
    }

    fn again(&mut self, published: &Published) {
        self.is_ready = true;
        self.state = self.words(published);
        let state = self.state.clone();
        self.send(&[NotifyState::Ready, NotifyState::Status(&state)]);
    }

    /// It is read again. systemd demands the time (`Type=notify-reload`).
    pub(super) fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(_) => self.send(&[NotifyState::Reloading]),
        }
    }

    /// The daemon ends. What is said of the reason stays in `systemctl status`.
    pub(super) fn stopping(&mut self, why: Option<String>) {
        self.is_ready = false;
        let why = why.map_or_else(|| "stopping".to_owned(), |why| one_line(&why));
        self.send(&[NotifyState::Stopping, NotifyState::Status(&why)]);
    }

    /// Tells how the daemon is doing, if that is news.
    pub(super) fn state(&mut self, published: &Published) {
        if !self.is_heard || !self.is_ready {
            return;
        }
        let words = self.words(published);
        if words != self.state {
            self.send(&[NotifyState::Status(&words)]);
            self.state = words;
        }
    }

    fn words(&mut self, published: &Published) -> String {
        let done: u64 = published.status.sinks.iter().map(|sink| sink.done).sum();
        let now = Instant::now();
        let before = self.done.replace((now, done));
        let rate = before.map_or(0.0, |(at, before)| {
            let seconds = now.saturating_duration_since(at).as_secs_f64().max(0.001);
            done.saturating_sub(before) as f64 / seconds
        });
        let words = brief(&published.status, rate);
        match self.refused {
            Some(refused) => format!("{words}; {refused}"),
            None => words,
        }
    }

    fn send(&mut self, states: &[NotifyState<'_>]) {
        if !self.is_heard {
            return;
        }
        match sd_notify::notify(states) {
            Ok(()) => self.has_complained = false,
            Err(error) if !std::mem::replace(&mut self.has_complained, true) => {
                warn!("systemd cannot be told how it goes: {error}");
            }
            Err(_) => {}
        }
    }
}

/// A line break would end the message's field.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
