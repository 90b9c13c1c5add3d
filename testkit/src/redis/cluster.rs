//! A private Redis Cluster: masters, each with a replica.

use std::time::Duration;

use super::{Builder, Redis, Reply};
use crate::free_port;

/// How long a cluster may take to agree, on a busy machine.
const AGREES_WITHIN: Duration = Duration::from_secs(60);

/// How many slots there are.
const SLOTS: usize = 16_384;

/// Masters and their replicas on free ports, killed and removed on drop.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters first, then their replicas in the same order.
    nodes: Vec<Redis>,
    masters: usize,
    /// Ports under which nodes are known besides their own, with their numbers.
    announced: Vec<(u16, usize)>,
}

impl RedisCluster {
    /// Starts `masters` masters, each with a replica if `replicas`. A master that does not answer
    /// for `node_timeout` is replaced by its replica.
    ///
    /// # Panics
    ///
    /// When the nodes do not start, or do not agree.
    #[track_caller]
    pub fn start(masters: usize, replicas: bool, node_timeout: Duration) -> Self {
        Self::with(masters, replicas, node_timeout, |_, builder| builder)
    }

    /// The same; `change` gets each node's number and settings.
    ///
    /// # Panics
    ///
    /// When the nodes do not start, or do not agree.
    #[track_caller]
    pub fn with(
        masters: usize,
        replicas: bool,
        node_timeout: Duration,
        change: impl Fn(usize, Builder) -> Builder,
    ) -> Self {
        let count = if replicas { 2 * masters } else { masters };
        let timeout = node_timeout.as_millis().to_string();
        let bus_ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let node = |number: usize| {
            let builder = Redis::builder()
                .config("cluster-enabled", "yes")
                .config("cluster-port", &bus_ports[number].to_string())
                .config("cluster-node-timeout", &timeout)
                // A replica stands for election however old its data is.
                .config("cluster-replica-validity-factor", "0")
                .config("cluster-require-full-coverage", "no")
                .config("cluster-allow-replica-migration", "no")
                .config("repl-diskless-sync-delay", "0");
            change(number, builder).start()
        };
        let cluster =
            RedisCluster { nodes: (0..count).map(node).collect(), masters, announced: Vec::new() };
        cluster.join(&bus_ports);
        cluster
    }

    #[track_caller]
    fn join(&self, bus_ports: &[u16]) {
        let share = SLOTS.div_ceil(self.masters);
        for (number, node) in self.nodes.iter().enumerate() {
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            if number < self.masters {
                let (start, end) = (number * share, ((number + 1) * share).min(SLOTS) - 1);
                node.cli(&["CLUSTER", "ADDSLOTSRANGE", &start.to_string(), &end.to_string()]);
            }
        }
        for (node, bus_port) in self.nodes.iter().zip(bus_ports).skip(1) {
            let (port, bus_port) = (node.port().to_string(), bus_port.to_string());
            self.nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port]);
        }
        let count = self.nodes.len();
        self.wait("all nodes know each other", |node| {
            node.cli(&["CLUSTER", "NODES"])
                .lines()
                .filter(|line| line.contains(" connected"))
                .count()
                == count
        });
        for replica in self.masters..count {
            let master = self.id(replica - self.masters);
            self.nodes[replica].cli(&["CLUSTER", "REPLICATE", &master]);
        }
        self.wait_ready();
    }

    /// Waits until every slot is served and every replica follows its master.
    ///
    /// # Panics
    ///
    /// When that takes too long.
    #[track_caller]
    pub fn wait_ready(&self) {
        self.wait("the cluster is whole", |node| {
            let info = node.cli(&["CLUSTER", "INFO"]);
            let replication = node.cli(&["INFO", "replication"]);
            info.contains("cluster_state:ok")
                && info.contains("cluster_slots_ok:16384")
                && (replication.contains("role:master")
                    || replication.contains("master_link_status:up"))
        });
        // A master's own line says so only once the replica has told it.
        let replicas = self.nodes.len() - self.masters;
        self.wait("all know the replicas", |node| {
            let nodes = node.cli(&["CLUSTER", "NODES"]);
            nodes.lines().filter(|line| line.contains("slave")).count() == replicas
        });
    }

    #[track_caller]
    fn wait(&self, what: &str, condition: impl Fn(&Redis) -> bool) {
        crate::wait_until(what, AGREES_WITHIN, || self.nodes.iter().all(&condition));
    }

    /// The node with this number: masters come first, then the replicas of each.
    pub fn node(&self, number: usize) -> &Redis {
        &self.nodes[number]
    }

    /// The same, to be stopped.
    pub fn node_mut(&mut self, number: usize) -> &mut Redis {
        &mut self.nodes[number]
    }

    /// The replica of the master with this number.
    pub fn replica_of(&self, master: usize) -> &Redis {
        &self.nodes[self.masters + master]
    }

    /// The URLs of the masters, as they were at the start.
    pub fn urls(&self) -> Vec<String> {
        let masters = self.nodes[..self.masters].iter();
        masters.map(|node| node.url().replace("/0", "")).collect()
    }

    /// A node's id.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[track_caller]
    pub fn id(&self, number: usize) -> String {
        self.nodes[number].cli(&["CLUSTER", "MYID"])
    }

    /// The slot of a key, as the last node says, which tests leave alone.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[track_caller]
    pub fn slot(&self, key: &str) -> u16 {
        let last = self.nodes.len() - 1;
        self.nodes[last].cli(&["CLUSTER", "KEYSLOT", key]).parse().expect("a slot")
    }

    /// Which master serves a slot at the start, by its number.
    pub fn home(&self, slot: u16) -> usize {
        usize::from(slot) / SLOTS.div_ceil(self.masters)
    }

    /// Runs a command about a key wherever the key is now.
    ///
    /// # Panics
    ///
    /// When no node does it.
    #[track_caller]
    pub fn at_key<A: AsRef<[u8]>>(&self, key: &str, args: &[A]) -> Reply {
        let slot = self.slot(key);
        let mut number = self.home(slot);
        if self.nodes[number].pid().is_none() {
            // Its replica has taken over, or knows who has.
            number += self.masters;
        }
        let mut asking = false;
        for _ in 0..20 {
            let node = &self.nodes[number];
            // ASKING is about the next command of the same connection.
            if asking {
                node.cli(&["ASKING"]);
            }
            let text = match node.cmd(args) {
                Reply::Error(text) if text.starts_with("MOVED") || text.starts_with("ASK") => text,
                reply => return reply,
            };
            asking = text.starts_with("ASK");
            let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            let Some(Ok(port)) = port else { panic!("{text}") };
            let announced = self.announced.iter().find(|(other, _)| *other == port);
            number = match announced {
                Some(&(_, number)) => number,
                None => {
                    let known = self.nodes.iter().position(|node| node.port() == port);
                    known.expect("a node of ours")
                }
            };
        }
        panic!("no node serves {key}");
    }

    /// Makes the cluster name another port for a node, such as a proxy's.
    ///
    /// # Panics
    ///
    /// When the nodes do not agree on it.
    #[track_caller]
    pub fn announce(&mut self, number: usize, port: u16) {
        self.nodes[number].cli(&["CONFIG", "SET", "cluster-announce-port", &port.to_string()]);
        self.announced.push((port, number));
        let text = format!(":{port}@");
        self.wait("all know the announced port", |node| {
            node.cli(&["CLUSTER", "NODES"]).contains(&text)
        });
    }

    /// Opens a slot for a move from one master to another.
    ///
    /// # Panics
    ///
    /// When they refuse.
    #[track_caller]
    pub fn open_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, from_id, to_id) = (slot.to_string(), self.id(from), self.id(to));
        self.nodes[to].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        self.nodes[from].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    }

    /// Moves at most `count` keys of an open slot: how many there were.
    ///
    /// # Panics
    ///
    /// When they refuse.
    #[track_caller]
    pub fn move_keys(&self, slot: u16, from: usize, to: usize, count: usize) -> usize {
        let keys = self.nodes[from].cmd(&[
            "CLUSTER",
            "GETKEYSINSLOT",
            &slot.to_string(),
            &count.to_string(),
        ]);
        let Reply::Array(Some(keys)) = keys else { panic!("{keys}") };
        let port = self.nodes[to].port().to_string();
        for key in &keys {
            let Reply::Bulk(Some(key)) = key else { panic!("{key}") };
            // A key that is deleted meanwhile is answered by NOKEY.
            let moved = self.nodes[from].cmd(&[
                b"MIGRATE",
                &b"127.0.0.1"[..],
                port.as_bytes(),
                key,
                b"0",
                b"10000",
            ]);
            assert!(!moved.is_error(), "{moved}");
        }
        keys.len()
    }

    /// Ends a move: the slot is its new master's.
    ///
    /// # Panics
    ///
    /// When they refuse.
    #[track_caller]
    pub fn close_move(&self, slot: u16, to: usize) {
        let id = self.id(to);
        let masters = (0..self.masters).filter(|&number| number != to);
        for number in std::iter::once(to).chain(masters) {
            self.nodes[number].cli(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]);
        }
    }
}
