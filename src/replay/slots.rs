//! What is asked and done about the two slots, on an ordinary connection.

use tokio_postgres::Client;

use super::times::Pair;
use crate::lsn::Lsn;
use crate::postgres::client::simple_query;
use crate::postgres::quote::literal;
use crate::postgres::{PgError, PgErrorKind, Rows, SlotInfo};

/// Asks for the end of the log and then for the time: what is committed after that time stands
/// behind that end.
const CLOCK: &str = "SELECT pg_catalog.pg_current_wal_flush_lsn(), \
    (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint";

/// How the server's clock and the end of its log are asked for, by whichever connection.
pub struct Clock;

impl Clock {
    /// The question.
    pub const SQL: &str = CLOCK;

    /// The answer.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(rows: &Rows) -> Result<Pair, PgError> {
        let pair = rows.first().and_then(|row| {
            let [Some(lsn), Some(at)] = row.as_slice() else { return None };
            Some(Pair { lsn: lsn.parse().ok()?, at: at.parse().ok()? })
        });
        pair.ok_or_else(|| PgError::new(PgErrorKind::Protocol, "ask for the server's clock"))
    }
}

/// Asks for the server's clock and the end of its log.
pub async fn clock(client: &Client) -> Result<Pair, PgError> {
    Clock::read(&simple_query(client, CLOCK).await?)
}

/// What the keeper does on its connection.
pub(super) struct Slots<'a> {
    client: &'a Client,
    version_num: u32,
}

impl<'a> Slots<'a> {
    /// An advance may take long, and is not to be cut off by a setting of the role.
    pub(super) async fn new(client: &'a Client) -> Result<Self, PgError> {
        let sql = "SET statement_timeout = 0; \
            SELECT pg_catalog.current_setting('server_version_num')";
        let rows = simple_query(client, sql).await?;
        let version = rows.into_iter().flatten().flatten().next();
        let version_num = version.and_then(|version| version.parse().ok()).unwrap_or_default();
        Ok(Slots { client, version_num })
    }

    pub(super) async fn clock(&self) -> Result<Pair, PgError> {
        clock(self.client).await
    }

    pub(super) async fn slot(&self, name: &str) -> Result<Option<SlotInfo>, PgError> {
        let rows = simple_query(self.client, &SlotInfo::query(self.version_num, name)).await?;
        Ok(SlotInfo::from_rows(rows))
    }

    pub(super) async fn copy(&self, source: &str, target: &str) -> Result<(), PgError> {
        let sql = format!(
            "SELECT pg_catalog.pg_copy_logical_replication_slot({}, {}, false)",
            literal(source),
            literal(target)
        );
        simple_query(self.client, &sql).await.map(drop)
    }

    pub(super) async fn advance(&self, name: &str, to: Lsn) -> Result<(), PgError> {
        let sql =
            format!("SELECT pg_catalog.pg_replication_slot_advance({}, '{to}')", literal(name));
        simple_query(self.client, &sql).await.map(drop)
    }

    pub(super) async fn drop(&self, name: &str) -> Result<(), PgError> {
        let sql = format!("SELECT pg_catalog.pg_drop_replication_slot({})", literal(name));
        simple_query(self.client, &sql).await.map(drop)
    }
}

/// How much WAL a slot holds.
pub(super) fn held(slot: &SlotInfo, end: Lsn) -> u64 {
    slot.restart_lsn.map_or(0, |restart| end.0.saturating_sub(restart.0))
}
