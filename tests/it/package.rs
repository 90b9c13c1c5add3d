//! The Debian package, installed, upgraded, removed and purged for real, on a copy of this machine
//! in which only systemd is not the real one.

mod container;
mod kubernetes;

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Machine, wait_until};

use crate::world::{PATIENCE, World};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";

const RULE: &str = "[[rule]]\ntable = \"public.t\"\ndelete = [\"key:{id}\"]\n";

/// A mistake that the new version does not take.
const MISTAKE: &str = "\n[redis.cache.nonsense]\n";

/// dpkg without what takes time or asks: neither man-db's index, nor syncs, nor questions; and with
/// the documentation, which small images leave out.
const DPKG: &str = "DEBIAN_FRONTEND=noninteractive dpkg --no-triggers --force-unsafe-io \
                    --path-include='*'";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Makes the package of the program under test, with its symbols stripped, since compressing them
/// takes a minute.
fn build(version: &str, file: &Path) {
    let cargo_deb = testkit::install::cargo_deb().unwrap();
    let target = Path::new(env!("CARGO_BIN_EXE_walpurge")).ancestors().nth(2).unwrap();
    let output = Command::new(cargo_deb)
        .args(["deb", "--no-build", "--offline", "--locked", "--profile", "dev", "--strip"])
        .args(["--fast", "--no-dbgsym", "--deb-version", version, "--output"])
        .arg(file)
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A copy of the machine with the packages `1.deb` and `2.deb` in `/mnt`, and a systemctl that
/// writes down what it is asked.
fn machine() -> Machine {
    let machine = Machine::start();
    manual::write_all(&root().join("target/package")).unwrap();
    for version in ["1", "2"] {
        build(version, &machine.shared(format!("{version}.deb")));
    }
    std::fs::write(machine.shared("systemctl"), include_str!("package/systemctl.sh")).unwrap();
    machine.sh("rm -f /usr/bin/systemctl && install -m 0755 /mnt/systemctl /usr/bin/systemctl
                rm -f /usr/sbin/policy-rc.d
                mkdir -p /run/systemd/system");
    assert_eq!(leftovers(&machine), "", "walpurge is installed on this machine");
    machine
}

/// Runs dpkg, which has to succeed: what it and the package's scripts said.
#[track_caller]
fn dpkg(machine: &Machine, args: &str) -> String {
    machine.sh(&format!("{DPKG} {args} 2>&1"))
}

/// What systemctl was asked to do since the last call, each on a line.
fn asked(machine: &Machine) -> Vec<String> {
    let log = machine.shared("systemctl.log");
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    text.lines().filter(|line| *line != "daemon-reload").map(str::to_owned).collect()
}

/// The id of a daemon's process, as the machine sees it.
fn pid(machine: &Machine, unit: &str) -> String {
    machine.sh(&format!("systemctl show --property=MainPID --value {unit}"))
}

fn write_config(machine: &Machine, name: &str, text: &str) {
    std::fs::write(machine.shared("config"), text).unwrap();
    // Keeps owner and mode, as editors do.
    machine.sh(&format!("cat /mnt/config >/etc/walpurge/{name}"));
}

/// What is on the machine by our name, but for what dpkg knows of us.
fn leftovers(machine: &Machine) -> String {
    machine.sh("find /etc /usr /var/lib /root /home -xdev -name '*walpurge*' \
                    -not -path '*/doc-base/*' -not -path '/root/*/*' -not -path '/home/*/*'")
}

/// The daemon on the machine removes the key of a row that changes.
#[track_caller]
fn assert_invalidates(world: &World, machine: &Machine, id: u32) {
    let key = format!("key:{id}");
    world.fill(&[&key]);
    world.sql(&format!("INSERT INTO t VALUES ({id})"));
    let gone = testkit::holds_within(PATIENCE, || !world.redis.exists(&key));
    assert!(gone, "{key} is still cached\n{}", log(machine));
}

fn log(machine: &Machine) -> String {
    let log: PathBuf = machine.shared("walpurge.service.log");
    std::fs::read_to_string(log).unwrap_or_default()
}

#[test]
fn the_package_installs_upgrades_and_goes_as_an_operator_expects() {
    let world = World::new(TABLE, RULE);
    let machine = machine();
    let config = std::fs::read_to_string(world.config_file()).unwrap();

    // A first installation makes the user, and starts nothing.
    let said = dpkg(&machine, "-i /mnt/1.deb");
    assert!(said.contains("systemctl enable --now walpurge"), "{said}");
    assert_eq!(asked(&machine), [""; 0]);
    assert_files(&machine);
    // As it comes, the configuration is none yet.
    let status = machine.run("walpurge check --offline").status;
    assert_eq!(status.code(), Some(78));

    // It works, with a configuration that its user can read and others cannot.
    write_config(&machine, "config.toml", &config);
    machine.sh("systemctl start walpurge.service");
    assert_invalidates(&world, &machine, 1);
    assert_eq!(asked(&machine), ["start walpurge.service"]);
    let first = pid(&machine, "walpurge.service");

    // An upgrade restarts it once, and keeps the configuration.
    let said = dpkg(&machine, "-i /mnt/2.deb");
    assert_eq!(asked(&machine), ["restart walpurge.service"], "{said}");
    let second = pid(&machine, "walpurge.service");
    assert_ne!(first, second);
    assert_invalidates(&world, &machine, 2);
    assert_eq!(machine.sh("cat /etc/walpurge/config.toml"), config.trim());
    assert_eq!(machine.sh("stat -c '%U:%G %a' /etc/walpurge/config.toml"), "root:walpurge 640");

    // One that refuses the configuration restarts nothing, says why, and succeeds.
    write_config(&machine, "config.toml", &format!("{config}{MISTAKE}"));
    let said = dpkg(&machine, "-i /mnt/1.deb");
    assert!(said.contains("refuses the configuration of walpurge.service"), "{said}");
    assert!(said.contains("nonsense") && said.contains("systemctl restart walpurge"), "{said}");
    assert_eq!(asked(&machine), [""; 0], "{said}");
    assert_eq!(pid(&machine, "walpurge.service"), second);
    assert_invalidates(&world, &machine, 3);
    let state = machine.sh("dpkg-query -W -f '${Status} ${Version}' walpurge");
    assert_eq!(state, "install ok installed 1");

    instances_are_judged_on_their_own(&world, &machine, &config);

    // A removal stops all of them, keeps what is theirs, and says what stays in Postgres.
    let said = dpkg(&machine, "--remove walpurge");
    assert!(said.contains("holds WAL until it is dropped"), "{said}");
    assert!(said.contains("slot_name IN ('walpurge', 'walpurge_replay')"), "{said}");
    let mut stopped = asked(&machine);
    stopped.sort();
    let all = ["stop walpurge.service", "stop walpurge@a.service", "stop walpurge@b.service"];
    assert_eq!(stopped, all, "{said}");
    machine.sh("test -e /etc/walpurge/config.toml && test -d /var/lib/walpurge");
    machine.sh("test ! -e /usr/bin/walpurge");

    // A purge leaves nothing but what the administrator made.
    let said = dpkg(&machine, "--purge walpurge");
    assert!(said.contains("pg_drop_replication_slot"), "{said}");
    assert!(said.contains("/etc/walpurge holds files of yours"), "{said}");
    machine.sh("rm /etc/walpurge/a.toml /etc/walpurge/b.toml && rmdir /etc/walpurge
                rm /etc/systemd/system/walpurge@.service");
    assert_eq!(leftovers(&machine), "");
}

/// With three daemons, only those whose configuration the new version takes are restarted.
fn instances_are_judged_on_their_own(world: &World, machine: &Machine, config: &str) {
    let unit = std::fs::read_to_string(root().join("systemd/walpurge.service")).unwrap();
    let unit = unit
        .replace("bin/walpurge run", "bin/walpurge run --config /etc/walpurge/%i.toml")
        .replace("Directory=walpurge", "Directory=walpurge-%i");
    std::fs::write(machine.shared("unit"), unit).unwrap();
    machine
        .sh("mkdir -p /etc/systemd/system && cp /mnt/unit /etc/systemd/system/walpurge@.service");
    for name in ["a", "b"] {
        write_config(machine, &format!("{name}.toml"), config);
        machine.sh(&format!("systemctl start walpurge@{name}.service"));
        wait_until("an instance is standby", PATIENCE, || {
            let ask = format!(
                "RUNTIME_DIRECTORY=/run/walpurge-{name} walpurge status --json \
                     --config /etc/walpurge/{name}.toml | grep -q '\"role\": \"standby\"'"
            );
            machine.run(&ask).status.success()
        });
    }
    write_config(machine, "config.toml", config);
    write_config(machine, "b.toml", &format!("{config}{MISTAKE}"));
    asked(machine);
    let said = dpkg(machine, "-i /mnt/2.deb");
    assert!(said.contains("refuses the configuration of walpurge@b.service"), "{said}");
    let mut restarted = asked(machine);
    restarted.sort();
    assert_eq!(restarted, ["restart walpurge.service", "restart walpurge@a.service"], "{said}");
    assert_invalidates(world, machine, 4);
}

/// What an operator looks for is there, and is nobody else's.
fn assert_files(machine: &Machine) {
    for (path, expected) in [
        ("/usr/bin/walpurge", "root:root 755"),
        ("/etc/walpurge/config.toml", "root:walpurge 640"),
        ("/usr/lib/systemd/system/walpurge.service", "root:root 644"),
        ("/usr/lib/sysusers.d/walpurge.conf", "root:root 644"),
        ("/usr/share/man/man1/walpurge.1.gz", "root:root 644"),
        ("/usr/share/man/man1/walpurge-parked-list.1.gz", "root:root 644"),
        ("/usr/share/bash-completion/completions/walpurge", "root:root 644"),
        ("/usr/share/zsh/vendor-completions/_walpurge", "root:root 644"),
        ("/usr/share/fish/vendor_completions.d/walpurge.fish", "root:root 644"),
        ("/usr/share/doc/walpurge/README.md", "root:root 644"),
        ("/usr/share/doc/walpurge/docs/operations.md", "root:root 644"),
        ("/usr/share/doc/walpurge/config.toml.example", "root:root 644"),
        ("/usr/share/doc/walpurge/changelog.gz", "root:root 644"),
        ("/usr/share/doc/walpurge/copyright", "root:root 644"),
    ] {
        assert_eq!(machine.sh(&format!("stat -c '%U:%G %a' {path}")), expected, "{path}");
    }
    assert_eq!(machine.sh("getent passwd walpurge | cut -d: -f1,6"), "walpurge:/var/lib/walpurge");
    assert_eq!(machine.sh("getent group walpurge | cut -d: -f1"), "walpurge");
    let fields = "dpkg-query -W -f '${Depends}|${Conffiles}' walpurge";
    let fields = machine.sh(fields);
    assert!(fields.starts_with("adduser | systemd-sysusers, libc6 (>= "), "{fields}");
    assert!(fields.contains(" /etc/walpurge/config.toml "), "{fields}");
}
