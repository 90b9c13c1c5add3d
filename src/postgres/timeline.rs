//! Where did the server's history leave a timeline?

use super::error::{PgError, PgErrorKind};
use super::session::ReplicationSession;
use crate::lsn::Lsn;

impl ReplicationSession {
    /// Where the history of the server, which is on `timeline` now, left the timeline `from`;
    /// `None`: that was never a part of it.
    pub async fn fork_lsn(&mut self, timeline: u32, from: u32) -> Result<Option<Lsn>, PgError> {
        if timeline == from || timeline == 1 {
            return Ok(None);
        }
        let operation = format!("read the history of timeline {timeline}");
        let rows = self.command(&operation, &format!("TIMELINE_HISTORY {timeline}")).await?;
        // The file's name and its content.
        let content = rows.first().and_then(|row| row.get(1)?.as_deref());
        let content = content.ok_or_else(|| PgError::new(PgErrorKind::Protocol, operation))?;
        Ok(end_of(content, from))
    }
}

/// The end of a timeline in a history file: lines of its number, where it was left, and why.
fn end_of(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let number: u32 = words.next()?.parse().ok()?;
        let end_lsn = words.next()?.parse().ok()?;
        (number == timeline).then_some(end_lsn)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_says_where_each_timeline_was_left() {
        let history = "1\t0/A000198\tno recovery target specified\n\n\
            # a comment\n2\t1/B0001A8\tbefore 2026-01-01\n";
        assert_eq!(end_of(history, 1), Some(Lsn(0xA00_0198)));
        assert_eq!(end_of(history, 2), Some(Lsn(0x1_0B00_01A8)));
        assert_eq!(end_of(history, 3), None);
    }
}
