//! Which node serves which slot? What `CLUSTER SLOTS` says, without I/O.
//!
//! Layout: <https://redis.io/docs/latest/commands/cluster-slots/>.

use super::super::config::NodeAddress;
use super::super::slot::SLOTS;
use super::super::wire::Reply;

/// No node serves the slot, as far as is known.
const NOBODY: u16 = u16::MAX;

/// How many nodes are remembered at most. Redis recommends at most 1,000.
const NODES_MAX: usize = 4_096;

/// The masters of a cluster and their slots, as one node saw them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotMap {
    masters: Vec<NodeAddress>,
    replicas: Vec<NodeAddress>,
    /// For each slot, its master's place.
    owners: Vec<u16>,
}

impl SlotMap {
    /// The reply to `CLUSTER SLOTS` of the node `asked`; `None` if it is none, or names nobody.
    pub(super) fn parse(reply: &Reply, asked: &NodeAddress) -> Option<Self> {
        let Reply::Array(ranges) = reply else { return None };
        let owners = vec![NOBODY; SLOTS];
        let mut map = SlotMap { masters: Vec::new(), replicas: Vec::new(), owners };
        for range in ranges {
            let Reply::Array(parts) = range else { return None };
            let [start, end, master, replicas @ ..] = &parts[..] else { return None };
            let (start, end) = (slot(start)?, slot(end)?);
            let owner = map.place(address(master, asked)?)?;
            map.owners.get_mut(start..=end)?.fill(owner);
            for replica in replicas.iter().filter_map(|replica| address(replica, asked)) {
                if map.replicas.len() < NODES_MAX && !map.replicas.contains(&replica) {
                    map.replicas.push(replica);
                }
            }
        }
        (!map.masters.is_empty()).then_some(map)
    }

    /// The master of a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&NodeAddress> {
        self.masters.get(usize::from(*self.owners.get(usize::from(slot))?))
    }

    /// The masters that serve slots, in an order of no meaning.
    pub(super) fn masters(&self) -> &[NodeAddress] {
        &self.masters
    }

    /// All nodes, masters first.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeAddress> {
        self.masters.iter().chain(&self.replicas)
    }

    /// How many slots have a master.
    pub(super) fn covered(&self) -> usize {
        self.owners.iter().filter(|&&owner| owner != NOBODY).count()
    }

    /// A node has said that another one serves a slot.
    pub(super) fn move_slot(&mut self, slot: u16, to: NodeAddress) {
        if let Some(owner) = self.place(to)
            && let Some(place) = self.owners.get_mut(usize::from(slot))
        {
            *place = owner;
        }
    }

    fn place(&mut self, node: NodeAddress) -> Option<u16> {
        let known = self.masters.iter().position(|master| *master == node);
        let place = known.unwrap_or_else(|| {
            self.masters.push(node);
            self.masters.len() - 1
        });
        (place < NODES_MAX).then_some(place as u16)
    }
}

fn slot(reply: &Reply) -> Option<usize> {
    reply.count(SLOTS - 1).map(|slot| slot as usize)
}

/// A node's address: `[endpoint, port, id, [name, value, …]]`. No endpoint means the host that
/// was asked, as behind a NAT; `?` a host name that nobody has told the cluster.
fn address(node: &Reply, asked: &NodeAddress) -> Option<NodeAddress> {
    let Reply::Array(parts) = node else { return None };
    let port = u16::try_from(parts.get(1)?.int()?).ok().filter(|&port| port != 0)?;
    let host = match parts.first()? {
        Reply::Bulk(host) if host == b"?" => metadata(parts.get(3)?, b"ip")?,
        Reply::Bulk(host) => String::from_utf8(host.clone()).ok()?,
        _ => String::new(),
    };
    let host = if host.is_empty() { asked.host.clone() } else { host };
    Some(NodeAddress { host, port })
}

fn metadata(list: &Reply, name: &[u8]) -> Option<String> {
    let Reply::Array(list) = list else { return None };
    let pair = list.chunks_exact(2).find(|pair| pair[0] == Reply::Bulk(name.to_vec()))?;
    let Reply::Bulk(value) = &pair[1] else { return None };
    String::from_utf8(value.clone()).ok()
}

/// Where `MOVED 3999 HOST:PORT` and `ASK 3999 HOST:PORT` lead to. Without a host it is that of the
/// node that `said` so.
pub(super) fn redirection(text: &str, said: &NodeAddress) -> Option<NodeAddress> {
    let target = text.split_ascii_whitespace().nth(2)?;
    let (host, port) = target.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = if host.is_empty() || host == "?" { &said.host } else { host };
    Some(NodeAddress { host: host.to_owned(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    fn node(host: &str, port: u16) -> NodeAddress {
        NodeAddress { host: host.to_owned(), port }
    }

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.as_bytes().to_vec())
    }

    fn range(start: i64, end: i64, nodes: &[(Reply, i64)]) -> Reply {
        let node = |(host, port): &(Reply, i64)| {
            let host = match host {
                Reply::Bulk(host) => Reply::Bulk(host.clone()),
                _ => Reply::Nil,
            };
            let metadata = Reply::Array(vec![bulk("ip"), bulk("10.0.0.9")]);
            Reply::Array(vec![host, Reply::Int(*port), bulk("id"), metadata])
        };
        let mut parts = vec![Reply::Int(start), Reply::Int(end)];
        parts.extend(nodes.iter().map(node));
        Reply::Array(parts)
    }

    #[test]
    fn a_map_knows_each_slots_master_and_all_nodes() {
        let reply = Reply::Array(vec![
            range(0, 5, &[(bulk("a"), 1), (bulk("b"), 2)]),
            range(6, 6, &[(Reply::Nil, 3)]),
            range(7, 16_383, &[(bulk("?"), 4)]),
        ]);
        let mut map = SlotMap::parse(&reply, &node("asked", 9)).unwrap();
        assert_eq!(map.owner(5), Some(&node("a", 1)));
        assert_eq!(map.owner(6), Some(&node("asked", 3)));
        assert_eq!(map.owner(16_383), Some(&node("10.0.0.9", 4)));
        assert_eq!((map.nodes().count(), map.masters().len(), map.covered()), (4, 3, SLOTS));
        map.move_slot(6, node("new", 7));
        assert_eq!(map.owner(6), Some(&node("new", 7)));
        assert_eq!(map.owner(5), Some(&node("a", 1)));
    }

    #[test]
    fn what_is_no_map_is_refused() {
        let asked = node("asked", 9);
        for reply in [
            Reply::Nil,
            Reply::Array(Vec::new()),
            Reply::Array(vec![Reply::Int(1)]),
            Reply::Array(vec![range(0, 16_384, &[(bulk("a"), 1)])]),
            Reply::Array(vec![range(2, 1, &[(bulk("a"), 1)])]),
            Reply::Array(vec![range(0, 1, &[(bulk("a"), 0)])]),
            Reply::Array(vec![range(0, 1, &[])]),
        ] {
            // A range that ends before it starts covers nothing, and panics least of all.
            if let Some(map) = SlotMap::parse(&reply, &asked) {
                assert_eq!(map.covered(), 0);
            }
        }
    }

    #[test]
    fn redirections_lead_to_a_node() {
        let said = node("said", 1);
        let to = |text| redirection(text, &said);
        assert_eq!(to("MOVED 3999 127.0.0.1:6381"), Some(node("127.0.0.1", 6381)));
        assert_eq!(to("ASK 3999 [::1]:6381"), Some(node("::1", 6381)));
        assert_eq!(to("ASK 3999 ::1:6381"), Some(node("::1", 6381)));
        assert_eq!(to("MOVED 3999 :6381"), Some(node("said", 6381)));
        assert_eq!(to("MOVED 3999"), None);
        assert_eq!(to("MOVED 3999 host:port"), None);
    }
}
