//! Of which tables does a publication make every UPDATE or DELETE fail? Any role may ask.

use tokio_postgres::Client;

use super::COLUMN_LISTS_SINCE;
use crate::postgres::PgError;
use crate::postgres::client::simple_query;
use crate::postgres::quote::literal;

/// A table whose statements fail, as `CheckCmdReplicaIdentity` of Postgres' execReplication.c has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Schema and name, as SQL writes them.
    pub sql_name: String,
    /// Why.
    pub why: FailingBecause,
}

/// Why the statements of a table fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailingBecause {
    /// It has no replica identity.
    NoIdentity,
    /// The publication's list of columns does not cover its identity.
    ColumnList,
}

/// Asks for the tables, by name.
///
/// # Errors
/// When the server cannot be asked.
pub async fn failing_tables(
    client: &Client,
    publication: &str,
    server_version_num: u32,
) -> Result<Vec<Failing>, PgError> {
    // pg_publication_tables names the tables that hold rows, or with publish_via_partition_root
    // their roots, which have no identity of their own to be looked at.
    let (lists, uncovered) = match server_version_num {
        COLUMN_LISTS_SINCE.. => (
            "LEFT JOIN pg_catalog.pg_publication_rel pr \
             ON pr.prpubid = p.oid AND pr.prrelid = c.oid",
            "pr.prattrs IS NOT NULL AND (c.relreplident = 'f' OR NOT \
             (i.indkey::int2[])[0:i.indnkeyatts - 1] <@ pr.prattrs::int2[])",
        ),
        _ => ("", "false"),
    };
    let sql = format!(
        "SELECT f.name, f.has_identity FROM (\
           SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, \
             c.relreplident = 'f' OR i.indrelid IS NOT NULL AS has_identity, \
             {uncovered} AS is_uncovered \
           FROM pg_catalog.pg_publication p \
           JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname \
           JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
           JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
           LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid \
             AND i.indisvalid AND i.indimmediate \
             AND CASE c.relreplident WHEN 'd' THEN i.indisprimary \
                                     WHEN 'i' THEN i.indisreplident ELSE false END \
           {lists} \
           WHERE p.pubname = {} AND (p.pubupdate OR p.pubdelete) AND c.relkind = 'r') f \
         WHERE NOT f.has_identity OR f.is_uncovered ORDER BY f.name",
        literal(publication)
    );
    let rows = simple_query(client, &sql).await?;
    let failing = rows.into_iter().filter_map(|row| {
        let [sql_name, has_identity] = <[_; 2]>::try_from(row).ok()?;
        let why = match has_identity.as_deref() {
            Some("t") => FailingBecause::ColumnList,
            _ => FailingBecause::NoIdentity,
        };
        Some(Failing { sql_name: sql_name?, why })
    });
    Ok(failing.collect())
}
