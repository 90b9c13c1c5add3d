//! `/tail`: single invalidations, for as long as somebody reads them.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};

use super::answer::{TEXT, respond, text};
use super::body::Reply;
use super::serve::{Shared, Stalled};
use crate::tail::{Heard, Line, Listener};

/// How often an empty line shows a listener that the daemon lives, and the daemon that it reads;
/// and how late it is said at most that lines were lost.
const PULSE_EVERY: Duration = Duration::from_secs(5);

/// For how long a `limit` counts.
const LIMIT_EVERY: Duration = Duration::from_secs(1);

/// A listener that reads nothing for so long is disconnected.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// How many lines wait in a connection.
const LINES_MAX: usize = 64;

const JSON_LINES: &str = "application/x-ndjson";

/// Which invalidations somebody wants to see: all that are of one of each.
#[derive(Debug, Default)]
struct Wanted {
    rules: Vec<String>,
    sinks: Vec<String>,
    tables: Vec<String>,
    /// How many lines there are in a second, at most; `None`: all.
    limit: Option<u64>,
}

impl Wanted {
    fn of(query: &str) -> Option<Wanted> {
        let mut wanted = Wanted::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=')?;
            let value = percent_encoding::percent_decode_str(value).decode_utf8().ok()?;
            if key == "limit" {
                wanted.limit = Some(value.parse().ok()?);
                continue;
            }
            let values = match key {
                "rule" => &mut wanted.rules,
                "sink" => &mut wanted.sinks,
                "table" => &mut wanted.tables,
                _ => return None,
            };
            values.push(value.into_owned());
        }
        Some(wanted)
    }

    fn takes(&self, line: &Line) -> bool {
        let is_of = |wanted: &[String], found: Option<&String>| {
            wanted.is_empty() || found.is_some_and(|found| wanted.contains(found))
        };
        is_of(&self.rules, line.rule.as_ref())
            && is_of(&self.tables, line.table.as_ref())
            && (self.sinks.is_empty() || line.sinks.iter().any(|sink| self.sinks.contains(sink)))
    }
}

pub(super) fn tail(shared: &Shared, query: &str, stalled: &Stalled) -> Response<Reply> {
    let Some(wanted) = Wanted::of(query) else {
        let message = "the filters are rule, sink and table, and limit is a number\n";
        return text(StatusCode::BAD_REQUEST, TEXT, message);
    };
    let Some(listener) = shared.board.tap().listen() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "too many listen already\n");
    };
    let (lines, body) = mpsc::channel(LINES_MAX);
    stalled.is_tail();
    tokio::spawn(pump(listener, wanted, lines, stalled.clone()));
    respond(StatusCode::OK, JSON_LINES, Reply::Lines(body))
}

/// Moves lines from the tap to a connection, until that ends or stalls.
async fn pump(mut listener: Listener, wanted: Wanted, to: mpsc::Sender<Bytes>, stalled: Stalled) {
    let every = wanted.limit.map_or(PULSE_EVERY, |_| LIMIT_EVERY);
    let mut pulse = interval(every);
    pulse.reset_at(Instant::now() + every);
    let full = wanted.limit.unwrap_or(u64::MAX);
    let (mut room, mut left_out) = (full, 0);
    loop {
        let line = tokio::select! {
            () = to.closed() => return,
            heard = listener.hear() => match heard {
                None => return,
                Some(Heard::Line(line)) if !wanted.takes(&line) => continue,
                Some(Heard::Line(_)) if room == 0 => {
                    left_out += 1;
                    continue;
                }
                Some(Heard::Line(line)) => {
                    room -= 1;
                    serde_json::to_string(&*line).unwrap_or_default()
                }
                Some(Heard::Missed(lost)) => missed(lost),
            },
            _ = pulse.tick() => {
                room = full;
                let lost = listener.lost().unwrap_or_default() + std::mem::take(&mut left_out);
                if lost > 0 { missed(lost) } else { String::new() }
            }
        };
        match timeout(STALLED_AFTER, to.send(Bytes::from(line + "\n"))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return stalled.give_up(),
        }
    }
}

/// A line that says how many were lost.
fn missed(lost: u64) -> String {
    format!("{{\"missed\":{lost}}}")
}
