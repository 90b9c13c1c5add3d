//! What the barrier's connection asks and writes, each within [`ANSWER_TIMEOUT`].

use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tracing::debug;

use super::broken::Broken;
use super::{ANSWER_TIMEOUT, HEARTBEAT_PREFIX};
use crate::postgres::client::simple_query;
use crate::postgres::standby_names;
use crate::snapshot::Snapshot;

/// What other sessions can see.
pub(super) async fn snapshot(
    client: &tokio_postgres::Client,
    question: &tokio_postgres::Statement,
) -> Result<Snapshot, Broken> {
    let answer = timeout(ANSWER_TIMEOUT, client.query_one(question, &[])).await;
    let row = answer.map_err(|_| Broken::NoAnswer)?.map_err(Broken::Query)?;
    let snapshot: String = row.try_get(0).map_err(Broken::Query)?;
    snapshot.parse().map_err(|_| Broken::NoAnswer)
}

/// Begins and ends a transaction with an ID of its own: a snapshot goes no further than the last
/// one that has ended, and does not list those that are open beyond that.
pub(super) async fn use_transaction_id(client: &tokio_postgres::Client) -> Result<(), Broken> {
    // Its end is not to wait for a standby.
    let sql = "BEGIN; SET LOCAL synchronous_commit = off; \
               SELECT pg_catalog.pg_current_xact_id(); COMMIT";
    match timeout(ANSWER_TIMEOUT, client.batch_execute(sql)).await {
        Ok(Ok(())) => Ok(()),
        // A standby has no IDs to give, and shows what it has replayed.
        Ok(Err(error)) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
            let rolled_back = timeout(ANSWER_TIMEOUT, client.batch_execute("ROLLBACK")).await;
            rolled_back.map_err(|_| Broken::NoAnswer)?.map_err(Broken::Query)
        }
        Ok(Err(error)) => Err(Broken::Query(error)),
        Err(_) => Err(Broken::NoAnswer),
    }
}

/// Whether the server takes us for a synchronous standby.
pub(super) async fn waits_for_us(
    client: &tokio_postgres::Client,
    application_name: &str,
) -> Result<bool, Broken> {
    let asked = timeout(ANSWER_TIMEOUT, simple_query(client, standby_names::QUERY)).await;
    let rows = asked.map_err(|_| Broken::NoAnswer)?.map_err(Broken::Connection)?;
    Ok(standby_names::refuse(&rows, application_name).is_err())
}

/// Writes a heartbeat.
pub(super) async fn beat(client: &tokio_postgres::Client) -> Result<(), Broken> {
    let sql = "SELECT pg_catalog.pg_logical_emit_message(false, $1, '')";
    match timeout(ANSWER_TIMEOUT, client.execute(sql, &[&HEARTBEAT_PREFIX])).await {
        Ok(Ok(_)) => Ok(()),
        // A standby cannot write one, and needs none.
        Ok(Err(error)) if !error.is_closed() => {
            debug!("no heartbeat: {error}");
            Ok(())
        }
        Ok(Err(error)) => Err(Broken::Query(error)),
        Err(_) => Err(Broken::NoAnswer),
    }
}
