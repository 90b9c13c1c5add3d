//! What becomes of the keys that a pass over all of them finds? Pure: no I/O.
//!
//! Patterns that delete and patterns that cut the time share a pass. A key that several match gets
//! the strongest of what they ask for, which does for the others as well.
//!
//! Where all patterns want keys of one type the server leaves out the others (`SCAN … TYPE`); else
//! keys are asked for their types of which that decides anything.

use std::time::Duration;

use super::config::RedisConfig;
use super::scan::Pass;
use crate::action::{Action, Batch, Verb};
use crate::glob::Glob;
use crate::key_type::KeyType;

/// What is done to a key; the stronger, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    /// It is deleted.
    Delete,
    /// It is left so much time at most.
    Cut(Duration),
}

/// A batch's patterns of keys to be deleted or cut, the strongest first.
pub(super) struct Hunts {
    hunts: Vec<Hunt>,
    /// Of which type all of them want keys to be: then the server leaves out the others.
    all_of: Option<KeyType>,
    /// What all of them do, to keys of the same type if of any: then it does not matter which of
    /// them matches.
    all_do: Option<Deed>,
}

struct Hunt {
    deed: Deed,
    /// Of which type keys have to be.
    of: Option<KeyType>,
    /// As keys in Redis show it.
    pattern: Vec<u8>,
    glob: Glob,
}

/// What is known of a key by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing happens to it.
    Spared,
    /// This is done to it.
    Meets(Deed),
    /// That depends on its type.
    Depends,
}

impl Hunts {
    /// Those of a batch.
    pub(super) fn new(batch: &Batch, config: &RedisConfig) -> Self {
        let hunt = |action: Action<'_>| {
            let deed = match (action.verb.untyped(), action.expire_in()) {
                (Verb::DeleteMatching, _) => Deed::Delete,
                (Verb::ExpireMatching, Some(time)) => Deed::Cut(time),
                _ => return None,
            };
            let (of, pattern) = (action.verb.key_type(), config.key_pattern(action.shown()));
            Some(Hunt { deed, of, glob: Glob::new(&pattern), pattern })
        };
        let mut hunts: Vec<Hunt> = batch.iter().filter_map(hunt).collect();
        // Where they do the same, what needs no type comes first.
        hunts.sort_by_key(|hunt| (hunt.deed, hunt.of));
        let first = hunts.first().and_then(|hunt| hunt.of);
        let all_of = first.filter(|_| hunts.iter().all(|hunt| hunt.of == first));
        let deed = hunts.first().map(|hunt| hunt.deed);
        let is_same = hunts.iter().all(|hunt| Some(hunt.deed) == deed && hunt.of == first);
        Hunts { all_do: deed.filter(|_| is_same), hunts, all_of }
    }

    /// What a later send of the same batch is known by.
    pub(super) fn patterns(&self) -> Vec<Vec<u8>> {
        self.hunts.iter().map(|hunt| hunt.pattern.clone()).collect()
    }

    /// A pass that brings all keys that are meant.
    pub(super) fn pass(&self) -> Pass {
        Pass::new(&self.patterns(), self.all_of.map(|of| of.name().as_bytes()))
    }

    /// What becomes of a key that the pass has brought and [matches](Pass::matches).
    pub(super) fn fate(&self, key: &[u8]) -> Fate {
        if let Some(deed) = self.all_do {
            return Fate::Meets(deed);
        }
        match self.matching(key).next() {
            None => Fate::Spared,
            Some(hunt) if hunt.of.is_none() || self.all_of.is_some() => Fate::Meets(hunt.deed),
            Some(_) => Fate::Depends,
        }
    }

    /// What becomes of one whose type, as `TYPE` says it, is asked for because that
    /// [depends](Fate::Depends) on it.
    pub(super) fn deed(&self, key: &[u8], of: &str) -> Option<Deed> {
        let is_meant = |hunt: &&Hunt| hunt.of.is_none_or(|wanted| wanted.name() == of);
        Some(self.matching(key).find(is_meant)?.deed)
    }

    /// The hunts that mean keys of that name.
    fn matching<'h>(&'h self, key: &'h [u8]) -> impl Iterator<Item = &'h Hunt> {
        self.hunts.iter().filter(|hunt| hunt.glob.matches(key))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::sinks::redis::RedisOptions;

    fn hunts(actions: &[(Verb, &[u8])]) -> Hunts {
        let options =
            RedisOptions { prefix: "p:".into(), ..RedisOptions::new("cache", "redis://h") };
        let mut batch = Batch::default();
        actions.iter().for_each(|&(verb, value)| batch.push(Action { verb, value }));
        Hunts::new(&batch, &RedisConfig::new(options).unwrap())
    }

    const TWO: Deed = Deed::Cut(Duration::from_secs(2));
    const THREE: Deed = Deed::Cut(Duration::from_secs(3));

    #[test]
    fn a_key_gets_the_strongest_of_what_is_asked_for_it() {
        let hunts = hunts(&[
            (Verb::ExpireMatching, b"3000\0*"),
            (Verb::DeleteMatching, b"a*"),
            (Verb::ExpireMatching, b"2000\0?b*"),
            (Verb::Delete, b"z"),
        ]);
        let fate = |key: &str| hunts.fate(key.as_bytes());
        assert_eq!(fate("p:ab"), Fate::Meets(Deed::Delete));
        assert_eq!(fate("p:bb"), Fate::Meets(TWO));
        assert_eq!(fate("p:z"), Fate::Meets(THREE));
        assert_eq!(fate("q:z"), Fate::Spared);
    }

    #[test]
    fn a_type_is_asked_for_only_where_something_depends_on_it() {
        let (set, hash) = (KeyType::Set, KeyType::Hash);
        let hunts = hunts(&[
            (Verb::DeleteTyped(set), b"a*"),
            (Verb::DeleteTyped(hash), b"*1"),
            (Verb::DeleteMatching, b"ab*"),
            (Verb::ExpireTyped(set), b"2000\0*"),
            (Verb::ExpireMatching, b"3000\0*2"),
        ]);
        let fate = |key: &str| hunts.fate(key.as_bytes());
        let deed = |key: &str, of: &str| hunts.deed(key.as_bytes(), of);
        assert_eq!(fate("p:ab1"), Fate::Meets(Deed::Delete));
        assert_eq!([fate("p:a1"), fate("p:c2"), fate("p:c")], [Fate::Depends; 3]);
        assert_eq!(fate("q:a1"), Fate::Spared);
        assert_eq!([deed("p:a1", "set"), deed("p:a1", "hash")], [Some(Deed::Delete); 2]);
        assert_eq!([deed("p:a1", "string"), deed("p:c", "none")], [None; 2]);
        assert_eq!([deed("p:c2", "set"), deed("p:c2", "list")], [Some(TWO), Some(THREE)]);
    }

    #[test]
    fn the_server_leaves_out_other_types_where_all_patterns_want_one() {
        let set = KeyType::Set;
        let same = hunts(&[(Verb::DeleteTyped(set), b"a*"), (Verb::ExpireTyped(set), b"2000\0*")]);
        assert_eq!(same.fate(b"p:a"), Fate::Meets(Deed::Delete));
        assert_eq!(same.fate(b"p:b"), Fate::Meets(TWO));
        assert_eq!(same.all_of, Some(set));
        for other in [Verb::DeleteMatching, Verb::DeleteTyped(KeyType::Hash)] {
            assert_eq!(hunts(&[(Verb::DeleteTyped(set), b"a*"), (other, b"b")]).all_of, None);
        }
    }
}
