//! How much WAL our slot holds, and where the log ends.

use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};

use super::ANSWER_TIMEOUT;
use super::broken::Broken;
use crate::lsn::Lsn;

/// The WAL that a slot holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeld {
    /// From the oldest that it needs to the newest.
    pub held: u64,
    /// How much more there may be before the slot is lost; `None`: any amount.
    pub left: Option<u64>,
    /// Where the log ends.
    pub end_lsn: Lsn,
    /// When it ended there, by the server's clock, in microseconds since 1970.
    pub at: i64,
}

/// How much WAL a slot holds; nothing on a standby, which does not write it.
const HELD_QUERY: &str = "SELECT \
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::bigint, \
       safe_wal_size::bigint, \
       pg_catalog.pg_current_wal_flush_lsn()::text, \
       (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint \
     FROM pg_catalog.pg_replication_slots \
     WHERE slot_name = $1 AND NOT pg_catalog.pg_is_in_recovery()";

/// Asks for it; `None`: the server does not say.
pub(super) async fn wal_held(
    client: &tokio_postgres::Client,
    slot: &str,
) -> Result<Option<WalHeld>, Broken> {
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&slot, Type::TEXT)];
    let rows = timeout(ANSWER_TIMEOUT, client.query_typed(HELD_QUERY, &parameters))
        .await
        .map_err(|_| Broken::NoAnswer)?;
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) if error.is_closed() => return Err(Broken::Query(error)),
        // It is for people alone.
        Err(_) => return Ok(None),
    };
    let held = rows.first().and_then(|row| {
        let held: Option<i64> = row.try_get(0).ok()?;
        let left: Option<i64> = row.try_get(1).ok()?;
        let left = left.map(|left| u64::try_from(left).unwrap_or(0));
        let end_lsn: String = row.try_get(2).ok()?;
        let (end_lsn, at) = (end_lsn.parse().ok()?, row.try_get(3).ok()?);
        Some(WalHeld { held: u64::try_from(held?).ok()?, left, end_lsn, at })
    });
    Ok(held)
}
