//! Where was something done? At a node, in one history of its writes; and the note of all such
//! places, as it is kept over restarts. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::super::super::config::NodeAddress;

/// What stands in a note beside its places where tags were invalidated with members in other slots
/// than their sets.
const MEMBERS: &str = "+members";

/// One history of writes, at the node that had it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Home {
    pub(super) node: NodeAddress,
    /// `master_replid`, which is another one after each restart and each promotion, and never comes
    /// back; empty: the node was no master when it was asked.
    pub(super) history: String,
}

/// Places that something depends on.
pub(super) type Homes = Arc<BTreeSet<Home>>;

impl Home {
    /// Where nobody knows what was done.
    fn unknown() -> Self {
        Home { node: NodeAddress { host: String::new(), port: 0 }, history: String::new() }
    }

    /// Whether no node can have it.
    pub(super) fn is_unknown(&self) -> bool {
        self.node.host.is_empty()
    }

    fn parse(text: &str) -> Option<Self> {
        let (node, history) = text.rsplit_once('#')?;
        let (host, port) = node.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let node = NodeAddress { host: host.to_owned(), port: port.parse().ok()? };
        Some(Home { node, history: history.to_owned() })
    }
}

/// As it is noted: `HOST:PORT#HISTORY`.
impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.node, self.history)
    }
}

/// What is kept of a sink over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// Where anything was done of which it is not certain that it lasts.
    pub(super) homes: Homes,
    /// Whether members of tags were taken off lists that lie in other slots.
    pub(super) has_members: bool,
}

impl Note {
    /// Reads what [`Display`](fmt::Display) wrote. What makes no sense names a place that no node
    /// has.
    pub(super) fn parse(text: &str) -> Self {
        let has_members = text.split(' ').any(|word| word == MEMBERS);
        let words = text.split(' ').filter(|word| *word != MEMBERS);
        let homes = words.map(|word| Home::parse(word).unwrap_or_else(Home::unknown));
        Note { homes: Arc::new(homes.collect()), has_members }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<_> = self.homes.iter().map(Home::to_string).collect();
        words.extend(self.has_members.then(|| MEMBERS.to_owned()));
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let home = |host: &str, history: &str| Home {
            node: NodeAddress { host: host.to_owned(), port: 7 },
            history: history.to_owned(),
        };
        let homes = BTreeSet::from([home("a", "1f"), home("::1", "2f"), home("b", "")]);
        for has_members in [false, true] {
            let note = Note { homes: Arc::new(homes.clone()), has_members };
            assert_eq!(Note::parse(&note.to_string()), note, "{note}");
        }
        assert!(homes.iter().all(|home| !home.is_unknown()));
    }

    #[test]
    fn what_makes_no_sense_names_a_place_that_no_node_has() {
        for text in ["", "8f3a", "a:b#1", "a:1"] {
            let note = Note::parse(text);
            assert!(note.homes.len() == 1 && note.homes.iter().all(Home::is_unknown), "{text}");
        }
    }
}
