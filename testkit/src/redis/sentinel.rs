//! A master, its replica, and the Sentinels that watch them.

use std::time::Duration;

use super::{Builder, Redis, Reply};
use crate::{holds_within, wait_until};

/// How long an election and what follows may take on a busy machine. A Sentinel that was not
/// scheduled for two seconds distrusts its clock and stands aside for thirty.
const FAILOVER_WITHIN: Duration = Duration::from_secs(90);

/// Two servers and three Sentinels.
#[derive(Debug)]
pub struct Sentinels {
    /// The one that was made the master, and its replica.
    pub servers: [Redis; 2],
    /// The Sentinels.
    pub nodes: Vec<Redis>,
}

impl Sentinels {
    /// The name by which the Sentinels know the master.
    pub const NAME: &str = "main";

    /// Starts all of them. The master counts as down after so long; no less than a second.
    ///
    /// # Panics
    ///
    /// When they do not find each other.
    #[track_caller]
    pub fn start(down_after: Duration) -> Self {
        Self::with(down_after, |builder| builder)
    }

    /// Starts all of them, with servers that `change` makes other than usual.
    ///
    /// # Panics
    ///
    /// When they do not find each other.
    #[track_caller]
    pub fn with(down_after: Duration, change: impl Fn(Builder) -> Builder) -> Self {
        Self::of(down_after, change, |builder| builder)
    }

    /// Starts all of them, with servers and Sentinels other than usual.
    ///
    /// # Panics
    ///
    /// When they do not find each other.
    #[track_caller]
    pub fn of(
        down_after: Duration,
        change: impl Fn(Builder) -> Builder,
        change_node: impl Fn(Builder) -> Builder,
    ) -> Self {
        // The replica gets the data over its connection at once, and is behind by nothing.
        let server = || {
            let builder = Redis::builder().config("repl-diskless-sync-delay", "0");
            change(builder.config("repl-ping-replica-period", "1"))
        };
        let master = server().start();
        let replica = server().start();
        replica.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
        let servers = [master, replica];
        wait_until("the replica follows", FAILOVER_WITHIN, || is_followed(&servers[0]));
        let (name, millis) = (Self::NAME, down_after.as_millis());
        let node = |_| {
            let builder = Redis::builder()
                .sentinel()
                .config("sentinel", &format!("monitor {name} 127.0.0.1 {} 2", servers[0].port()))
                .config("sentinel", &format!("down-after-milliseconds {name} {millis}"))
                .config("sentinel", &format!("failover-timeout {name} 10000"));
            change_node(builder).start()
        };
        let nodes: Vec<_> = (0..3).map(node).collect();
        let know_all = |node: &Redis| {
            node.field(Self::NAME, "num-other-sentinels").as_deref() == Some("2")
                && node.field(Self::NAME, "num-slaves").as_deref() == Some("1")
        };
        wait_until("the Sentinels know each other", FAILOVER_WITHIN, || nodes.iter().all(know_all));
        Sentinels { servers, nodes }
    }

    /// The value of `sentinel` in a configuration.
    pub fn toml(&self) -> String {
        let (name, urls) = (Self::NAME, self.urls());
        let urls: Vec<_> = urls.iter().map(|url| format!("{url:?}")).collect();
        format!("{{ master = {name:?}, nodes = [{}] }}", urls.join(", "))
    }

    /// The URLs of the Sentinels.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.url().replace("/0", "")).collect()
    }

    /// The name by which they know the master.
    pub fn name(&self) -> &'static str {
        Self::NAME
    }

    /// Whether every running Sentinel names this server.
    pub fn all_name(&self, server: &Redis) -> bool {
        let port = server.port().to_string();
        let running = self.nodes.iter().filter(|node| node.pid().is_some());
        running.into_iter().all(|node| node.field(Self::NAME, "port").as_ref() == Some(&port))
    }

    /// Cuts the first server off from its replica: what it does from now on is only its own. It
    /// obeys no Sentinel that tells it to follow another one either, and takes writes for ever.
    pub fn cut_off(&self) {
        let denied = [
            "ACL",
            "SETUSER",
            "default",
            "-psync",
            "-sync",
            "-replicaof",
            "-slaveof",
            "-client|kill",
        ];
        self.servers[0].cli(&denied);
        // Its own right to do so is gone, so another user does it.
        let mut client = self.servers[0].client().expect("a connection");
        let made = client.cmd(&["ACL", "SETUSER", "cutter", "on", "nopass", "+@all"]);
        assert!(made.is_ok_and(|reply| !reply.is_error()));
        for command in [&["AUTH", "cutter", "any"][..], &["CLIENT", "KILL", "TYPE", "replica"]] {
            let reply = client.cmd(command).expect("an answer");
            assert!(!reply.is_error(), "{reply}");
        }
        wait_until("the replica is cut off", FAILOVER_WITHIN, || !is_followed(&self.servers[0]));
    }

    /// From now on a server counts as down when it is silent for so long.
    ///
    /// # Panics
    ///
    /// When a Sentinel does not take it.
    #[track_caller]
    pub fn set_down_after(&self, down_after: Duration) {
        let millis = down_after.as_millis().to_string();
        for node in &self.nodes {
            node.cli(&["SENTINEL", "SET", Self::NAME, "down-after-milliseconds", &millis]);
        }
    }

    /// Makes the second server the master, whatever the first one does.
    ///
    /// # Panics
    ///
    /// When the Sentinels do not do it.
    #[track_caller]
    pub fn fail_over(&self) {
        wait_until("a Sentinel begins a failover", FAILOVER_WITHIN, || {
            matches!(self.nodes[0].cmd(&["SENTINEL", "FAILOVER", Self::NAME]), Reply::Simple(_))
                || self.is_second_master()
        });
        self.wait_for_failover();
    }

    /// Waits until the second server is the master, and every Sentinel says so.
    ///
    /// # Panics
    ///
    /// When that does not come to be.
    #[track_caller]
    pub fn wait_for_failover(&self) {
        let done = holds_within(FAILOVER_WITHIN, || {
            self.is_second_master() && self.all_name(&self.servers[1])
        });
        assert!(done, "no failover: {}", self.nodes[0].log());
    }

    fn is_second_master(&self) -> bool {
        // A promotion closes every connection.
        let info = self.servers[1].try_cmd(&["INFO", "replication"]);
        info.is_ok_and(|info| info.to_string().contains("role:master"))
    }
}

/// Whether a replica is there that has everything.
fn is_followed(master: &Redis) -> bool {
    master.cli(&["INFO", "replication"]).contains("state=online")
}

impl Redis {
    /// A field of what a Sentinel says of a master.
    fn field(&self, master: &str, field: &str) -> Option<String> {
        let Reply::Array(Some(fields)) = self.cmd(&["SENTINEL", "MASTER", master]) else {
            return None;
        };
        let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
        let at = fields.iter().step_by(2).position(|name| name == field)?;
        fields.get(2 * at + 1).cloned()
    }
}
