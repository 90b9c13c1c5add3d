//! Does a key match any of many patterns? Without asking each of them, where what they start with
//! differs. Pure.

use std::collections::HashMap;

use super::Glob;

/// Patterns, by the bytes with which all that they match starts.
///
/// A thousand patterns such as `list:7:*` have prefixes of three or four lengths, so that a key is
/// looked up three or four times, and compared with the one or two patterns that it may match.
#[derive(Clone, Debug, Default)]
pub struct GlobSet {
    by_prefix: HashMap<Vec<u8>, Vec<Glob>>,
    /// The lengths of all prefixes, each once, the shortest first.
    lengths: Vec<usize>,
}

impl GlobSet {
    /// Of these patterns.
    pub fn new(globs: Vec<Glob>) -> Self {
        let mut set = GlobSet::default();
        for glob in globs {
            let prefix = glob.literal_prefix();
            set.lengths.push(prefix.len());
            set.by_prefix.entry(prefix).or_default().push(glob);
        }
        set.lengths.sort_unstable();
        set.lengths.dedup();
        set
    }

    /// Whether there is no pattern, so that nothing matches.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Whether `key` matches one of them.
    pub fn matches(&self, key: &[u8]) -> bool {
        self.lengths.iter().map_while(|&length| key.get(..length)).any(|prefix| {
            let globs = self.by_prefix.get(prefix);
            globs.is_some_and(|globs| globs.iter().any(|glob| glob.matches(key)))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(patterns: &[&str]) -> GlobSet {
        GlobSet::new(patterns.iter().map(|pattern| Glob::new(pattern.as_bytes())).collect())
    }

    #[test]
    fn a_key_is_looked_up_by_every_length_of_prefix() {
        let set = set(&["list:7:*", "list:12:*", "list:[ab]:*", "exact", "*:end"]);
        assert_eq!(set.lengths, [0, 5, 7, 8]);
        for key in ["list:7:x", "list:12:", "list:b:1", "exact", "x:end"] {
            assert!(set.matches(key.as_bytes()), "{key}");
        }
        for key in ["", "list:", "list:1:x", "list:c:1", "exactly", "end"] {
            assert!(!set.matches(key.as_bytes()), "{key}");
        }
        assert!(GlobSet::default().is_empty() && !GlobSet::default().matches(b""));
    }

    proptest! {
        #[test]
        fn a_set_matches_what_one_of_its_patterns_does(
            patterns in prop::collection::vec(r"[ab*?\\\[\]]{0,5}", 0..6),
            key in "[ab]{0,6}",
        ) {
            let globs: Vec<_> = patterns.iter().map(|text| Glob::new(text.as_bytes())).collect();
            let any = globs.iter().any(|glob| glob.matches(key.as_bytes()));
            prop_assert_eq!(GlobSet::new(globs).matches(key.as_bytes()), any);
        }
    }
}
