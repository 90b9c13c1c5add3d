//! The units that are shipped: systemd understands every line of them, and finds little to fear.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::TestDir;

const UNITS: [&str; 2] = ["walpurge.service", "walpurge@.service"];

/// The most that `systemd-analyze security` may find, of 100: what is left is the network, which a
/// client of servers needs.
const EXPOSURE_MAX: &str = "--threshold=15";

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The unit with programs that are there: the package's, and `kill`, which not every container has.
fn copy(directory: &TestDir, name: &str, text: &str) -> PathBuf {
    let program = env!("CARGO_BIN_EXE_walpurge");
    let there = text.replace("/usr/bin/walpurge", program).replace("/bin/kill", "/bin/sh");
    assert_ne!(there, text);
    let path = directory.join(name);
    std::fs::write(&path, there).unwrap();
    path
}

/// What `systemd-analyze` says of a unit, and whether it has nothing against it.
fn analyze(args: &[&str], unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(args).arg(unit).output();
    let output = output.expect("systemd-analyze, see scripts/install.sh");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn systemd_understands_them() {
    let directory = TestDir::new("units");
    for name in UNITS {
        let (is_good, said) =
            analyze(&["verify", "--man=no"], &copy(&directory, name, &shipped(name)));
        assert!(is_good && said.trim().is_empty(), "{name}: {said}");
        let typo = shipped(name).replace("WatchdogSec=", "WatchdogSeconds=");
        let (_, said) = analyze(&["verify", "--man=no"], &copy(&directory, name, &typo));
        assert!(said.contains("WatchdogSeconds"), "a mistake is not found: {said}");
    }
}

#[test]
fn systemd_finds_little_to_fear_in_them() {
    let directory = TestDir::new("units");
    for name in UNITS {
        let unit = copy(&directory, name, &shipped(name));
        let (is_safe, said) = analyze(&["security", "--offline=yes", EXPOSURE_MAX], &unit);
        assert!(is_safe, "{name}: {said}");
        let open =
            shipped(name).replace("ProtectSystem=strict", "").replace("PrivateUsers=yes", "");
        let open = copy(&directory, name, &open);
        let (is_safe, said) = analyze(&["security", "--offline=yes", EXPOSURE_MAX], &open);
        assert!(!is_safe, "{name}: {said}");
    }
}

#[test]
fn what_the_page_about_them_overrides_is_understood() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/README.md");
    let overrides = crate::readme::blocks(&page, "ini");
    assert!(overrides.len() >= 3, "only {} were found", overrides.len());
    for block in overrides {
        let directory = TestDir::new("units");
        let unit = copy(&directory, UNITS[0], &shipped(UNITS[0]));
        let beside = directory.join("walpurge.service.d");
        std::fs::create_dir(&beside).unwrap();
        for (text, is_right) in [(block.text.clone(), true), (block.text + "Nonsense=1\n", false)] {
            std::fs::write(beside.join("override.conf"), text).unwrap();
            let (is_good, said) = analyze(&["verify", "--man=no"], &unit);
            assert!(is_good, "{}: {said}", block.place);
            assert_eq!(said.trim().is_empty(), is_right, "{}: {said}", block.place);
        }
    }
}

/// Settings without comments and blank lines.
fn settings(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn the_template_is_the_unit_with_paths_of_its_own() {
    let (unit, template) = (shipped(UNITS[0]), shipped(UNITS[1]));
    let plain = template
        .replace(" --config /etc/walpurge/%i.toml", "")
        .replace("=walpurge-%i", "=walpurge")
        .replace(" (%i)", "");
    assert_eq!(settings(&plain), settings(&unit));
    assert!(template.contains("StateDirectory=walpurge-%i\n"), "{template}");
    assert!(template.contains("RuntimeDirectory=walpurge-%i\n"), "{template}");
    for line in
        template.lines().filter(|line| line.starts_with("Exec") && line.contains("walpurge"))
    {
        assert!(line.ends_with(" --config /etc/walpurge/%i.toml"), "{line}");
    }
}

/// What must not go unnoticed if somebody tidies up.
#[test]
fn a_bad_configuration_is_tried_once_and_everything_else_for_ever() {
    let unit = shipped(UNITS[0]);
    let settings = settings(&unit);
    for line in [
        "StartLimitIntervalSec=0",
        "Restart=always",
        "RestartPreventExitStatus=78",
        // Without the minus its 78 would be tried again for ever.
        "ExecStartPre=-/usr/bin/walpurge check --offline",
    ] {
        assert!(settings.contains(&line), "{line}");
    }
}

#[test]
fn the_user_is_one_that_systemd_can_make() {
    let directory = TestDir::new("sysusers");
    std::fs::create_dir(directory.join("etc")).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/walpurge.sysusers");
    let root = format!("--root={}", directory.path().display());
    let output = Command::new("systemd-sysusers").arg(root).arg(file).output();
    let output = output.expect("systemd-sysusers, see scripts/install.sh");
    assert!(output.status.success(), "{output:?}");
    for name in ["etc/passwd", "etc/group"] {
        let made = std::fs::read_to_string(directory.join(name)).unwrap();
        assert!(made.starts_with("walpurge:"), "{made}");
    }
}
