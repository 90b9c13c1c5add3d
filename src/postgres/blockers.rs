//! For whom does the creation of a slot wait?
//!
//! Postgres waits for every transaction that wrote before, with nothing in its log. The answer is
//! put together from what a role without further grants may see: everybody's locks, but others'
//! start times and names only with `pg_read_all_stats`.

use super::client;
use super::error::PgError;

/// The most transactions that one warning names.
const NAMED_MAX: usize = 3;

/// A transaction that a slot's creation waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// Its session; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The name of a prepared transaction.
    pub prepared: Option<String>,
    /// How long it has been open, in seconds, where that may be seen.
    pub age_seconds: Option<u64>,
    /// How many transactions have begun since it did: its age where no time may be seen.
    pub age_transactions: u64,
}

/// The oldest transactions that hold up `walsender`, those it waits for right now first.
pub async fn blockers(
    client: &tokio_postgres::Client,
    walsender: i32,
) -> Result<Vec<Blocker>, PgError> {
    let sql = format!(
        "SELECT l.pid, p.gid, \
           floor(extract(epoch FROM clock_timestamp() - coalesce(p.prepared, a.xact_start)))::bigint, \
           age(l.transactionid) \
         FROM pg_catalog.pg_locks l \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = l.transactionid \
         WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted \
           AND l.pid IS DISTINCT FROM {walsender} AND l.pid IS DISTINCT FROM pg_backend_pid() \
         ORDER BY coalesce(l.pid, 0) = ANY (pg_blocking_pids({walsender})) DESC, 4 DESC \
         LIMIT {NAMED_MAX}"
    );
    let rows = client::simple_query(client, &sql).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let [pid, prepared, seconds, transactions] = <[_; 4]>::try_from(row).ok()?;
            Some(Blocker {
                pid: pid.and_then(|pid| pid.parse().ok()),
                prepared,
                age_seconds: seconds.and_then(|seconds| seconds.parse().ok()),
                age_transactions: transactions?.parse().unwrap_or_default(),
            })
        })
        .collect())
}

/// Logs for whom a slot's creation waits.
pub(crate) async fn report(client: &tokio_postgres::Client, walsender: i32, slot: &str) {
    let found = match blockers(client, walsender).await {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(slot, %error, "cannot see what the slot's creation waits for");
            return;
        }
    };
    for blocker in found {
        let Blocker { pid, prepared, age_seconds, age_transactions } = blocker;
        match prepared {
            Some(gid) => tracing::warn!(
                slot,
                gid,
                age_seconds,
                age_transactions,
                "creating the slot waits for a prepared transaction: COMMIT PREPARED or ROLLBACK PREPARED it"
            ),
            None => tracing::warn!(
                slot,
                pid,
                age_seconds,
                age_transactions,
                "creating the slot waits for an open transaction to end"
            ),
        }
    }
}
