//! Is the slot there and ours, and can one be made with the plugin?
//!
//! The latter is tried, with a temporary slot that is dropped again, since nothing else tells
//! whether the plugin is installed and allowed.

use std::time::Duration;

use tokio::time::timeout;

use super::database::{bounded, told};
use super::finding::Findings;
use super::plugins::Trial;
use super::server::Server;
use crate::amount::bytes;
use crate::config::PostgresConfig;
use crate::postgres::client::simple_query;
use crate::postgres::{
    Blocker, Persistence, PgError, ReplicationSession, SlotInfo, WalStatus, blockers, quote,
};

/// How long the trial may take: Postgres makes a slot at once, unless it has to wait for a
/// transaction, which may be long.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server itself lets the trial wait: should we be killed in between, nothing of it
/// stays for longer.
const LOCK_TIMEOUT_SQL: &str = "SET lock_timeout = '10s'";

/// How long a canceled trial may take to end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    There,
    Missing,
    /// It could not be asked for.
    Unknown,
}

/// Looks at the configured slot.
pub(super) async fn slot(
    client: &tokio_postgres::Client,
    config: &PostgresConfig,
    dbname: &str,
    server: &Server,
    findings: &mut Findings,
) -> Presence {
    let sql = SlotInfo::query(server.version_num, &config.slot);
    let subject = format!("slot {}", config.slot);
    let found = match bounded("read pg_replication_slots", simple_query(client, &sql)).await {
        Ok(rows) => SlotInfo::from_rows(rows),
        Err(error) => {
            findings.failed(subject, told(&error), error.hint());
            return Presence::Unknown;
        }
    };
    let Some(slot) = found else {
        missing(config, subject, findings);
        return Presence::Missing;
    };
    if let Err(error) = slot.usable(config.plugin.name(), dbname) {
        findings.failed(subject, told(&error), error.hint());
        return Presence::There;
    }
    let used = match (slot.active, slot.active_pid) {
        (true, Some(pid)) => format!("in use by pid {pid} (a daemon runs)"),
        (true, None) => "in use (a daemon runs)".to_owned(),
        (false, _) => "free".to_owned(),
    };
    let held = slot.restart_lsn.map(|lsn| bytes(server.end_lsn.0.saturating_sub(lsn.0)));
    let held = held.map_or("no WAL".to_owned(), |held| format!("{held} of WAL"));
    match slot.wal_status {
        WalStatus::Unreserved => findings.warning(
            subject,
            format!("{used}; it holds {held}, which the next checkpoint may remove"),
            "start walpurge, or raise max_slot_wal_keep_size".to_owned(),
        ),
        _ => findings.ok(subject, format!("{used}; it holds {held}")),
    }
    Presence::There
}

fn missing(config: &PostgresConfig, subject: String, findings: &mut Findings) {
    let hint = format!(
        "SELECT pg_create_logical_replication_slot({}, {});",
        quote::literal(&config.slot),
        quote::literal(config.plugin.name())
    );
    match config.create_slot {
        true => findings.warning(
            subject,
            "missing: run creates it, and runs every rule's fallback for what was committed before",
            hint,
        ),
        false => findings.failed(subject, "missing, and create_slot is false", hint),
    }
}

/// Whether there is room for the slots that walpurge makes.
pub(super) fn room(server: &Server, presence: Presence, findings: &mut Findings) {
    const SUBJECT: &str = "max_replication_slots";
    let message = format!("{} of {} in use", server.slots.used, server.slots.max);
    let hint = || {
        "drop a slot that nobody uses: SELECT slot_name FROM pg_replication_slots WHERE NOT \
         active;\nor raise max_replication_slots and restart the server"
            .to_owned()
    };
    match presence {
        // run makes a temporary one first, which setup does not.
        Presence::Missing if server.slots.used + 1 == server.slots.max => findings.warning(
            SUBJECT,
            format!("{message}: run makes the slot from a temporary one and needs room for two"),
            hint(),
        ),
        _ if !server.slots.is_full() => findings.ok(SUBJECT, message),
        Presence::Missing => {
            findings.failed(SUBJECT, format!("{message}: no room for ours"), hint());
        }
        _ => findings.warning(
            SUBJECT,
            format!("{message}: no room for run --dry-run, nor to make a lost slot anew"),
            hint(),
        ),
    }
}

/// What came of a trial.
enum Tried {
    Works,
    /// The server waits for these, and so it has loaded the plugin.
    Waits(Vec<Blocker>),
    Failed(PgError),
}

/// Makes and drops a temporary slot, in a bounded time.
async fn trial(
    session: &mut ReplicationSession,
    client: &tokio_postgres::Client,
    plugin: &str,
) -> Tried {
    let name = format!("walpurge_check_{:08x}", fastrand::u32(..));
    let set = bounded("set lock_timeout", session.simple_query(LOCK_TIMEOUT_SQL)).await;
    if let Err(error) = set {
        return Tried::Failed(error);
    }
    let walsender = session.process_id();
    let created = {
        let mut creation =
            std::pin::pin!(session.create_slot(&name, plugin, Persistence::Temporary));
        match timeout(TRIAL_TIMEOUT, &mut creation).await {
            Ok(created) => created,
            Err(_) => {
                let waits_for = bounded("ask for whom", blockers(client, walsender)).await;
                // Where it cannot be canceled, lock_timeout ends it.
                let cancel = format!("SELECT pg_cancel_backend({walsender})");
                let _ = bounded("cancel", simple_query(client, &cancel)).await;
                // Polled on, so that the slot is gone before anybody looks for it.
                let _ = timeout(CANCEL_TIMEOUT, creation).await;
                return Tried::Waits(waits_for.unwrap_or_default());
            }
        }
    };
    match created {
        Ok(_) => {
            // It ends with the session anyway.
            let _ = bounded("drop the slot", session.drop_slot(&name)).await;
            Tried::Works
        }
        Err(error) => Tried::Failed(error),
    }
}

/// Tries the configured plugin.
pub(super) async fn try_plugin(
    session: &mut ReplicationSession,
    client: &tokio_postgres::Client,
    plugin: &str,
    findings: &mut Findings,
) -> Trial {
    let subject = format!("plugin {plugin}");
    match trial(session, client, plugin).await {
        Tried::Works => {
            findings.ok(subject, "made and dropped a temporary slot with it");
            Trial::Works
        }
        Tried::Waits(blockers) => {
            waits(blockers, subject, findings);
            Trial::Works
        }
        Tried::Failed(error) => {
            findings.failed(subject, told(&error), error.hint());
            Trial::Refused(error.kind().clone())
        }
    }
}

/// Tries another one, of which nothing is said here.
pub(super) async fn try_other_plugin(
    session: &mut ReplicationSession,
    client: &tokio_postgres::Client,
    plugin: &str,
) -> Trial {
    match trial(session, client, plugin).await {
        Tried::Works | Tried::Waits(_) => Trial::Works,
        Tried::Failed(error) => Trial::Refused(error.kind().clone()),
    }
}

fn waits(blockers: Vec<Blocker>, subject: String, findings: &mut Findings) {
    let named: Vec<_> = blockers.iter().map(blocker).collect();
    let for_whom = match named.is_empty() {
        true => "for somebody whom this role cannot see".to_owned(),
        false => format!("for {}", named.join(", ")),
    };
    let mends: Vec<_> = blockers.iter().map(mend).collect();
    let mends = match mends.is_empty() {
        true => "end transactions that are open for long: \
                 SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start;"
            .to_owned(),
        false => mends.join("\n"),
    };
    findings.warning(
        subject,
        format!(
            "given up after {TRIAL_TIMEOUT:?}: making a slot waits {for_whom}; \
             run would wait too if it has to make its slot"
        ),
        mends,
    );
}

fn blocker(blocker: &Blocker) -> String {
    let who = match (blocker.pid, &blocker.prepared) {
        (_, Some(gid)) => format!("the prepared transaction {gid:?}"),
        (Some(pid), None) => format!("the transaction of pid {pid}"),
        (None, None) => "a transaction".to_owned(),
    };
    match blocker.age_seconds {
        Some(seconds) => format!("{who} (open for {seconds} s)"),
        None => who,
    }
}

fn mend(blocker: &Blocker) -> String {
    match (blocker.pid, &blocker.prepared) {
        (_, Some(gid)) => {
            format!("ROLLBACK PREPARED {0};  or COMMIT PREPARED {0};", quote::literal(gid))
        }
        (Some(pid), None) => {
            format!("let it end, or end it: SELECT pg_terminate_backend({pid});")
        }
        (None, None) => "let it end".to_owned(),
    }
}

/// Says that the plugin was not tried, and why.
pub(super) fn not_tried(plugin: &str, why: &str, findings: &mut Findings) {
    findings.warning(format!("plugin {plugin}"), format!("not tried: {why}"), None);
}
