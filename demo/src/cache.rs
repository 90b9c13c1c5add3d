//! The shop's cache, filled as its reads would fill it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use testkit::redis::{Client, Redis, Reply};

use crate::shop;

/// The cache, by a connection of the shop's own.
pub(crate) struct Cache {
    client: Client,
    /// Every key that was ever put into it.
    filled: BTreeSet<String>,
}

impl Cache {
    /// Fills the cache.
    pub(crate) fn fill(redis: &Redis) -> Result<Self> {
        let mut cache = Cache { client: redis.client()?, filled: BTreeSet::new() };
        cache.read_through(&shop::cached_keys())?;
        let foreign: Vec<_> = shop::FOREIGN.iter().map(ToString::to_string).collect();
        cache.read_through(&foreign)?;
        for (key, value) in shop::VERSIONS {
            cache.run(vec![vec!["SET", key, value]])?;
            cache.filled.insert((*key).to_owned());
        }
        for (tag, keys) in shop::TAGGED {
            // One step, or a key could be cached and not be listed under its tag.
            let tag = format!("tags:{tag}");
            let mut commands = vec![vec!["MULTI"]];
            for key in *keys {
                commands.extend([vec!["SET", key, "cached"], vec!["SADD", &tag, key]]);
                cache.filled.insert((*key).to_owned());
            }
            commands.push(vec!["EXEC"]);
            cache.run(commands)?;
        }
        Ok(cache)
    }

    /// Reads something through the cache: what is not there is put there.
    pub(crate) fn read_through(&mut self, keys: &[String]) -> Result<()> {
        self.run(keys.iter().map(|key| vec!["SET", key, "cached", "NX"]).collect())?;
        self.filled.extend(keys.iter().cloned());
        Ok(())
    }

    /// The values of some keys.
    pub(crate) fn values(&mut self, keys: &[String]) -> Result<Vec<String>> {
        let replies = self.run(keys.iter().map(|key| vec!["GET", key]).collect())?;
        Ok(replies.iter().map(ToString::to_string).collect())
    }

    /// The keys that were put into it, and those of them that are still there.
    pub(crate) fn filled_and_left(&mut self) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        let filled = self.filled.clone();
        let replies = self.run(filled.iter().map(|key| vec!["EXISTS", key]).collect())?;
        let there = filled.iter().zip(replies).filter(|(_, reply)| *reply == Reply::Int(1));
        let left = there.map(|(key, _)| key.clone()).collect();
        Ok((filled, left))
    }

    fn run(&mut self, commands: Vec<Vec<&str>>) -> Result<Vec<Reply>> {
        let replies = self.client.pipeline(&commands).context("the cache does not answer")?;
        for reply in &replies {
            ensure!(!reply.is_error(), "the cache refused: {reply}");
        }
        Ok(replies)
    }
}
