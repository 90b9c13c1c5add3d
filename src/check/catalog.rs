//! Which relations has the database, as far as rules are concerned?
//!
//! Two questions for everything: the relations, then the columns of those that rules mean. Both
//! may be asked by any role, without rights on the tables.

use std::collections::HashMap;

use crate::postgres::client::simple_query;
use crate::postgres::{PgError, Rows};

/// Something that has a name in `pg_class` and rows.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) oid: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// Schema and name as SQL writes them, quoted where they must be.
    pub(super) sql_name: String,
    pub(super) kind: Kind,
    pub(super) persistence: Persistence,
    pub(super) identity: ReplicaIdentity,
    /// What it is a partition of.
    pub(super) parent: Option<u32>,
    /// In their order. Empty for those that no rule means.
    pub(super) columns: Vec<Column>,
}

/// `relkind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    ForeignTable,
}

/// `relpersistence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    Permanent,
    Unlogged,
    Temporary,
}

/// `relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// The columns of an index.
    Index,
    /// All columns.
    Full,
    /// Nothing.
    Nothing,
}

/// A column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// Generated when it is read, so that it is stored nowhere (Postgres 18 and later).
    pub(super) is_virtual: bool,
    /// Part of the index or primary key that the replica identity uses.
    pub(super) is_in_key: bool,
}

impl Relation {
    /// Whether an UPDATE or DELETE carries the old value of a column.
    pub(super) fn carries_old(&self, column: &Column) -> bool {
        self.identity == ReplicaIdentity::Full || column.is_in_key
    }

    /// Whether an UPDATE or DELETE is sent at all.
    pub(super) fn has_identity(&self) -> bool {
        match self.identity {
            ReplicaIdentity::Full => true,
            ReplicaIdentity::Nothing => false,
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                self.columns.iter().any(|column| column.is_in_key)
            }
        }
    }
}

/// A partition's parent only: plain inheritance sends the child's changes under its own name.
const RELATIONS: &str = "SELECT c.oid, n.nspname, c.relname, \
       pg_catalog.format('%I.%I', n.nspname, c.relname), \
       c.relkind, c.relpersistence, c.relreplident, i.inhparent \
     FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relispartition \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') \
       AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast' \
     ORDER BY n.nspname, c.relname";

/// Every relation of users, by name; without columns.
pub(super) async fn relations(client: &tokio_postgres::Client) -> Result<Vec<Relation>, PgError> {
    let rows = simple_query(client, RELATIONS).await?;
    Ok(rows.into_iter().filter_map(relation).collect())
}

fn relation(row: Vec<Option<String>>) -> Option<Relation> {
    let [oid, schema, name, sql_name, kind, persistence, identity, parent] =
        <[_; 8]>::try_from(row).ok()?;
    Some(Relation {
        oid: oid?.parse().ok()?,
        schema: schema?,
        name: name?,
        sql_name: sql_name?,
        kind: match kind?.as_str() {
            "p" => Kind::Partitioned,
            "v" => Kind::View,
            "m" => Kind::MaterializedView,
            "f" => Kind::ForeignTable,
            _ => Kind::Table,
        },
        persistence: match persistence?.as_str() {
            "u" => Persistence::Unlogged,
            "t" => Persistence::Temporary,
            _ => Persistence::Permanent,
        },
        identity: match identity?.as_str() {
            "d" => ReplicaIdentity::Default,
            "i" => ReplicaIdentity::Index,
            "f" => ReplicaIdentity::Full,
            _ => ReplicaIdentity::Nothing,
        },
        parent: parent.and_then(|oid| oid.parse().ok()),
        columns: Vec::new(),
    })
}

/// Which index an identity uses, and which of its columns count, is `RelationGetIndexList` and
/// `RelationGetIndexAttrBitmap` of relcache.c: valid, immediate, without INCLUDEd columns.
fn columns_query(oids: &[u32]) -> String {
    let oids: Vec<_> = oids.iter().map(u32::to_string).collect();
    format!(
        "SELECT a.attrelid, a.attname, a.attgenerated = 'v', \
           coalesce(a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]), false) \
         FROM pg_catalog.pg_attribute a \
         JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
         LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid \
           AND i.indisvalid AND i.indimmediate \
           AND CASE c.relreplident WHEN 'd' THEN i.indisprimary \
                                   WHEN 'i' THEN i.indisreplident ELSE false END \
         WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid = ANY ('{{{}}}'::oid[]) \
         ORDER BY a.attrelid, a.attnum",
        oids.join(",")
    )
}

/// Fills in the columns of those relations that `wanted` picks.
pub(super) async fn read_columns(
    client: &tokio_postgres::Client,
    relations: &mut [Relation],
    wanted: impl Fn(&Relation) -> bool,
) -> Result<(), PgError> {
    let oids: Vec<u32> =
        relations.iter().filter(|relation| wanted(relation)).map(|relation| relation.oid).collect();
    if oids.is_empty() {
        return Ok(());
    }
    let mut columns = columns(simple_query(client, &columns_query(&oids)).await?);
    for relation in relations {
        relation.columns = columns.remove(&relation.oid).unwrap_or_default();
    }
    Ok(())
}

fn columns(rows: Rows) -> HashMap<u32, Vec<Column>> {
    let mut columns: HashMap<u32, Vec<Column>> = HashMap::new();
    for row in rows {
        let Ok([Some(oid), Some(name), is_virtual, is_in_key]) = <[_; 4]>::try_from(row) else {
            continue;
        };
        let is_true = |text: Option<String>| text.as_deref() == Some("t");
        let column =
            Column { name, is_virtual: is_true(is_virtual), is_in_key: is_true(is_in_key) };
        columns.entry(oid.parse().unwrap_or_default()).or_default().push(column);
    }
    columns
}
