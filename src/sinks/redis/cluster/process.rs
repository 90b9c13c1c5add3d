//! Which process does a page come from?
//!
//! A cursor means nothing to another server, nor to the same one after a restart: going on there
//! passes over members without an error. So who reads a set in pages lets each say where it comes
//! from, in the same MULTI, and begins anew where that changes: a slot has moved, or its master was
//! replaced.

use super::super::wire::{Reply, Request};

/// A server's process, by its `run_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process(Vec<u8>);

impl Process {
    /// Adds the command that asks for it, of the rights that every connection has.
    pub(super) fn ask(request: &mut Request) {
        request.simple(&[b"INFO", b"server"]);
    }

    /// The reply to [`ask`](Self::ask).
    pub(super) fn read(reply: &Reply) -> Option<Self> {
        let Reply::Bulk(info) = reply else { return None };
        let mut lines = info.split(|&byte| byte == b'\n');
        let run_id = lines.find_map(|line| line.trim_ascii().strip_prefix(b"run_id:"))?;
        Some(Process(run_id.to_vec()))
    }

    /// Whether a cursor that was got from `before` means nothing to it.
    pub(super) fn is_new_to(&self, cursor: &[u8], before: &Option<Process>) -> bool {
        cursor != b"0" && before.as_ref() != Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_read() {
        let info = b"# Server\r\nredis_version:7.0.15\r\nrun_id:0a1b\r\ntcp_port:1\r\n";
        let process = Process::read(&Reply::Bulk(info.to_vec()));
        assert_eq!(process, Some(Process(b"0a1b".to_vec())));
        assert_eq!(Process::read(&Reply::Bulk(b"# Server\r\n".to_vec())), None);
    }

    #[test]
    fn a_cursor_counts_only_where_it_comes_from() {
        let [one, other] = [b"1", b"2"].map(|id| Process(id.to_vec()));
        assert!(!one.is_new_to(b"0", &None) && !one.is_new_to(b"17", &Some(one.clone())));
        assert!(one.is_new_to(b"17", &Some(other)) && one.is_new_to(b"17", &None));
    }
}
