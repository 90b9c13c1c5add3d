//! What a test needs beside Postgres and Redis, installed where it is missing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::dir::target_dir;

/// Where Debian keeps servers, which `PATH` may lack for other users than root.
const SERVERS: &str = "/usr/sbin";

/// A program in `PATH`, or where servers are.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain([PathBuf::from(SERVERS)]);
    places.find_map(|place| Some(place.join(name)).filter(|file| file.exists()))
}

/// Installs what `scripts/install.sh` installs, if `is_there` says that it is needed.
pub(crate) fn install_unless(is_there: impl Fn() -> bool) -> Result<()> {
    if is_there() {
        return Ok(());
    }
    let _lock = lock("install")?;
    if !is_there() {
        run("install.sh", &[])?;
    }
    Ok(())
}

/// A virtual environment of Python with the packages in `scripts/python.txt`, made by the first
/// who asks: its directory.
///
/// # Errors
///
/// When there is no Python, or its packages cannot be had.
pub fn python() -> Result<PathBuf> {
    let directory = target_dir().join("python");
    let _lock = lock("python")?;
    run("python.sh", &[&directory])?;
    Ok(directory)
}

/// Another version of Postgres' server, of those in `scripts/postgres.txt`, which the first who asks
/// fetches: the directory that holds its `bin`.
///
/// # Errors
///
/// When there is no npm, or nothing for this processor, or the version is not in the list.
pub fn postgres(version: u32) -> Result<PathBuf> {
    install_unless(|| program("npm").is_some())?;
    let directory = target_dir().join("postgres");
    let _lock = lock("postgres")?;
    run("postgres.sh", &[&directory])?;
    let server = directory.join(version.to_string());
    ensure!(server.exists(), "no Postgres {version} in scripts/postgres.txt");
    Ok(server.canonicalize()?)
}

/// A directory with the packages of `scripts/node.txt` in its `node_modules`, made by the first who
/// asks.
///
/// # Errors
///
/// When there is no Node.js, or the packages cannot be had.
pub fn node() -> Result<PathBuf> {
    install_unless(|| program("node").is_some() && program("npm").is_some())?;
    let directory = target_dir().join("node");
    let _lock = lock("node")?;
    run("node.sh", &[&directory])?;
    Ok(directory)
}

/// Where Debian keeps packages for Go.
const GO_PATH: &str = "/usr/share/gocode";

/// A `GOPATH` with a client of Redis; `go` is in `PATH`.
///
/// # Errors
///
/// When they cannot be had.
pub fn go_path() -> Result<PathBuf> {
    let path = PathBuf::from(GO_PATH);
    let client = path.join("src/github.com/gomodule/redigo");
    install_unless(|| program("go").is_some() && client.exists())?;
    Ok(path)
}

/// Prometheus' tool that checks rules and metrics.
///
/// # Errors
///
/// When it cannot be had.
pub fn promtool() -> Result<PathBuf> {
    install_unless(|| program("promtool").is_some())?;
    program("promtool").context("no promtool: run scripts/install.sh")
}

/// `cargo-deb`, installed for this repository alone by the first who asks: the program.
///
/// # Errors
///
/// When it can be neither had nor built.
pub fn cargo_deb() -> Result<PathBuf> {
    let directory = target_dir().join("cargo-deb");
    let _lock = lock("cargo-deb")?;
    run("cargo-deb.sh", &[&directory])?;
    Ok(directory.join("bin/cargo-deb"))
}

/// Runs a script of the repository to its end.
fn run(script: &str, args: &[&Path]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(script);
    let output = Command::new(&path).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {}", path.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script} failed ({}): {said}", output.status);
    Ok(())
}

/// One at a time, over all processes; until the file is dropped.
fn lock(name: &str) -> Result<File> {
    let file = File::create(target_dir().join(format!("testkit-{name}.lock")))?;
    flock(&file, FlockOperation::LockExclusive).context("cannot lock")?;
    Ok(file)
}
