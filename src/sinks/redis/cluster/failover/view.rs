//! Who has which history of writes now, as far as the nodes have said? Pure.
//!
//! A place where something was done is *there* if its node says that it is a master with the same
//! history, and sees a majority of the others: then none of these can have replaced it without its
//! knowledge. It is *gone* if the node says something else, or cannot say so and the others
//! do not name it as a master. In between nobody knows, and nothing follows from that.

use std::collections::HashMap;
use std::time::Instant;

use super::super::super::config::NodeAddress;
use super::home::Home;

/// What one node has said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Its history, if it is a master.
    pub(super) history: Option<String>,
    /// Whether the cluster works, as it sees it: a master that is cut off from the others says no.
    pub(super) is_ok: bool,
    /// The highest configuration epoch that it has heard of.
    pub(super) epoch: u64,
}

/// What the nodes have said at a time.
#[derive(Debug)]
pub(super) struct View {
    /// When the first of them was asked.
    pub(super) at: Instant,
    /// Counts the views.
    pub(super) number: u64,
    /// Who was asked; `None`: there was no answer.
    pub(super) said: HashMap<NodeAddress, Option<Said>>,
    /// The masters that serve slots, as a node says for which the cluster works.
    pub(super) masters: Option<Vec<NodeAddress>>,
}

/// What has become of a place where something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// What was done there is there.
    There,
    /// Its node has another history, or another node its slots.
    Gone,
    /// Nobody knows.
    Unknown,
}

impl View {
    pub(super) fn state(&self, home: &Home) -> State {
        if home.is_unknown() {
            return State::Gone;
        }
        let Some(said) = self.said.get(&home.node) else { return State::Unknown };
        if let Some(said) = said {
            if said.history.as_ref() != Some(&home.history) {
                return State::Gone;
            }
            if said.is_ok {
                return State::There;
            }
        }
        match &self.masters {
            Some(masters) if !masters.contains(&home.node) => State::Gone,
            _ => State::Unknown,
        }
    }

    /// Whether a connection to `node` that was made in its history `history` tells where things are
    /// done that go over it now.
    pub(super) fn contradicts(&self, node: &NodeAddress, history: &str) -> bool {
        let said = self.said.get(node).and_then(Option::as_ref);
        said.is_some_and(|said| said.history.as_deref() != Some(history))
    }
}

/// What `CLUSTER INFO` says: whether the cluster works, and the highest epoch.
pub(in super::super) fn read_info(info: &str) -> (bool, u64) {
    let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let epoch = value("cluster_current_epoch:").and_then(|epoch| epoch.parse().ok());
    (value("cluster_state:") == Some("ok"), epoch.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str) -> NodeAddress {
        NodeAddress { host: host.to_owned(), port: 1 }
    }

    /// A node's history, if it is a master, and whether the cluster works as it sees it.
    type Answer<'a> = Option<(Option<&'a str>, bool)>;

    fn view(said: &[(&str, Answer<'_>)], masters: Option<&[&str]>) -> View {
        let said = said.iter().map(|(host, said)| {
            let said = said.map(|(history, is_ok)| Said {
                history: history.map(str::to_owned),
                is_ok,
                epoch: 0,
            });
            (node(host), said)
        });
        let masters = masters.map(|masters| masters.iter().map(|host| node(host)).collect());
        View { at: Instant::now(), number: 1, said: said.collect(), masters }
    }

    fn state(view: &View, host: &str, history: &str) -> State {
        view.state(&Home { node: node(host), history: history.to_owned() })
    }

    #[test]
    fn a_master_that_sees_the_others_is_there_whatever_slots_it_has() {
        for masters in [None, Some(&["a"][..]), Some(&["b"][..])] {
            let view = view(&[("a", Some((Some("1"), true)))], masters);
            assert_eq!(state(&view, "a", "1"), State::There);
            assert_eq!(state(&view, "a", "2"), State::Gone);
            assert_eq!(state(&view, "b", "1"), State::Unknown, "it was not asked");
        }
    }

    #[test]
    fn who_is_cut_off_or_silent_is_gone_only_if_the_others_say_so() {
        for said in [None, Some((Some("1"), false))] {
            let state = |masters| state(&view(&[("a", said)], masters), "a", "1");
            assert_eq!(state(None), State::Unknown);
            assert_eq!(state(Some(&["a", "b"])), State::Unknown);
            assert_eq!(state(Some(&["b"])), State::Gone);
        }
    }

    #[test]
    fn a_replica_has_nothing_that_counts() {
        let view = view(&[("a", Some((None, true)))], Some(&["a"]));
        assert_eq!(state(&view, "a", "1"), State::Gone);
        assert_eq!(state(&view, "a", ""), State::Gone);
        assert!(view.contradicts(&node("a"), "1") && !view.contradicts(&node("b"), "1"));
    }

    #[test]
    fn the_state_of_the_cluster_is_read() {
        let info = "cluster_state:ok\r\ncluster_slots_ok:16384\r\ncluster_current_epoch:6\r\n";
        assert_eq!(read_info(info), (true, 6));
        assert_eq!(read_info("cluster_state:fail\r\n"), (false, 0));
        assert_eq!(read_info(""), (false, 0));
    }
}
