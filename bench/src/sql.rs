//! A connection to Postgres that stays open, as an application's does.

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, Statement};

/// One connection.
pub(crate) struct Sql {
    runtime: Runtime,
    client: Client,
}

impl Sql {
    pub(crate) fn connect(url: &str) -> Result<Self> {
        // One thread, so that a reply wakes nobody but the one who waits for it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls))?;
        // Its error is the next statement's as well.
        runtime.spawn(async { drop(connection.await) });
        Ok(Sql { runtime, client })
    }

    /// Runs a statement; the first column of its first row, if there is one.
    pub(crate) fn run(&self, sql: &str) -> Result<Option<String>> {
        let rows = self.runtime.block_on(self.client.simple_query(sql));
        let value = rows.with_context(|| sql.to_owned())?.iter().find_map(|row| match row {
            SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
            _ => None,
        });
        Ok(value)
    }

    pub(crate) fn prepare(&self, sql: &str) -> Result<Statement> {
        self.runtime.block_on(self.client.prepare(sql)).with_context(|| sql.to_owned())
    }

    /// Runs a prepared statement with one number, in a transaction of its own.
    pub(crate) fn commit(&self, statement: &Statement, id: i64) -> Result<()> {
        let rows = self.runtime.block_on(self.client.execute(statement, &[&id]))?;
        anyhow::ensure!(rows == 1, "{rows} rows instead of one have changed");
        Ok(())
    }
}
