//! What becomes of the keys that a pass over all of them finds? Pure: no I/O.
//!
//! Patterns that delete and patterns that cut the time share a pass. A key that several match gets
//! the strongest of what they ask for, which does for the others as well.

use std::time::Duration;

use super::config::RedisConfig;
use super::scan::Pass;
use crate::action::{Batch, Verb};
use crate::glob::Glob;

/// What is done to a key; the stronger, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    /// It is deleted.
    Delete,
    /// It is left so much time at most.
    Cut(Duration),
}

/// A batch's patterns of keys to be deleted or cut, the strongest first.
pub(super) struct Hunts(Vec<Hunt>);

struct Hunt {
    deed: Deed,
    /// As keys in Redis show it.
    pattern: Vec<u8>,
    glob: Glob,
}

impl Hunts {
    /// Those of a batch.
    pub(super) fn new(batch: &Batch, config: &RedisConfig) -> Self {
        let hunt = |action: crate::action::Action<'_>| {
            let deed = match (action.verb, action.expire_in()) {
                (Verb::DeleteMatching, _) => Deed::Delete,
                (Verb::ExpireMatching, Some(time)) => Deed::Cut(time),
                _ => return None,
            };
            let pattern = config.key_pattern(action.shown());
            Some(Hunt { deed, glob: Glob::new(&pattern), pattern })
        };
        let mut hunts: Vec<Hunt> = batch.iter().filter_map(hunt).collect();
        hunts.sort_by_key(|hunt| hunt.deed);
        Hunts(hunts)
    }

    /// What a later send of the same batch is known by.
    pub(super) fn patterns(&self) -> Vec<Vec<u8>> {
        self.0.iter().map(|hunt| hunt.pattern.clone()).collect()
    }

    /// A pass that brings all keys that are meant.
    pub(super) fn pass(&self) -> Pass {
        Pass::new(&self.patterns(), None)
    }

    /// What becomes of a key that the pass has brought.
    pub(super) fn deed(&self, key: &[u8]) -> Option<Deed> {
        match &self.0[..] {
            // The server has matched it.
            [hunt] => Some(hunt.deed),
            hunts => Some(hunts.iter().find(|hunt| hunt.glob.matches(key))?.deed),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::action::Action;
    use crate::sinks::redis::RedisOptions;

    #[test]
    fn a_key_gets_the_strongest_of_what_is_asked_for_it() {
        let config = RedisConfig::new(RedisOptions {
            prefix: "p:".into(),
            ..RedisOptions::new("cache", "redis://h")
        });
        let mut batch = Batch::default();
        for (verb, value) in [
            (Verb::ExpireMatching, &b"3000\0*"[..]),
            (Verb::DeleteMatching, b"a*"),
            (Verb::ExpireMatching, b"2000\0?b*"),
            (Verb::Delete, b"z"),
        ] {
            batch.push(Action { verb, value });
        }
        let hunts = Hunts::new(&batch, &config.unwrap());
        let deed = |key: &str| hunts.deed(key.as_bytes());
        assert_eq!(deed("p:ab"), Some(Deed::Delete));
        assert_eq!(deed("p:bb"), Some(Deed::Cut(Duration::from_secs(2))));
        assert_eq!(deed("p:z"), Some(Deed::Cut(Duration::from_secs(3))));
        assert_eq!(deed("q:z"), None);
    }
}
