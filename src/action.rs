//! What there is to do: a verb and a rendered value, and the batches in which sinks get them.
//!
//! Pure data: no I/O, no clock.

use std::time::Duration;

use crate::key_type::KeyType;
use crate::lsn::Lsn;

/// The value of a [`Verb::PurgeAll`].
pub const EVERYTHING: &[u8] = b"*";

/// What an [`Action`] does.
///
/// A `…Matching` verb carries a glob pattern in Redis' syntax (`*`, `?`, `[…]`, `\` escapes)
/// instead of one exact value: it comes from `delete_matching` or from a fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Redis: UNLINK one key.
    Delete,
    /// Redis: UNLINK every key that matches.
    DeleteMatching,
    /// Redis: UNLINK every key of one type that matches.
    DeleteTyped(KeyType),
    /// Redis: raise a version counter, which never repeats a value.
    Bump,
    /// Redis: raise every existing counter that matches.
    BumpMatching,
    /// Redis: invalidate everything that carries one tag.
    Tag,
    /// Redis: invalidate every existing tag that matches.
    TagMatching,
    /// Redis: cut the time that one key has left. The value, and that of the next four, is that
    /// time in milliseconds, a zero byte, and what the verb has that deletes instead.
    Expire,
    /// Redis: cut it for every key that matches.
    ExpireMatching,
    /// Redis: cut it for every key of one type that matches.
    ExpireTyped(KeyType),
    /// Redis: cut it for every key that carries one tag.
    ExpireTag,
    /// Redis: cut it for every key that carries a tag that matches.
    ExpireTagMatching,
    /// CDN: purge everything that carries one surrogate key.
    PurgeKey,
    /// CDN: purge one path, or all that start with it if it ends in `*`. The value is
    /// percent-encoded as far as it comes from a rule.
    PurgePath,
    /// CDN: purge everything. The value is [`EVERYTHING`].
    PurgeAll,
    /// Redis: publish a message. The value is its [`Address`], a zero byte, and its text.
    Publish,
    /// Not done to a sink: ask the database which actions a rule has. The value is what the rule
    /// needs to know of the change.
    Lookup,
}

impl Verb {
    /// Whether it is done only after what its transaction removes from caches.
    pub fn is_afterwards(self) -> bool {
        self == Verb::Publish || self.is_purge()
    }

    /// Whether a reader that read before the commit can undo it, so that it may have to be done
    /// again. What such a reader writes under an old version nobody asks for any more: a bump
    /// needs no repeat.
    pub fn is_redeleted(self) -> bool {
        self.expiring().expires()
    }

    /// The verb that cuts the time that keys have left, in the place of one that deletes them.
    pub fn expiring(self) -> Verb {
        match self {
            Verb::Delete => Verb::Expire,
            Verb::DeleteMatching => Verb::ExpireMatching,
            Verb::DeleteTyped(of) => Verb::ExpireTyped(of),
            Verb::Tag => Verb::ExpireTag,
            Verb::TagMatching => Verb::ExpireTagMatching,
            other => other,
        }
    }

    /// The verb that deletes, in the place of one that cuts the time that keys have left.
    pub fn deleting(self) -> Verb {
        match self {
            Verb::Expire => Verb::Delete,
            Verb::ExpireMatching => Verb::DeleteMatching,
            Verb::ExpireTyped(of) => Verb::DeleteTyped(of),
            Verb::ExpireTag => Verb::Tag,
            Verb::ExpireTagMatching => Verb::TagMatching,
            other => other,
        }
    }

    /// The verb for keys of any type, in the place of one for keys of one type.
    pub fn untyped(self) -> Verb {
        match self {
            Verb::DeleteTyped(_) => Verb::DeleteMatching,
            Verb::ExpireTyped(_) => Verb::ExpireMatching,
            other => other,
        }
    }

    /// Of which type keys have to be.
    pub fn key_type(self) -> Option<KeyType> {
        match self {
            Verb::DeleteTyped(of) | Verb::ExpireTyped(of) => Some(of),
            _ => None,
        }
    }

    /// Whether it cuts the time that keys have left.
    pub fn expires(self) -> bool {
        self != self.deleting()
    }

    /// The rule key in the configuration that asks for this verb, which is also its name in
    /// `explain`, logs and metrics. One that expires keys has the name of the one that deletes them:
    /// `expire_in` stands beside that key.
    pub fn key(self) -> &'static str {
        match self {
            Verb::Delete | Verb::Expire => "delete",
            Verb::DeleteMatching | Verb::DeleteTyped(_) => "delete_matching",
            Verb::ExpireMatching | Verb::ExpireTyped(_) => "delete_matching",
            Verb::Bump | Verb::BumpMatching => "bump",
            Verb::Tag | Verb::TagMatching | Verb::ExpireTag | Verb::ExpireTagMatching => "tags",
            Verb::PurgeKey => "purge_keys",
            Verb::PurgePath => "purge_paths",
            Verb::PurgeAll => "purge_all",
            Verb::Publish => "publish",
            Verb::Lookup => "lookup",
        }
    }

    /// Whether it is for a CDN.
    pub fn is_purge(self) -> bool {
        matches!(self, Verb::PurgeKey | Verb::PurgePath | Verb::PurgeAll)
    }
}

/// A kind of sink, and so what it can express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// A Redis server.
    Redis,
    /// A service of Fastly.
    Fastly,
    /// A distribution of Amazon CloudFront.
    CloudFront,
    /// Anything else that purges over HTTP.
    Http,
}

impl SinkKind {
    /// The section of the configuration that its sinks stand in.
    pub fn key(self) -> &'static str {
        match self {
            SinkKind::Redis => "redis",
            SinkKind::Fastly => "fastly",
            SinkKind::CloudFront => "cloudfront",
            SinkKind::Http => "http",
        }
    }

    /// Whether some sink of this kind can do `verb`. What one sink can do depends on its settings
    /// too.
    pub fn supports(self, verb: Verb) -> bool {
        match self {
            SinkKind::Redis => !verb.is_purge() && verb != Verb::Lookup,
            SinkKind::Fastly | SinkKind::CloudFront | SinkKind::Http => verb.is_purge(),
        }
    }
}

/// One thing to do.
///
/// The value is what the rule's template rendered: without the sink's `prefix` and `tag_key`,
/// which the sink adds. It is arbitrary bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action<'a> {
    /// What to do.
    pub verb: Verb,
    /// What to do it to.
    pub value: &'a [u8],
}

impl<'a> Action<'a> {
    /// Purge everything of a sink.
    pub const PURGE_ALL: Action<'static> = Action { verb: Verb::PurgeAll, value: EVERYTHING };

    /// What a person calls the value: without the channel of a message, and without a time.
    pub fn shown(&self) -> &'a [u8] {
        match self.verb {
            Verb::Publish => self.message().1,
            verb if verb.expires() => self.head_and_rest().1,
            _ => self.value,
        }
    }

    /// The address, as it stands in the value, and the text of a [`Verb::Publish`].
    pub fn message(&self) -> (&'a [u8], &'a [u8]) {
        self.head_and_rest()
    }

    /// How long a verb that expires leaves a key at most; `None` for the others. What is no time
    /// leaves nothing.
    pub fn expire_in(&self) -> Option<Duration> {
        self.verb.expires().then(|| {
            let head = std::str::from_utf8(self.head_and_rest().0).ok();
            Duration::from_millis(head.and_then(|head| head.parse().ok()).unwrap_or_default())
        })
    }

    /// The same in whole milliseconds, as others read it.
    pub fn expire_in_ms(&self) -> Option<u64> {
        self.expire_in().map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    /// What stands before a verb's own value where that has a head, and the value.
    fn head_and_rest(&self) -> (&'a [u8], &'a [u8]) {
        match self.value.iter().position(|&byte| byte == 0) {
            Some(end) => (&self.value[..end], &self.value[end + 1..]),
            None => (&[], self.value),
        }
    }
}

/// What marks a stream's address: no channel has a control character.
const STREAM_MARK: u8 = 1;

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// To whoever listens to a channel now (PUBLISH).
    Channel(&'a [u8]),
    /// To a stream that keeps about so many entries (XADD).
    Stream {
        /// Its key, without the sink's prefix.
        key: &'a [u8],
        /// How many entries are kept, in decimal.
        maxlen: &'a [u8],
    },
}

impl<'a> Address<'a> {
    /// Reads it from the front of a message's value.
    pub fn read(address: &'a [u8]) -> Self {
        let stream = address.strip_prefix(&[STREAM_MARK]);
        let parts = stream.and_then(|stream| {
            let at = stream.iter().position(|&byte| byte == b':')?;
            Some((&stream[..at], &stream[at + 1..]))
        });
        match parts {
            Some((maxlen, key)) => Address::Stream { key, maxlen },
            None => Address::Channel(address),
        }
    }

    /// A stream's address, as it stands in a value.
    pub fn stream(key: &str, maxlen: u64) -> String {
        format!("{}{maxlen}:{key}", char::from(STREAM_MARK))
    }
}

/// Actions that a sink gets together, in one buffer.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Verb and end of each value in `bytes`; it starts where the one before ends.
    entries: Vec<(Verb, u32)>,
    /// Of purges: the ends of the oldest and the newest transaction that they belong to, as far as
    /// those are known; zero: they are not. An action that stands for many belongs to the oldest
    /// of them, and a transaction may ask for the same again: so a range may come twice, and does
    /// not tell two batches apart.
    pub range: (Lsn, Lsn),
}

impl Batch {
    /// The number of actions.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The values' length in bytes, together.
    pub fn value_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds an action.
    pub fn push(&mut self, action: Action<'_>) {
        self.bytes.extend_from_slice(action.value);
        self.entries.push((action.verb, self.bytes.len() as u32));
    }

    /// The action at `index`.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, index: usize) -> Action<'_> {
        let start = if index == 0 { 0 } else { self.entries[index - 1].1 as usize };
        let (verb, end) = self.entries[index];
        Action { verb, value: &self.bytes[start..end as usize] }
    }

    /// The actions in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = Action<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Drops every action but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.entries.truncate(len);
        self.bytes.truncate(self.entries.last().map_or(0, |&(_, end)| end as usize));
    }

    /// Empties the batch and keeps its memory for the next one.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.range = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_shows_its_key_and_its_time() {
        let action = Action { verb: Verb::Expire, value: b"1500\0a\0b" };
        assert_eq!((action.shown(), action.expire_in_ms()), (&b"a\0b"[..], Some(1500)));
        let action = Action { verb: Verb::Delete, value: b"1500\0a" };
        assert_eq!((action.shown(), action.expire_in_ms()), (&b"1500\0a"[..], None));
        // From a file that somebody has edited.
        assert_eq!(Action { verb: Verb::Expire, value: b"a" }.expire_in_ms(), Some(0));
    }

    #[test]
    fn a_batch_gives_back_what_was_added_in_order() {
        let mut batch = Batch::default();
        let added = [(Verb::Delete, &b"a"[..]), (Verb::Bump, b""), (Verb::Tag, b"long \xff value")];
        for (verb, value) in added {
            batch.push(Action { verb, value });
        }
        let got: Vec<_> = batch.iter().map(|action| (action.verb, action.value)).collect();
        assert_eq!(got, added);
    }
}
