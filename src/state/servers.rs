//! On which server was done what the sinks did? The id of each one's history of writes.
//!
//! A sink that finds another id than the one that is noted may miss what was done, since the server
//! was replaced or has started from an older file. A file that cannot be read names no server that
//! there is.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::{Fingerprint, write_json};

/// The file's name in `state_dir`.
const FILE_NAME: &str = "servers.json";

/// The layout of the file.
const VERSION: u32 = 1;

/// The id of no server: what was done is not known.
const UNKNOWN: &str = "";

/// The servers, by their sinks' names.
#[derive(Debug, Default)]
pub struct Servers {
    /// `None`: there is no `state_dir`, so that they are forgotten with the process.
    file: Option<PathBuf>,
    servers: BTreeMap<String, Noted>,
    is_unreadable: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    /// Where the sink was, and how its keys were laid out.
    target: String,
    server: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout<S> {
    version: u32,
    sinks: S,
}

impl Servers {
    /// Reads what an earlier run has left.
    pub fn open(state_dir: Option<&Path>) -> Self {
        let Some(directory) = state_dir else { return Servers::default() };
        let file = directory.join(FILE_NAME);
        let read = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice::<Layout<BTreeMap<_, _>>>(&bytes)
                .ok()
                .filter(|layout| layout.version == VERSION),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some(Layout { version: VERSION, sinks: BTreeMap::new() })
            }
            Err(_) => None,
        };
        if read.is_none() {
            let file = file.display();
            warn!(%file, "unreadable, or of another version: each server counts as another one");
        }
        let is_unreadable = read.is_none();
        let servers = read.map(|layout| layout.sinks).unwrap_or_default();
        Servers { file: Some(file), servers, is_unreadable }
    }

    /// The server on which the sink of this name did what it did; `None`: it did nothing there.
    pub fn noted(&self, sink: &str, target: &Fingerprint) -> Option<String> {
        if self.is_unreadable {
            return Some(UNKNOWN.to_owned());
        }
        let noted = self.servers.get(sink)?;
        (noted.target == target.digits()).then(|| noted.server.clone())
    }

    /// Forgets the sinks that are not configured any more.
    pub fn retain(&mut self, is_configured: impl Fn(&str) -> bool) {
        self.servers.retain(|sink, _| is_configured(sink));
    }

    /// Notes a sink's server; it is on disk when this returns, unless an error was logged.
    pub fn note(&mut self, sink: &str, target: &Fingerprint, server: &str) {
        let (target, server) = (target.digits().to_owned(), server.to_owned());
        self.servers.insert(sink.to_owned(), Noted { target, server });
        let Some(file) = &self.file else { return };
        let layout = Layout { version: VERSION, sinks: &self.servers };
        if let Err(error) = write_json(file, &layout) {
            error!(
                file = %file.display(),
                hint = "make room, or let walpurge write to its state_dir; until then a restart \
                        runs fallbacks that need not run",
                "cannot note which server a sink has: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    #[test]
    fn a_sinks_server_is_known_over_restarts_while_the_sink_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Servers::open(Some(dir.path()));
        let (here, there) = (Fingerprint::of("here"), Fingerprint::of("there"));
        assert_eq!(open().noted("cache", &here), None);
        let mut servers = open();
        servers.note("cache", &here, "8f3a");
        servers.note("other", &here, "77");
        assert_eq!(open().noted("cache", &here).as_deref(), Some("8f3a"));
        assert_eq!(open().noted("cache", &there), None, "it is another sink");
        let mut servers = open();
        servers.retain(|sink| sink == "other");
        servers.note("other", &here, "78");
        assert_eq!(open().noted("cache", &here), None);
        assert_eq!(open().noted("other", &here).as_deref(), Some("78"));
    }

    #[test]
    fn a_file_that_makes_no_sense_names_no_server_that_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let here = Fingerprint::of("here");
        for text in ["", "{", "{\"version\":2,\"sinks\":{}}"] {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            let mut servers = Servers::open(Some(dir.path()));
            assert_eq!(servers.noted("cache", &here).as_deref(), Some(UNKNOWN), "{text}");
            servers.note("cache", &here, "1");
            assert_eq!(Servers::open(Some(dir.path())).noted("cache", &here).as_deref(), Some("1"));
        }
    }
}
