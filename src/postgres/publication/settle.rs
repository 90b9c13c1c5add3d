//! From when on does a change of a publication hold for every transaction?
//!
//! Postgres decodes what a transaction wrote as the catalog was when it wrote it. So what it wrote
//! into a table before the table was added is never sent, though it commits afterwards. Whoever
//! makes a slot waits for every open transaction; whoever changes the publication of a slot that is
//! there has to wait by himself, before the new rules are relied on.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use super::MARK;
use crate::change::Op;
use crate::postgres::client::simple_query;
use crate::postgres::quote::{identifier, literal};
use crate::postgres::{PgError, blockers};

/// How often is looked whether they have ended.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// After how many of these it is said for whom is waited.
const ASKED_UNTIL_REPORT: u32 = 20;

/// The first minor of each version whose walsender notices that a table was added while a
/// transaction that had written to it was open; those before go on leaving the table out
/// ("Fix data loss in logical replication", May 2025).
const NOTICED_SINCE: [u32; 4] = [140_018, 150_013, 160_009, 170_005];

/// Waits until every transaction that is open now has ended, and logs now and then for whom.
///
/// # Errors
/// When the server cannot be asked. Cancel safe.
pub async fn wait_for_open_transactions(client: &Client, name: &str) -> Result<(), PgError> {
    let until = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())";
    let until = simple_query(client, until).await?.into_iter().flatten().flatten().next();
    let until = until.unwrap_or_default();
    let have_ended = format!(
        "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) >= '{until}'::xid8"
    );
    let mut asked = 0;
    loop {
        let rows = simple_query(client, &have_ended).await?;
        if rows.iter().flatten().flatten().any(|answer| answer == "t") {
            return Ok(());
        }
        asked += 1;
        if asked % ASKED_UNTIL_REPORT == 0 {
            report(client, name).await;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn report(client: &Client, publication: &str) {
    // No walsender waits here, so that it is simply the oldest ones.
    for blocker in blockers(client, 0).await.unwrap_or_default() {
        tracing::warn!(
            publication,
            pid = blocker.pid,
            gid = blocker.prepared,
            age_seconds = blocker.age_seconds,
            age_transactions = blocker.age_transactions,
            "the changed publication holds for all when this open transaction has ended"
        );
    }
}

/// What to run when they have ended, on a publication of these operations.
pub fn settle(name: &str, ops: &BTreeSet<Op>, server_version_num: u32) -> Vec<String> {
    let publication = identifier(name);
    let mark = format!("COMMENT ON PUBLICATION {publication} IS {}", literal(MARK));
    let is_noticed =
        match NOTICED_SINCE.iter().find(|since| *since / 10_000 == server_version_num / 10_000) {
            Some(since) => server_version_num >= *since,
            None => server_version_num >= 180_000,
        };
    if is_noticed {
        return vec![mark];
    }
    // Any change makes the walsender look again.
    let ops: Vec<_> = ops.iter().map(|op| op.name()).collect();
    let touch = format!("ALTER PUBLICATION {publication} SET (publish = '{}')", ops.join(", "));
    vec![touch, mark]
}

/// The wait as SQL, for `--print`.
pub const WAIT_SQL: &str = "\
DO $walpurge$
DECLARE
    bound xid8 := pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot());
BEGIN
    WHILE pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) < bound LOOP
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
END
$walpurge$;
";
