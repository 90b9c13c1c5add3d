//! A private Varnish with the module for surrogate keys.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::exchange::exchange;
use super::server::Request;
use crate::install::{install_unless, program};
use crate::process::{Process, Signal};
use crate::{TestDir, free_port};

/// How long a start may take: it compiles its configuration.
const START_WITHIN: Duration = Duration::from_secs(30);

/// A Varnish on a free port, with what it keeps in a directory of its own.
#[derive(Debug)]
pub struct Varnish {
    // Before the directory, so that it ends before its files go.
    _server: Process,
    port: u16,
    _dir: TestDir,
}

/// A page as it was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Varnish {
    /// Starts one with a configuration in Varnish's language; installs Varnish where it is missing.
    ///
    /// # Panics
    ///
    /// When it does not start; the message holds its log.
    #[track_caller]
    pub fn start(vcl: &str) -> Self {
        match Self::try_start(vcl) {
            Ok(varnish) => varnish,
            Err(error) => panic!("{error:#}"),
        }
    }

    fn try_start(vcl: &str) -> Result<Self> {
        install_unless(|| program("varnishd").is_some() && has_xkey())?;
        let program = program("varnishd").context("no Varnish: run scripts/install.sh")?;
        let (dir, port) = (TestDir::new("varnish"), free_port());
        let file = dir.join("test.vcl");
        std::fs::write(&file, vcl)?;
        let mut command = Command::new(program);
        command.args(["-F", "-j", "none", "-s", "malloc,16m", "-T", "none", "-t", "3600"]);
        command.args(["-p", "thread_pools=1", "-p", "vsl_space=1m", "-n"]).arg(dir.join("work"));
        command.args(["-a", &format!("127.0.0.1:{port}"), "-f"]).arg(file);
        let mut server = Process::spawn("varnish", command, &dir.join("log"), Signal::TERM)?;
        let ready = crate::holds_within(START_WITHIN, || {
            !server.is_running() || server.log().contains("Child starts")
        });
        ensure!(ready && server.is_running(), "varnish did not start: {}", server.report());
        Ok(Self { _server: server, port, _dir: dir })
    }

    /// `http://127.0.0.1:PORT/`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// What it serves for a path: from its cache, else from its origin.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> Page {
        match self.try_get(path) {
            Ok(page) => page,
            Err(error) => panic!("GET {path}: {error:#}"),
        }
    }

    fn try_get(&self, path: &str) -> Result<Page> {
        let (method, target) = ("GET".to_owned(), path.to_owned());
        let response = exchange(self.port, &Request { method, target, ..Request::default() })?;
        let body = String::from_utf8_lossy(&response.body).into_owned();
        Ok(Page { status: response.status, body })
    }
}

/// Whether the module for surrogate keys is where Debian puts it.
fn has_xkey() -> bool {
    let module = Path::new("varnish/vmods/libvmod_xkey.so");
    let places = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut places = places.map(|place| place.path()).chain([PathBuf::from("/usr/lib")]);
    places.any(|place| place.join(module).exists())
}
