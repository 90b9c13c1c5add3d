//! Whether the rules' tables are what they were.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::debug;

use super::ANSWER_TIMEOUT;
use super::broken::Broken;
use crate::postgres::catalog::TablesQuery;
use crate::postgres::client::simple_query;
use crate::postgres::error::PgErrorKind;
use crate::postgres::query::Rows;
use crate::rules::KnownTables;
use crate::ticks;

/// How often the catalog is asked for the rules' tables: a table that was renamed or dropped is
/// noticed so soon.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How many times as long as a look took there is none after it: in a catalog where it takes long,
/// it shall neither load the server nor hold up snapshots.
const LOOK_REST: u32 = 100;

/// What was seen of the rules' tables.
pub(super) struct Look {
    tables: TablesQuery,
    /// `None`: nothing yet.
    digest: Option<Rows>,
    /// When to look again.
    pub(super) due: Instant,
}

impl Look {
    pub(super) fn new(tables: TablesQuery) -> Self {
        Look { tables, digest: None, due: Instant::now() + LOOK_EVERY }
    }

    /// Looks at the rules' tables. Answers with them if there is a difference to the last look.
    pub(super) async fn at(
        &mut self,
        client: &tokio_postgres::Client,
    ) -> Result<Option<KnownTables>, Broken> {
        let start = Instant::now();
        // Should it not come to an end.
        self.due = start + LOOK_REST * ANSWER_TIMEOUT;
        let digest = rows(client, &self.tables.digest()).await?;
        self.due = ticks::within(LOOK_EVERY.max(LOOK_REST * start.elapsed()));
        if digest.is_none() || digest == self.digest {
            return Ok(None);
        }
        let Some(answer) = rows(client, &self.tables.sql()).await? else { return Ok(None) };
        let mut tables = self.tables.answer(answer);
        if let Some(publication) = self.tables.publication() {
            let Some(answer) = rows(client, publication.sql()).await? else { return Ok(None) };
            tables.publication = publication.answer(answer);
        }
        self.digest = digest;
        Ok(Some(tables))
    }
}

/// The rows of a question about the catalog; `None` if the server does not answer it: the barrier
/// can do without.
async fn rows(client: &tokio_postgres::Client, sql: &str) -> Result<Option<Rows>, Broken> {
    match timeout(ANSWER_TIMEOUT, simple_query(client, sql)).await {
        Ok(Ok(rows)) => Ok(Some(rows)),
        Ok(Err(error)) if *error.kind() != PgErrorKind::ConnectionLost => {
            debug!("no look at the rules' tables: {error}");
            Ok(None)
        }
        Ok(Err(error)) => Err(Broken::Connection(error)),
        Err(_) => Err(Broken::NoAnswer),
    }
}
