//! How much was given up on: read from the file in which it is kept, since others empty that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::parked::read;
use crate::status::Status;

/// The file, and what it held when it was read last.
#[derive(Debug)]
pub(super) struct KeptFile {
    file: Option<PathBuf>,
    /// Its length and age then; the same file is not read again.
    seen: Option<(u64, SystemTime)>,
    by_sink: BTreeMap<Option<String>, u64>,
}

impl KeptFile {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        KeptFile { file, seen: None, by_sink: BTreeMap::new() }
    }

    /// Adds it to a status. What cannot be read stays as it was: the daemon says why.
    pub(super) fn add_to(&mut self, status: &mut Status) {
        let Some(file) = &self.file else { return };
        let seen = std::fs::metadata(file).and_then(|found| Ok((found.len(), found.modified()?)));
        let seen = seen.ok();
        if seen != self.seen || seen.is_none() {
            self.by_sink.clear();
            // A file that is missing is an empty one.
            for record in read(file).into_iter().flat_map(|kept| kept.records) {
                *self.by_sink.entry(record.sink).or_default() += 1;
            }
            self.seen = seen;
        }
        status.parked = Some(self.by_sink.values().sum());
        for sink in &mut status.sinks {
            sink.parked = self.by_sink.get(&Some(sink.name.clone())).copied().unwrap_or_default();
        }
    }
}
