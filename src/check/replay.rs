//! Is the slot for replays there, and how far back can one go?

use super::Targets;
use super::database::{bounded, told};
use super::finding::Findings;
use super::server::Server;
use crate::amount::bytes;
use crate::config::replay_slot;
use crate::postgres::client::simple_query;
use crate::postgres::{PgError, SlotInfo, WalStatus, quote, server_identity};
use crate::replay::{Origin, read_times, shown};

/// Looks at the slot from which `replay` copies.
pub(super) async fn replay(
    client: &tokio_postgres::Client,
    targets: Targets<'_>,
    server: &Server,
    findings: &mut Findings,
) {
    let config = targets.postgres;
    let name = replay_slot(&config.slot);
    let subject = format!("slot {name}");
    let sql = SlotInfo::query(server.version_num, &name);
    let slot = match bounded("read pg_replication_slots", simple_query(client, &sql)).await {
        Ok(rows) => SlotInfo::from_rows(rows),
        Err(error) => return findings.failed(subject, told(&error), error.hint()),
    };
    let slot = match (slot, config.replay) {
        (None, None) => return,
        (None, Some(_)) => {
            let message = "missing: run makes it, and what is committed before that cannot be \
                           replayed";
            return findings.warning(subject, message, "walpurge setup".to_owned());
        }
        (Some(slot), _) => slot,
    };
    let usable = slot.usable(config.plugin.name(), targets.connect.dbname());
    let held = slot.restart_lsn.map_or(0, |lsn| server.end_lsn.0.saturating_sub(lsn.0));
    let held = format!("it holds {} of WAL", bytes(held));
    let Some(replay) = config.replay else {
        if usable.is_ok() {
            let drop = format!("SELECT pg_drop_replication_slot({});", quote::literal(&name));
            findings.warning(
                subject,
                format!("{held}, and nothing moves it: [postgres.replay] is absent"),
                format!("add [postgres.replay], or: {drop}"),
            );
        }
        return;
    };
    if let Err(error) = usable {
        return findings.failed(subject, told(&error), error.hint());
    }
    let Some(position) = slot.confirmed_flush_lsn else { return };
    let since = async {
        let server = server_identity(client).await?;
        let origin = Origin { system_id: server.system_id, timeline: server.timeline };
        let times = targets.state_dir.and_then(|dir| read_times(dir, &origin).ok().flatten());
        Ok::<_, PgError>(times.and_then(|times| times.first_from(position)))
    };
    let since = match bounded("ask for the server's identity", since).await {
        Ok(Some(pair)) => format!("what was committed since {}", shown(pair.at)),
        _ => "since when is not known here".to_owned(),
    };
    let message = format!("one can replay from {position} on ({since}); {held}");
    match slot.wal_status {
        WalStatus::Unreserved => findings.warning(
            subject,
            format!("{message}, which the next checkpoint may remove"),
            "lower postgres.replay.max_wal, or raise max_slot_wal_keep_size".to_owned(),
        ),
        _ if held_too_much(&slot, server, replay.max_wal) => findings.warning(
            subject,
            format!("{message}, more than postgres.replay.max_wal"),
            "start walpurge, or end transactions that stay open for long".to_owned(),
        ),
        _ => findings.ok(subject, message),
    }
}

fn held_too_much(slot: &SlotInfo, server: &Server, max_wal: u64) -> bool {
    slot.restart_lsn.is_some_and(|lsn| server.end_lsn.0.saturating_sub(lsn.0) > max_wal)
}
