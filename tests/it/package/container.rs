//! The process of the image, as Docker and Kubernetes run it: as a user that nobody knows, without
//! any right, and on a root that cannot be written. There is no engine in a test, so the image's
//! own commands run on a copy of this machine, and mounts stand for the volumes.

use testkit::{Machine, free_port, wait_until};

use super::kubernetes::{at, example, only};
use super::root;
use crate::admin::http::ask_tcp;
use crate::world::{PATIENCE, Plugin, World};

/// What docker-compose.yml asks; not in the image, since Swarm ends what is unhealthy, as a daemon is
/// whose Postgres is down.
pub(super) const HEALTH_CHECK: &str = "walpurge status --json | grep -q '\"not_ready\": null'";

const TABLE: &str = "CREATE TABLE products (id int PRIMARY KEY, slug text);
    ALTER TABLE products REPLICA IDENTITY FULL";

/// The last stage of docker/walpurge/Dockerfile.
pub(super) struct Image {
    pub(super) env: Vec<(String, String)>,
    /// The commands that make its user and its directories.
    commands: Vec<String>,
}

pub(super) fn image() -> Image {
    let text = std::fs::read_to_string(root().join("docker/walpurge/Dockerfile")).unwrap();
    let text = text.replace("\\\n", " ");
    let (_, stage) = text.rsplit_once("\nFROM ").unwrap();
    let all = |word: &str| -> Vec<String> {
        let lines = stage.lines().filter_map(|line| line.strip_prefix(word));
        lines.map(str::to_owned).collect()
    };
    let pairs = all("ENV ").join(" ");
    let env = pairs.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    let env: Vec<_> = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let commands: Vec<_> = all("RUN ").into_iter().filter(|run| !run.contains("apt-get")).collect();
    assert!(env.len() == 2 && commands.len() == 1, "{env:?} {commands:?}");
    assert_eq!(all("USER "), ["10001:0"]);
    Image { env, commands }
}

/// A process of the image, with mounts of its own.
struct Pod<'a> {
    machine: &'a Machine,
    name: &'static str,
    port: u16,
    env: String,
}

impl<'a> Pod<'a> {
    /// Starts one as `user` (arguments of setpriv), with a volume that has the mount options `state`.
    fn start(
        machine: &'a Machine,
        world: &World,
        name: &'static str,
        user: &str,
        state: &str,
    ) -> Self {
        let port = free_port();
        let documents = example();
        let config = at(only(&documents, "ConfigMap"), "/data/config.toml").as_str().unwrap();
        let config = config.replace("0.0.0.0:8317", &format!("0.0.0.0:{port}"));
        std::fs::write(machine.shared(format!("{name}.toml")), config).unwrap();
        let pairs = image().env.into_iter().chain([
            ("WALPURGE_POSTGRES_URL".to_owned(), world.pg.url("walpurge", "postgres")),
            ("WALPURGE_REDIS_URL".to_owned(), world.redis.url()),
            ("WALPURGE_ADMIN_TOKEN".to_owned(), "token".to_owned()),
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
        ]);
        let env: Vec<_> = pairs.map(|(name, value)| format!("'{name}={value}'")).collect();
        let pod = Self { machine, name, port, env: env.join(" ") };
        machine.sh(&format!(
            "cat >/mnt/{name}.sh <<'END'
                 set -eu
                 mount -t tmpfs -o mode=755 tmpfs /etc/walpurge
                 cp /mnt/{name}.toml /etc/walpurge/config.toml
                 mount -t tmpfs -o {state} tmpfs /var/lib/walpurge
                 mount -t tmpfs -o mode=1777 tmpfs /run/walpurge
                 for place in / /tmp /mnt /etc/walpurge; do mount -o remount,bind,ro $place; done
                 exec setpriv {user} --no-new-privs --bounding-set=-all --inh-caps=-all \\
                     env -i {env} walpurge run
END
             setsid unshare --mount sh /mnt/{name}.sh </dev/null >/mnt/{name}.log 2>&1 &
             echo $! >/mnt/{name}.pid",
            env = pod.env,
        ));
        pod
    }

    fn pid(&self) -> String {
        std::fs::read_to_string(self.machine.shared(format!("{}.pid", self.name))).unwrap()
    }

    fn log(&self) -> String {
        let log = self.machine.shared(format!("{}.log", self.name));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// Runs a command in it, as `docker exec` and `kubectl exec` do; whether it succeeded.
    fn exec(&self, command: &str) -> bool {
        let (pid, env) = (self.pid(), &self.env);
        std::fs::write(self.machine.shared("exec"), command).unwrap();
        let enter = format!(
            "exec nsenter --target={} --mount --root --wd=/ env -i {env} sh -c \"$(cat /mnt/exec)\"",
            pid.trim()
        );
        self.machine.run(&enter).status.success()
    }

    fn has_role(&self, role: &str) -> bool {
        let status = ask_tcp(&self.address(), "/status", Some("token"));
        status.is_some_and(|got| got.body.contains(&format!("\"role\":\"{role}\"")))
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Waits for its role, in which it is alive, ready and healthy.
    #[track_caller]
    fn wait_for(&self, role: &str) {
        let has_role = testkit::holds_within(PATIENCE, || self.has_role(role));
        assert!(has_role, "{} is not {role}\n{}", self.name, self.log());
        for path in ["/livez", "/readyz"] {
            let got = ask_tcp(&self.address(), path, None).unwrap();
            assert!(got.is_ok(), "{}: {path}: {} {}", self.name, got.code, got.body);
        }
        let metrics = ask_tcp(&self.address(), "/metrics", None).unwrap();
        assert_eq!(metrics.code, 401);
        assert!(self.exec(HEALTH_CHECK), "{} is not healthy", self.name);
        assert!(!self.exec("touch /usr/bin/new || touch /tmp/new"), "its root can be written");
    }
}

#[test]
fn two_pods_without_a_name_or_a_writable_root_take_over_from_each_other() {
    // What the example for Kubernetes reads with.
    let world = World::of(Plugin::Wal2json, TABLE, "");
    let machine = Machine::start();
    std::fs::copy(env!("CARGO_BIN_EXE_walpurge"), machine.shared("walpurge")).unwrap();
    machine.sh("install -m 0755 /mnt/walpurge /usr/bin/walpurge && mkdir -p /etc/walpurge");
    for command in image().commands {
        machine.sh(&command);
    }

    // As Kubernetes does it with an fsGroup, and as Docker does it with a user that the image does
    // not know, whose group is root's and whose volume is like the image's directory.
    let volume = machine.sh("stat -c 'uid=%u,gid=%g,mode=%a' /var/lib/walpurge");
    assert_eq!(volume, "uid=10001,gid=0,mode=770");
    let user = "--reuid=12345 --regid=12345 --groups=10001";
    let first = Pod::start(&machine, &world, "first", user, "mode=2775,gid=10001");
    first.wait_for("streaming");
    let user = "--reuid=23456 --regid=0 --clear-groups";
    let second = Pod::start(&machine, &world, "second", user, &volume);
    second.wait_for("standby");

    world.fill(&["product:1"]);
    world.sql("INSERT INTO products VALUES (1, 'lamp')");
    world.wait_gone(&["product:1"]);
    wait_until("its position is in its volume", PATIENCE, || {
        first.exec("test -n \"$(ls /var/lib/walpurge)\"")
    });

    machine.sh("kill $(cat /mnt/first.pid)");
    second.wait_for("streaming");
    world.fill(&["product:2"]);
    world.sql("INSERT INTO products VALUES (2, 'lantern')");
    world.wait_gone(&["product:2"]);
    assert!(!first.exec("true"), "the first one still runs\n{}", first.log());
    assert!(!first.log().contains("ERROR") && !second.log().contains("ERROR"));
}
