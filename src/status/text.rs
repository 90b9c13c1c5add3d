//! The status for people: a page, or a line.

use std::time::Duration;

use super::{ChargesStatus, PostgresStatus, ReplayStatus, Role, SinkState, SinkStatus, Status};
use crate::amount::{bytes, grouped};
use crate::config::Style;
use crate::replay::shown;

/// How it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// In colours or without.
    pub style: Style,
    /// The time, in seconds since 1970.
    pub now_seconds: f64,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "34";

/// The status on a page: a fact a line, then a sink a line with what is wrong with it.
pub fn text(status: &Status, look: Look) -> String {
    let mut page = Page { out: String::new(), look };
    page.head(status);
    page.log(&status.postgres);
    page.replay(status.replay.as_ref());
    if status.gaps > 0 {
        let gaps = status.gaps;
        page.fact("gaps", &format!("{gaps} since the start: what was in them had its fallbacks"));
    }
    match status.parked {
        Some(0) | None => {}
        Some(parked) => {
            let parked = page.paint(&format!("{parked}, see walpurge parked list"), YELLOW);
            page.fact("parked", &parked);
        }
    }
    page.sinks(&status.sinks);
    page.out
}

/// The status on a line, for logs.
pub fn line(status: &Status, now_seconds: f64) -> String {
    let mut out = format!("{}  {}", time(now_seconds), role(status.role));
    if let Some(lag) = lag(&status.postgres) {
        out.push_str(&format!("  lag {lag}"));
    }
    for SinkStatus { name, state: how, waiting, .. } in &status.sinks {
        out.push_str(&format!("  {} {} {waiting} waiting", printable(name), state(*how)));
    }
    if let Some(error) = &status.postgres.error {
        out.push_str(&format!("  error: {}", printable(&error.message)));
    }
    out.push('\n');
    out
}

/// The status in a few words, for a service manager: what it does, how far it is behind, how much
/// it does, what does not work.
pub fn brief(status: &Status, actions_per_second: f64) -> String {
    let mut parts = vec![role(status.role).to_owned()];
    let error = status.postgres.error.as_ref().filter(|_| status.role != Role::Standby);
    if let Some(error) = error {
        parts[0].push_str(&format!(": {}", printable(&error.message)));
    }
    if let Some(lag) = lag(&status.postgres) {
        parts.push(format!("lag {lag}"));
    }
    if matches!(status.role, Role::Streaming | Role::ClosingGap) {
        parts.push(format!("{} actions/s", grouped(actions_per_second.round() as u64)));
    }
    let bad = status.sinks.iter().filter(|sink| !matches!(sink.state, SinkState::Up));
    for SinkStatus { name, state: how, error, .. } in bad {
        let why = error.as_ref().map_or(String::new(), |why| format!(" ({})", why.message));
        parts.push(printable(&format!("{name} {}{why}", state(*how))));
    }
    parts.join("; ")
}

struct Page {
    out: String,
    look: Look,
}

impl Page {
    fn head(&mut self, status: &Status) {
        let colour = match (status.role, &status.not_ready) {
            (Role::Standby, _) => BLUE,
            (Role::Streaming, None) => GREEN,
            (Role::Streaming | Role::ClosingGap, _) => YELLOW,
            (Role::Connecting | Role::NotRunning, _) => RED,
        };
        let (name, role) = (self.paint("walpurge", BOLD), self.paint(role(status.role), colour));
        self.out.push_str(&format!("{name} {}  {role}\n", printable(&status.version)));
        if let Some(why) = &status.not_ready {
            let why = self.paint(&format!("not ready: {}", printable(why)), YELLOW);
            self.out.push_str(&format!("  {why}\n"));
        }
    }

    fn log(&mut self, postgres: &PostgresStatus) {
        let PostgresStatus { target, slot, active_pid, error, .. } = postgres;
        let pid = active_pid.map(|pid| format!(", in use by pid {pid}")).unwrap_or_default();
        self.fact("postgres", &format!("{}, slot {}{pid}", printable(target), printable(slot)));
        if let Some(lag) = lag(postgres) {
            self.fact("lag", &lag);
        }
        let positions = [
            ("done up to", postgres.confirmed_lsn),
            ("received", postgres.received_lsn),
            ("log ends at", postgres.wal_end_lsn),
        ];
        let positions =
            positions.iter().filter_map(|(name, lsn)| Some(format!("{name} {}", (*lsn)?)));
        let positions: Vec<_> = positions.collect();
        if !positions.is_empty() {
            self.fact("position", &positions.join(", "));
        }
        if let Some(held) = postgres.wal_held_bytes {
            let left = match (postgres.wal_left_bytes, postgres.wal_left_seconds) {
                (None, _) => ", bounded by the disk alone".to_owned(),
                (Some(left), None) => format!(", {} left", bytes(left)),
                (Some(left), Some(until)) => {
                    format!(", {} left, enough for {} at this rate", bytes(left), span(until))
                }
            };
            self.fact("WAL held", &format!("{}{left}", bytes(held)));
        }
        if let Some(error) = error {
            self.error(&error.message, error.hint.as_deref(), error.since_seconds);
        }
    }

    fn replay(&mut self, replay: Option<&ReplayStatus>) {
        let Some(ReplayStatus { from_lsn, from_seconds, horizon_seconds, .. }) = replay else {
            return;
        };
        let from = from_lsn.map(|lsn| format!("from {lsn}"));
        let since = from_seconds.map(|at| format!("since {}", time(at)));
        let ago = horizon_seconds.map(|horizon| format!("{} back", span(horizon)));
        let parts: Vec<_> = [from, since, ago].into_iter().flatten().collect();
        if !parts.is_empty() {
            self.fact("replay", &parts.join(", "));
        }
    }

    fn sinks(&mut self, sinks: &[SinkStatus]) {
        let width = |of: fn(&SinkStatus) -> usize| sinks.iter().map(of).max().unwrap_or_default();
        let names = width(|sink| printable(&sink.name).chars().count());
        let kinds = width(|sink| sink.kind.chars().count());
        for sink in sinks {
            let (mark, colour) = match sink.state {
                SinkState::Up => ("✓", GREEN),
                SinkState::Down | SinkState::Refused => ("✗", RED),
                SinkState::Held => ("!", YELLOW),
                SinkState::Off | SinkState::Unknown => ("○", BLUE),
            };
            let (mark, how) = (self.paint(mark, colour), self.paint(state(sink.state), colour));
            let pad = " ".repeat(7usize.saturating_sub(state(sink.state).len()));
            let (name, kind) = (printable(&sink.name), &sink.kind);
            self.out.push_str(&format!("{mark} {name:names$}  {kind:kinds$}  {how}{pad}"));
            if sink.state != SinkState::Unknown {
                let (waiting, done) = (grouped(sink.waiting), grouped(sink.done));
                self.out.push_str(&format!("  {waiting} waiting, {done} done"));
            }
            if sink.parked > 0 {
                self.out.push_str(&format!(", {} parked", grouped(sink.parked)));
            }
            if let Some(ChargesStatus { month, charged, most }) = &sink.charges {
                let most = most.map_or(String::new(), |most| format!(" of {}", grouped(most)));
                let charged = grouped(*charged);
                self.out.push_str(&format!(", {charged}{most} charged in {}", printable(month)));
            }
            if let Some(position) = sink.position_lsn {
                self.out.push_str(&format!(", at {position}"));
            }
            self.out.push('\n');
            if let Some(error) = &sink.error {
                self.error(&error.message, error.hint.as_deref(), error.since_seconds);
            }
        }
    }

    fn fact(&mut self, name: &str, value: &str) {
        let name = self.paint(&format!("{name:<9}"), DIM);
        self.out.push_str(&format!("  {name} {value}\n"));
    }

    fn error(&mut self, message: &str, hint: Option<&str>, since_seconds: f64) {
        let since = span((self.look.now_seconds - since_seconds).max(0.0));
        let message = self.paint(&printable(message), RED);
        self.out.push_str(&format!("    for {since}: {message}\n"));
        if let Some(hint) = hint {
            self.out.push_str(&format!("    → {}\n", printable(hint)));
        }
    }

    fn paint(&self, text: &str, code: &str) -> String {
        match self.look.style {
            Style::Plain => text.to_owned(),
            Style::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Connecting => "not streaming",
        Role::Standby => "standby",
        Role::Streaming => "streaming",
        Role::ClosingGap => "closing a gap",
        Role::NotRunning => "no daemon answers",
    }
}

fn state(state: SinkState) -> &'static str {
    match state {
        SinkState::Unknown => "unknown",
        SinkState::Up => "up",
        SinkState::Down => "down",
        SinkState::Refused => "refused",
        SinkState::Held => "held",
        SinkState::Off => "off",
    }
}

fn lag(postgres: &PostgresStatus) -> Option<String> {
    let behind = bytes(postgres.lag_bytes?);
    Some(match postgres.lag_seconds {
        Some(seconds) if seconds > 0.0 => format!("{behind}, for {}", span(seconds)),
        _ => behind,
    })
}

/// A length of time, exact enough for a person.
fn span(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e10);
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    // Two units are enough: "2h 5m" and not its seconds.
    let whole = Duration::from_secs(seconds as u64);
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn time(seconds: f64) -> String {
    shown((seconds * 1e6) as i64)
}

/// Text from a server, without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    /// Each `NAME.json` of `tests/golden/status` is shown as `NAME.expected` says.
    #[test]
    fn statuses_look_as_they_should() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/status");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            count += 1;
            let status: Status =
                serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let now_seconds = 1_763_720_752.0;
            let plain = text(&status, Look { style: Style::Plain, now_seconds });
            let colour = text(&status, Look { style: Style::Colour, now_seconds });
            let shown = format!(
                "{plain}\n{}\n{}",
                line(&status, now_seconds) + &brief(&status, 1234.4) + "\n",
                colour.replace('\x1b', "\\e")
            );
            let expected = path.with_extension("expected");
            if std::env::var_os("WALPURGE_BLESS").is_some() {
                std::fs::write(&expected, &shown).unwrap();
            }
            assert_eq!(shown, std::fs::read_to_string(&expected).unwrap(), "{}", path.display());
        }
        assert!(count >= 4, "only {count} cases");
    }

    #[test]
    fn spans_are_short() {
        let spans = [0.04, 9.94, 61.0, 7505.0, 90_061.0].map(span);
        assert_eq!(spans, ["0.0 s", "9.9 s", "1m 1s", "2h 5m", "1day 1h"]);
    }
}
