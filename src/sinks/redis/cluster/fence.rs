//! Have keys come to a node since a moment? What `CLUSTER NODES` says of the node itself.
//!
//! A scan of a node counts as complete only for keys that were there from its start to its end. A
//! key that comes from another node, with its slot, may be met by neither's scan: it was not here yet,
//! and is not there any more. Keys come only to a node that is importing a slot or has got one, and
//! a node shows both in its own line. Layout: <https://redis.io/docs/latest/commands/cluster-nodes/>.

use super::super::wire::Reply;

/// What a node says of itself: its id, its config epoch and its slots, those that move included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fence(String);

impl Fence {
    /// The reply to `CLUSTER NODES`; `None` if the node is no master.
    pub(super) fn parse(reply: &Reply) -> Option<Self> {
        let Reply::Bulk(text) = reply else { return None };
        let text = String::from_utf8_lossy(text);
        let own = text.lines().find_map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let flags: Vec<_> = words.get(2)?.split(',').collect();
            flags.contains(&"myself").then_some((words, flags))
        });
        let (words, flags) = own.filter(|(_, flags)| flags.contains(&"master"))?;
        debug_assert!(flags.contains(&"master"), "replicas are left out");
        // id address flags master ping pong epoch link slots…
        let (id, rest) = (words.first()?, words.get(6)?);
        let slots = words.get(8..).unwrap_or_default().join(" ");
        Some(Fence(format!("{id} {rest} {slots}")))
    }

    /// Whether keys may be on their way to it.
    pub(super) fn is_importing(&self) -> bool {
        self.0.contains("-<-")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    fn fence(own: &str) -> Option<Fence> {
        let text = format!(
            "07c3 127.0.0.1:30004@31004 slave e7d1 0 1426238317239 4 connected\n\
             e7d1 127.0.0.1:30001@31001,host {own}\n\
             67ed 127.0.0.1:30002@31002 master - 0 1426238316232 2 connected 5461-10922\n"
        );
        Fence::parse(&Reply::Bulk(text.into_bytes()))
    }

    #[test]
    fn a_fence_tells_slots_that_come_from_time_that_passes() {
        let before = fence("myself,master - 0 0 1 connected 0-5460").unwrap();
        assert_eq!(fence("myself,master - 9 9 1 connected 0-5460").unwrap(), before);
        assert_ne!(fence("myself,master - 0 0 1 connected 0-5461").unwrap(), before);
        assert_ne!(fence("myself,master - 0 0 8 connected 0-5460").unwrap(), before);
        assert!(!before.is_importing());
        let importing = fence("myself,master - 0 0 1 connected 0-5460 [93-<-67ed]").unwrap();
        assert!(importing.is_importing() && importing != before);
        assert!(
            !fence("myself,master - 0 0 1 connected 0-5460 [77->-67ed]").unwrap().is_importing()
        );
        fence("myself,master - 0 0 1 connected").unwrap();
    }

    #[test]
    fn a_replica_has_none() {
        assert_eq!(fence("myself,slave 67ed 0 0 1 connected"), None);
        assert_eq!(Fence::parse(&Reply::Nil), None);
        assert_eq!(Fence::parse(&Reply::Bulk(b"x myself,master".to_vec())), None);
    }
}
