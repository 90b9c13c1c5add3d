//! What goes from Redis, and when? Asked of Redis itself, by its keyspace notifications.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::redis::{Redis, Reply};

/// What a server has to be told so that it notifies.
pub(crate) const REDIS_SETTING: (&str, &str) = ("notify-keyspace-events", "AE");

const CHANNEL: &str = "__keyevent@0__:";

/// Something that happened to a key.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) at: Instant,
    pub(crate) kind: Kind,
    pub(crate) key: String,
}

/// What happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gone,
    Bumped,
}

/// A subscription, read by a thread of its own so that each event's time is that of its arrival.
pub(crate) struct Watch {
    events: Receiver<Event>,
}

impl Watch {
    /// Watches from now on.
    pub(crate) fn start(redis: &Redis) -> Result<Self> {
        let mut client = redis.client()?;
        let answer = client.cmd(&["PSUBSCRIBE", &format!("{CHANNEL}*")])?;
        ensure!(!answer.is_error(), "{answer}");
        client.set_timeout(None)?;
        let (sender, events) = channel();
        // Ends when the server does.
        std::thread::spawn(move || {
            while let Ok(reply) = client.read_reply() {
                let at = Instant::now();
                if let Some((kind, key)) = parse(&reply)
                    && sender.send(Event { at, kind, key }).is_err()
                {
                    return;
                }
            }
        });
        Ok(Watch { events })
    }

    /// The next event, if there is one before `patience` has passed.
    pub(crate) fn next(&self, patience: Duration) -> Option<Event> {
        self.events.recv_timeout(patience).ok()
    }
}

/// A tag's own set comes and goes with the keys that it lists; it is none of the shop's pages.
fn parse(message: &Reply) -> Option<(Kind, String)> {
    let Reply::Array(Some(parts)) = message else { return None };
    let [_, _, channel, key] = &parts[..] else { return None };
    let key = key.to_string();
    let kind = match channel.to_string().strip_prefix(CHANNEL)? {
        "del" | "expired" | "evicted" => Kind::Gone,
        "incrby" => Kind::Bumped,
        _ => return None,
    };
    (!key.starts_with("tags:")).then_some((kind, key))
}
