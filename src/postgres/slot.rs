//! What is known about replication slots, and how are they made and copied?
//!
//! The questions are SQL text, so that a replication session and an ordinary client can ask the
//! same ones.

use std::time::Duration;

use super::error::{PgError, PgErrorKind, Subject};
use super::query::Rows;
use super::quote::{identifier, literal};
use super::session::ReplicationSession;
use crate::lsn::Lsn;

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// The slot's name.
    pub name: String,
    /// The output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// The database; `None` for a physical slot.
    pub database: Option<String>,
    /// Whether the slot ends with the session that made it.
    pub temporary: bool,
    /// Whether a session uses it. True as well while it is being created.
    pub active: bool,
    /// The walsender that uses it.
    pub active_pid: Option<i32>,
    /// From where on WAL is kept for it.
    pub restart_lsn: Option<Lsn>,
    /// What was confirmed; `None` while it is being created.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// Whether the WAL that it needs is still there.
    pub wal_status: WalStatus,
    /// How many bytes may be written until it may be lost; `None`: without a limit, or lost.
    pub safe_wal_bytes: Option<i64>,
    /// Why it was invalidated (Postgres 16 and later).
    pub invalidation_reason: Option<String>,
}

/// `pg_replication_slots.wal_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// Beyond it, but kept.
    Extended,
    /// The next checkpoint may remove it.
    Unreserved,
    /// Gone.
    Lost,
    /// The server did not say: the slot has no restart_lsn yet.
    Unknown,
}

impl SlotInfo {
    /// The question for one slot; `server_version_num` decides which columns there are.
    pub fn query(server_version_num: u32, name: &str) -> String {
        let reason = match server_version_num {
            170_000.. => "invalidation_reason",
            160_000.. => "CASE WHEN conflicting THEN 'conflicting' END",
            _ => "NULL",
        };
        format!(
            "SELECT slot_name, plugin, database, temporary, active, active_pid, restart_lsn, \
             confirmed_flush_lsn, wal_status, safe_wal_size, {reason} \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            literal(name)
        )
    }

    /// The answer to [`query`](Self::query): `None` if there is no such slot, or the answer is
    /// not one.
    pub fn from_rows(rows: Rows) -> Option<SlotInfo> {
        let row: [Option<String>; 11] = rows.into_iter().next()?.try_into().ok()?;
        let [name, plugin, database, temporary, active, pid, restart, confirmed, status, safe, why] =
            row;
        let lsn = |text: Option<String>| text.and_then(|text| text.parse().ok());
        Some(SlotInfo {
            name: name?,
            plugin,
            database,
            temporary: temporary.as_deref() == Some("t"),
            active: active.as_deref() == Some("t"),
            active_pid: pid.and_then(|pid| pid.parse().ok()),
            restart_lsn: lsn(restart),
            confirmed_flush_lsn: lsn(confirmed),
            wal_status: match status.as_deref() {
                Some("reserved") => WalStatus::Reserved,
                Some("extended") => WalStatus::Extended,
                Some("unreserved") => WalStatus::Unreserved,
                Some("lost") => WalStatus::Lost,
                _ => WalStatus::Unknown,
            },
            safe_wal_bytes: safe.and_then(|bytes| bytes.parse().ok()),
            invalidation_reason: why,
        })
    }

    /// Whether changes can be read from it no more.
    pub fn is_lost(&self) -> bool {
        self.wal_status == WalStatus::Lost || self.invalidation_reason.is_some()
    }

    /// Checks that the slot is ours to use: its plugin, its database, its WAL. Whether another
    /// session uses it at the moment is left to the server.
    pub fn usable_for(&self, plugin: &str, database: &str) -> Result<(), PgErrorKind> {
        if self.plugin.as_deref() != Some(plugin) {
            return Err(PgErrorKind::SlotOfOtherPlugin { plugin: self.plugin.clone() });
        }
        if self.database.as_deref() != Some(database) {
            return Err(PgErrorKind::SlotOfOtherDatabase { database: self.database.clone() });
        }
        if self.is_lost() { Err(PgErrorKind::SlotLost) } else { Ok(()) }
    }

    /// The same as an error that says which slot it is, and what mends it.
    pub fn usable(&self, plugin: &str, database: &str) -> Result<(), PgError> {
        self.usable_for(plugin, database).map_err(|kind| {
            let slot = Some(self.name.clone());
            let subject = Subject { slot, plugin: Some(plugin.to_string()), ..Subject::default() };
            unusable(&self.name, kind).about(&subject)
        })
    }
}

/// How long a slot lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Until its session ends.
    Temporary,
    /// Until it is dropped.
    Permanent,
}

/// A slot that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Its name.
    pub name: String,
    /// Every transaction that commits after it is streamed.
    pub consistent_lsn: Lsn,
}

/// From Postgres 17 on a slot can follow a failover to a standby that synchronizes slots.
pub const FAILOVER_SINCE: u32 = 170_000;

/// How often a creation that waits says for whom.
const WAIT_REPORT_EVERY: Duration = Duration::from_secs(2);

impl ReplicationSession {
    /// The slot of that name, if there is one.
    pub async fn slot(&mut self, name: &str) -> Result<Option<SlotInfo>, PgError> {
        let query = SlotInfo::query(self.server_version_num(), name);
        let rows = self.command("read pg_replication_slots", &query).await?;
        Ok(SlotInfo::from_rows(rows))
    }

    /// Checks that a slot is there and ours to use; see [`SlotInfo::usable_for`].
    pub async fn usable_slot(&mut self, name: &str, plugin: &str) -> Result<SlotInfo, PgError> {
        let found = self.slot(name).await?;
        let subject = self.subject_mut();
        subject.slot = Some(name.to_string());
        subject.plugin = Some(plugin.to_string());
        let checked = match found {
            None => Err(unusable(name, PgErrorKind::SlotMissing)),
            Some(slot) => slot.usable(plugin, &subject.dbname).map(|()| slot),
        };
        checked.map_err(|error| error.about(subject))
    }

    /// What the server would say if this session were to use a slot that another one uses.
    pub fn slot_in_use(&mut self, slot: &SlotInfo) -> PgError {
        unusable(&slot.name, PgErrorKind::SlotInUse { pid: slot.active_pid })
            .about(self.subject_mut())
    }

    /// Makes a slot. Waits for every transaction that writes, which may be long: see
    /// [`create_slot_reporting`](Self::create_slot_reporting). Not cancel safe.
    pub async fn create_slot(
        &mut self,
        name: &str,
        plugin: &str,
        persistence: Persistence,
    ) -> Result<CreatedSlot, PgError> {
        let (kind, options) = match persistence {
            Persistence::Temporary => (" TEMPORARY", "NOEXPORT_SNAPSHOT"),
            Persistence::Permanent if self.server_version_num() >= FAILOVER_SINCE => {
                ("", "(SNAPSHOT 'nothing', FAILOVER)")
            }
            Persistence::Permanent => ("", "NOEXPORT_SNAPSHOT"),
        };
        let command = format!(
            "CREATE_REPLICATION_SLOT {}{kind} LOGICAL {} {options}",
            identifier(name),
            identifier(plugin)
        );
        let subject = self.subject_mut();
        subject.slot = Some(name.to_string());
        subject.plugin = Some(plugin.to_string());
        let operation = format!("create slot {name:?}");
        let rows = self.command(&operation, &command).await?;
        self.created(&operation, rows)
    }

    /// Makes a slot, and while the server waits for open transactions, asks on `client` every 2 s
    /// for whom and logs a warning with their pids and ages.
    pub async fn create_slot_reporting(
        &mut self,
        name: &str,
        plugin: &str,
        persistence: Persistence,
        client: &tokio_postgres::Client,
    ) -> Result<CreatedSlot, PgError> {
        let walsender = self.process_id();
        let mut creation = std::pin::pin!(self.create_slot(name, plugin, persistence));
        loop {
            // The creation is polled on, never dropped, so that it need not be cancel safe.
            match tokio::time::timeout(WAIT_REPORT_EVERY, &mut creation).await {
                Ok(created) => return created,
                Err(_) => {
                    let report = super::blockers::report(client, walsender, name);
                    // The question must not outlast the wait.
                    let _ = tokio::time::timeout(WAIT_REPORT_EVERY, report).await;
                }
            }
        }
    }

    /// Copies a slot, from where it stands; a temporary copy belongs to this session. The source
    /// may be in use.
    pub async fn copy_slot(
        &mut self,
        source: &str,
        target: &str,
        persistence: Persistence,
    ) -> Result<CreatedSlot, PgError> {
        self.subject_mut().slot = Some(source.to_string());
        let sql = format!(
            "SELECT slot_name, lsn FROM \
             pg_catalog.pg_copy_logical_replication_slot({}, {}, {})",
            literal(source),
            literal(target),
            persistence == Persistence::Temporary
        );
        let operation = format!("copy slot {source:?} to {target:?}");
        let rows = self.command(&operation, &sql).await?;
        self.created(&operation, rows)
    }

    /// [`copy_slot`](Self::copy_slot) for a copy that ends with this session.
    pub async fn copy_slot_temporary(
        &mut self,
        source: &str,
        target: &str,
    ) -> Result<CreatedSlot, PgError> {
        self.copy_slot(source, target, Persistence::Temporary).await
    }

    /// Lets a permanent slot that nobody uses follow a failover, where the server can do that.
    pub async fn let_slot_fail_over(&mut self, name: &str) -> Result<(), PgError> {
        if self.server_version_num() < FAILOVER_SINCE {
            return Ok(());
        }
        let command = format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", identifier(name));
        self.command(&format!("let slot {name:?} fail over"), &command).await.map(drop)
    }

    /// Drops a slot that nobody uses.
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), PgError> {
        self.subject_mut().slot = Some(name.to_string());
        let command = format!("DROP_REPLICATION_SLOT {}", identifier(name));
        self.command(&format!("drop slot {name:?}"), &command).await.map(drop)
    }

    /// Moves a slot that nobody uses forward, past what cannot be decoded.
    pub async fn advance_slot(&mut self, name: &str, to: Lsn) -> Result<(), PgError> {
        self.subject_mut().slot = Some(name.to_string());
        let sql = format!(
            "SELECT end_lsn FROM pg_catalog.pg_replication_slot_advance({}, '{to}')",
            literal(name)
        );
        self.command(&format!("advance slot {name:?} to {to}"), &sql).await.map(drop)
    }

    /// The end of WAL that is flushed, on a primary.
    pub async fn current_wal_flush_lsn(&mut self) -> Result<Lsn, PgError> {
        let operation = "ask for the end of WAL";
        let rows = self.command(operation, "SELECT pg_catalog.pg_current_wal_flush_lsn()").await?;
        let lsn = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
        lsn.ok_or_else(|| PgError::new(PgErrorKind::Protocol, operation))
    }

    fn created(&mut self, operation: &str, rows: Rows) -> Result<CreatedSlot, PgError> {
        let created = rows.into_iter().next().and_then(|row| {
            let mut row = row.into_iter().flatten();
            Some(CreatedSlot { name: row.next()?, consistent_lsn: row.next()?.parse().ok()? })
        });
        created
            .ok_or_else(|| PgError::new(PgErrorKind::Protocol, operation).about(self.subject_mut()))
    }
}

fn unusable(slot: &str, kind: PgErrorKind) -> PgError {
    let operation = format!("use slot {slot:?}: {}", reason(&kind));
    PgError::new(kind, operation)
}

fn reason(kind: &PgErrorKind) -> String {
    match kind {
        PgErrorKind::SlotMissing => "there is none of that name".into(),
        PgErrorKind::SlotOfOtherPlugin { plugin: Some(plugin) } => {
            format!("it is for plugin {plugin:?}")
        }
        PgErrorKind::SlotOfOtherPlugin { plugin: None } => "it is a physical one".into(),
        PgErrorKind::SlotOfOtherDatabase { database: Some(database) } => {
            format!("it belongs to database {database:?}")
        }
        PgErrorKind::SlotInUse { pid: Some(pid) } => format!("it is active for PID {pid}"),
        PgErrorKind::SlotInUse { pid: None } => "it is active".into(),
        _ => "WAL that it needs is gone".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;

    fn row(values: [&str; 11]) -> Rows {
        let value = |text: &str| (!text.is_empty()).then(|| text.to_string());
        vec![values.iter().map(|text| value(text)).collect()]
    }

    #[test]
    fn a_row_becomes_a_slot() {
        let slot = SlotInfo::from_rows(row([
            "w", "wal2json", "shop", "f", "t", "4711", "0/10", "0/20", "extended", "-5", "",
        ]))
        .unwrap();
        assert_eq!((slot.active_pid, slot.safe_wal_bytes), (Some(4711), Some(-5)));
        assert_eq!(slot.confirmed_flush_lsn, Some(Lsn(0x20)));
        assert_eq!(slot.usable_for("wal2json", "shop"), Ok(()));
        assert_eq!(SlotInfo::from_rows(vec![]), None);
        assert_eq!(SlotInfo::from_rows(vec![vec![None]]), None);
    }

    #[test]
    fn a_slot_that_is_not_ours_says_why() {
        let slot = |plugin, database, status, reason| {
            let row = row(["w", plugin, database, "f", "f", "", "", "", status, "", reason]);
            SlotInfo::from_rows(row).unwrap().usable_for("wal2json", "shop")
        };
        assert_eq!(
            slot("pgoutput", "shop", "reserved", ""),
            Err(PgErrorKind::SlotOfOtherPlugin { plugin: Some("pgoutput".into()) })
        );
        assert_eq!(
            slot("", "", "reserved", ""),
            Err(PgErrorKind::SlotOfOtherPlugin { plugin: None })
        );
        assert_eq!(
            slot("wal2json", "x", "lost", ""),
            Err(PgErrorKind::SlotOfOtherDatabase { database: Some("x".into()) })
        );
        assert_eq!(slot("wal2json", "shop", "lost", ""), Err(PgErrorKind::SlotLost));
        assert_eq!(slot("wal2json", "shop", "reserved", "idle"), Err(PgErrorKind::SlotLost));
    }
}
