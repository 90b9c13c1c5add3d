//! Is every replica that actions wait for a replica of this server, and how far is it behind?

use super::Targets;
use super::database::{bounded, told};
use super::finding::Findings;
use crate::amount::bytes;
use crate::lsn::Lsn;
use crate::postgres::{ConnectConfig, PgError, ReplicationSession, Rows, SystemIdentity};

const QUERY: &str = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn(), \
     current_setting('recovery_min_apply_delay')";

/// Looks at each; `primary` is who streams.
pub(super) async fn replicas(
    targets: Targets<'_>,
    primary: Option<&SystemIdentity>,
    findings: &mut Findings,
) {
    let Some(primary) = primary.filter(|_| !targets.replicas.is_empty()) else { return };
    for connect in targets.replicas {
        let subject = format!("replica {}", connect.target());
        match bounded("ask how far it has replayed the log", ask(connect)).await {
            Ok((identity, rows)) => judge(primary, &identity, &rows, subject, findings),
            Err(error) => findings.failed(subject, told(&error), error.hint()),
        }
    }
}

async fn ask(connect: &ConnectConfig) -> Result<(SystemIdentity, Rows), PgError> {
    let mut session = ReplicationSession::connect(connect).await?;
    let identity = session.identify_system().await?;
    let rows = session.simple_query(QUERY).await?;
    session.close().await;
    Ok((identity, rows))
}

fn judge(
    primary: &SystemIdentity,
    identity: &SystemIdentity,
    rows: &Rows,
    subject: String,
    findings: &mut Findings,
) {
    let hint = "correct postgres.replicas.urls: each is a standby of the server at postgres.url";
    if identity.system_id != primary.system_id {
        let message = format!("a server of another cluster: system {}", identity.system_id);
        return findings.failed(subject, message, hint.to_owned());
    }
    if identity.timeline != primary.timeline {
        let message =
            format!("on timeline {}, the server is on {}", identity.timeline, primary.timeline);
        return findings.failed(subject, message, hint.to_owned());
    }
    let Some([in_recovery, lsn, delay]) = rows.first().map(Vec::as_slice) else {
        return findings.failed(subject, "its answer cannot be understood", None);
    };
    if in_recovery.as_deref() != Some("t") {
        return findings.note(
            subject,
            "not a standby: what is visible there is what the barrier waits for anyway",
            None,
        );
    }
    let lsn: Lsn = lsn.as_deref().and_then(|lsn| lsn.parse().ok()).unwrap_or_default();
    let behind = bytes(primary.flushed_lsn.0.saturating_sub(lsn.0));
    let message = format!("it has replayed the log up to {lsn}, {behind} behind");
    match delay.as_deref() {
        None | Some("0") => findings.ok(subject, message),
        Some(delay) => findings.warning(
            subject,
            format!(
                "{message}; recovery_min_apply_delay is {delay}, and every action waits for it"
            ),
            "take it out of postgres.replicas.urls if no reader fills a cache from it".to_owned(),
        ),
    }
}
