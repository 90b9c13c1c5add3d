//! What a publication holds, as the catalog says. Any role may ask.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::{COLUMN_LISTS_SINCE, GENERATED_SINCE, MARK, MARK_OF_CHANGE};
use crate::change::Op;
use crate::postgres::PgError;
use crate::postgres::client::simple_query;
use crate::postgres::query::Rows;
use crate::postgres::quote::literal;

/// A publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Who owns it.
    pub owner: String,
    /// Its comment.
    pub comment: String,
    /// Whether it is FOR ALL TABLES.
    pub all_tables: bool,
    /// The schemas all of whose tables it holds.
    pub schemas: BTreeSet<String>,
    /// The operations that it publishes.
    pub ops: BTreeSet<Op>,
    /// Whether partitions' changes come under the name of the partitioned table, and a TRUNCATE of
    /// a partition not at all.
    pub via_root: bool,
    /// Whether it holds stored generated columns (Postgres 18 and later).
    pub generated: bool,
    /// The tables that it names, by OID.
    pub tables: BTreeMap<u32, FoundTable>,
}

/// A table that a publication names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundTable {
    /// Schema and name, as SQL writes them.
    pub sql_name: String,
    /// Its schema.
    pub schema: String,
    /// The columns that it publishes, in their order; `None`: all.
    pub columns: Option<Vec<String>>,
    /// Whether it leaves out rows.
    pub has_filter: bool,
    /// Whether an UPDATE of it works while it is published.
    pub has_identity: bool,
}

impl Found {
    /// Reads the publication of that name; `None`: there is none.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn read(
        client: &Client,
        name: &str,
        server_version_num: u32,
    ) -> Result<Option<Found>, PgError> {
        let rows = simple_query(client, &publication_query(name, server_version_num)).await?;
        let Some(mut found) = rows.into_iter().next().and_then(from_row) else { return Ok(None) };
        found.tables = tables(simple_query(client, &tables_query(name, server_version_num)).await?);
        if server_version_num >= COLUMN_LISTS_SINCE {
            let rows = simple_query(client, &schemas_query(name)).await?;
            found.schemas = rows.into_iter().flatten().flatten().collect();
        }
        Ok(Some(found))
    }

    /// Whether `setup` made it, and may change it.
    pub fn is_ours(&self) -> bool {
        self.comment == MARK || self.comment == MARK_OF_CHANGE
    }
}

fn publication_query(name: &str, server_version_num: u32) -> String {
    let generated = match server_version_num {
        GENERATED_SINCE.. => "p.pubgencols = 's'",
        _ => "false",
    };
    format!(
        "SELECT pg_catalog.pg_get_userbyid(p.pubowner), \
           pg_catalog.obj_description(p.oid, 'pg_publication'), p.puballtables, \
           p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, {generated} \
         FROM pg_catalog.pg_publication p WHERE p.pubname = {}",
        literal(name)
    )
}

fn from_row(row: Vec<Option<String>>) -> Option<Found> {
    let [owner, comment, flags @ ..] = <[_; 9]>::try_from(row).ok()?;
    let [all_tables, insert, update, delete, truncate, via_root, generated] =
        flags.map(|flag| flag.as_deref() == Some("t"));
    let published = [insert, update, delete, truncate];
    let ops = Op::ALL.into_iter().zip(published).filter(|(_, is_published)| *is_published);
    Some(Found {
        owner: owner?,
        comment: comment.unwrap_or_default(),
        all_tables,
        schemas: BTreeSet::new(),
        ops: ops.map(|(op, _)| op).collect(),
        via_root,
        generated,
        tables: BTreeMap::new(),
    })
}

fn schemas_query(name: &str) -> String {
    format!(
        "SELECT n.nspname FROM pg_catalog.pg_publication p \
         JOIN pg_catalog.pg_publication_namespace pn ON pn.pnpubid = p.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = pn.pnnspid \
         WHERE p.pubname = {}",
        literal(name)
    )
}

/// A row for each column in a table's list, or one for a table without a list. Whether an identity
/// is there is the question of [`relations`](crate::postgres::relations), put shorter.
fn tables_query(name: &str, server_version_num: u32) -> String {
    let (filter, list, columns) = match server_version_num {
        COLUMN_LISTS_SINCE.. => (
            "pr.prqual IS NOT NULL",
            "a.attname",
            "LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
             AND a.attnum = ANY (pr.prattrs::int2[]) ",
        ),
        _ => ("false", "NULL", ""),
    };
    let order = if columns.is_empty() { "" } else { ", a.attnum" };
    format!(
        "SELECT c.oid, n.nspname, pg_catalog.format('%I.%I', n.nspname, c.relname), {filter}, \
           c.relkind = 'p' OR c.relreplident = 'f' OR EXISTS (\
             SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid \
             AND i.indisvalid AND i.indimmediate \
             AND CASE c.relreplident WHEN 'd' THEN i.indisprimary \
                                     WHEN 'i' THEN i.indisreplident ELSE false END), \
           {list} \
         FROM pg_catalog.pg_publication p \
         JOIN pg_catalog.pg_publication_rel pr ON pr.prpubid = p.oid \
         JOIN pg_catalog.pg_class c ON c.oid = pr.prrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         {columns}WHERE p.pubname = {} ORDER BY c.oid{order}",
        literal(name)
    )
}

fn tables(rows: Rows) -> BTreeMap<u32, FoundTable> {
    let mut tables: BTreeMap<u32, FoundTable> = BTreeMap::new();
    for row in rows {
        let Ok([Some(oid), Some(schema), Some(sql_name), has_filter, has_identity, column]) =
            <[_; 6]>::try_from(row)
        else {
            continue;
        };
        let Ok(oid) = oid.parse() else { continue };
        let is_true = |flag: Option<String>| flag.as_deref() == Some("t");
        let (has_filter, has_identity) = (is_true(has_filter), is_true(has_identity));
        let known = FoundTable { sql_name, schema, columns: None, has_filter, has_identity };
        let table = tables.entry(oid).or_insert(known);
        if let Some(column) = column {
            table.columns.get_or_insert_default().push(column);
        }
    }
    tables
}
