//! Which transactions other sessions can see: what `pg_current_snapshot()` says.
//!
//! Pure: no I/O, no clock.

use std::str::FromStr;

/// A snapshot of the primary: `xmin:xmax:xip_list`.
///
/// Source: PostgreSQL's documentation, "Transaction ID and Snapshot Information Functions".
/// What a snapshot shows stays visible, so an old snapshot never says too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Every lower transaction ID has ended.
    xmin: u64,
    /// This one and every higher one had not ended.
    xmax: u64,
    /// Those between that had not ended, in ascending order.
    in_progress: Vec<u64>,
    /// Whether a transaction was begun and ended for its sake.
    is_bounded: bool,
}

impl Snapshot {
    /// Whether a transaction that is known to be committed is visible in this snapshot.
    ///
    /// The stream carries the low 32 bits of a transaction ID. Postgres keeps all that are in use
    /// within 2³¹ of each other, so the one nearest to `xmax` is meant.
    pub fn shows(&self, xid: u32) -> bool {
        let ahead = xid.wrapping_sub(self.xmax as u32) as i32;
        let Some(xid) = self.xmax.checked_add_signed(i64::from(ahead)) else { return false };
        xid < self.xmin || xid < self.xmax && self.in_progress.binary_search(&xid).is_err()
    }

    /// The same, taken after a transaction of our own had begun and ended: whatever had begun before
    /// that is below `xmax`, and so listed if it had not ended.
    pub fn bounded(self) -> Self {
        Snapshot { is_bounded: true, ..self }
    }

    /// Every transaction that had begun and not ended, by the low 32 bits of their IDs; `None` if
    /// the snapshot is not bounded and may lack the youngest.
    pub fn open(&self) -> Option<Vec<u32>> {
        self.is_bounded.then(|| self.in_progress.iter().map(|&xid| xid as u32).collect())
    }
}

/// The text was not a `pg_snapshot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot: expected xmin:xmax:xip_list")]
pub struct ParseSnapshotError;

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, ParseSnapshotError> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| ParseSnapshotError);
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or(ParseSnapshotError);
        let (xmin, xmax) = (number(part()?)?, number(part()?)?);
        let listed = part()?.split(',').filter(|xid| !xid.is_empty());
        let mut in_progress = listed.map(number).collect::<Result<Vec<_>, _>>()?;
        in_progress.sort_unstable();
        Ok(Snapshot { xmin, xmax, in_progress, is_bounded: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(snapshot: &str, visible: &[u32], invisible: &[u32]) {
        let snapshot: Snapshot = snapshot.parse().unwrap();
        for &xid in visible {
            assert!(snapshot.shows(xid), "{xid} is visible in {snapshot:?}");
        }
        for &xid in invisible {
            assert!(!snapshot.shows(xid), "{xid} is invisible in {snapshot:?}");
        }
    }

    #[test]
    fn shows_what_has_ended() {
        check("730:735:732,730", &[3, 729, 731, 733, 734], &[730, 732, 735, 736, 100_000]);
        check("740:740:", &[739], &[740, 741]);
    }

    #[test]
    fn knows_the_epoch_of_a_32_bit_transaction_id() {
        // xmax is 3 in epoch 1; the highest IDs of epoch 0 are just behind it.
        check("4294967299:4294967299:", &[u32::MAX, 2], &[3, 4]);
        check("4294967290:4294967302:4294967295", &[u32::MAX - 1, 3, 5], &[u32::MAX, 6, 7]);
        // Nothing precedes the first epoch.
        check("100:100:", &[99], &[3_000_000_000]);
    }

    #[test]
    fn names_what_is_open_if_the_youngest_cannot_be_missing() {
        let snapshot: Snapshot = "730:735:732,730".parse().unwrap();
        assert_eq!(snapshot.open(), None);
        assert_eq!(snapshot.bounded().open(), Some(vec![730, 732]));
    }

    #[test]
    fn refuses_what_is_no_snapshot() {
        for text in ["", "1", "1:2", "a:2:", "1:2:x", "1:2:3:4", "-1:2:"] {
            assert_eq!(text.parse::<Snapshot>(), Err(ParseSnapshotError), "{text}");
        }
    }
}
