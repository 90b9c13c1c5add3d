//! Which relations has the database, as far as rules are concerned?
//!
//! Two questions for everything: the relations, then the columns of those that rules mean. Both
//! may be asked by any role, without rights on the tables.

use std::collections::{HashMap, HashSet};

use super::client::simple_query;
use super::error::PgError;
use super::query::Rows;

/// Something that has a name in `pg_class` and rows.
#[derive(Clone, Debug)]
pub(crate) struct Relation {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// Schema and name as SQL writes them, quoted where they must be.
    pub(crate) sql_name: String,
    /// The role that owns it.
    pub(crate) owner: String,
    pub(crate) kind: Kind,
    pub(crate) persistence: Persistence,
    pub(crate) identity: ReplicaIdentity,
    /// What it is a partition of.
    pub(crate) parent: Option<u32>,
    /// In their order. Empty for those that no rule means.
    pub(crate) columns: Vec<Column>,
}

/// `relkind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    ForeignTable,
}

/// `relpersistence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    Permanent,
    Unlogged,
    Temporary,
}

/// `relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaIdentity {
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
pub(crate) struct Column {
    pub(crate) name: String,
    /// Whether it is computed from others.
    pub(crate) generated: Generated,
    /// Part of the index or primary key that the replica identity uses.
    pub(crate) is_in_key: bool,
}

/// `attgenerated`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generated {
    /// It is written like any other.
    No,
    /// When the row is written. pgoutput leaves it out before Postgres 18.
    Stored,
    /// When it is read, so that it is stored nowhere (Postgres 18 and later).
    Virtual,
}

impl Relation {
    /// Whether rules can be about it: its changes reach the log, under its name or its partitions'.
    pub(crate) fn is_logged(&self) -> bool {
        matches!(self.kind, Kind::Table | Kind::Partitioned)
            && self.persistence == Persistence::Permanent
    }

    /// Whether an UPDATE or DELETE carries the old value of a column.
    pub(crate) fn carries_old(&self, column: &Column) -> bool {
        self.identity == ReplicaIdentity::Full || column.is_in_key
    }

    /// Whether an UPDATE or DELETE is sent at all.
    pub(crate) fn has_identity(&self) -> bool {
        match self.identity {
            ReplicaIdentity::Full => true,
            ReplicaIdentity::Nothing => false,
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                self.columns.iter().any(|column| column.is_in_key)
            }
        }
    }
}

/// The partitions that hold rows, at whatever depth.
pub(crate) fn leaves<'a>(relations: &'a [Relation], whole: &Relation) -> Vec<&'a Relation> {
    let mut inside = HashSet::from([whole.oid]);
    // Children may come before their parents: until nothing is added.
    loop {
        let before = inside.len();
        let children = relations.iter().filter(|r| r.parent.is_some_and(|p| inside.contains(&p)));
        let children: Vec<_> = children.map(|relation| relation.oid).collect();
        inside.extend(children);
        if inside.len() == before {
            break;
        }
    }
    let is_leaf =
        |relation: &&Relation| relation.kind != Kind::Partitioned && inside.contains(&relation.oid);
    relations.iter().filter(is_leaf).collect()
}

/// A partition's parent only: plain inheritance sends the child's changes under its own name.
const RELATIONS: &str = "SELECT c.oid, n.nspname, c.relname, \
       pg_catalog.format('%I.%I', n.nspname, c.relname), \
       c.relkind, c.relpersistence, c.relreplident, i.inhparent, \
       pg_catalog.pg_get_userbyid(c.relowner) \
     FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relispartition \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') \
       AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast' \
     ORDER BY n.nspname, c.relname";

/// Every relation of users, by name; without columns.
pub(crate) async fn relations(client: &tokio_postgres::Client) -> Result<Vec<Relation>, PgError> {
    let rows = simple_query(client, RELATIONS).await?;
    Ok(rows.into_iter().filter_map(relation).collect())
}

fn relation(row: Vec<Option<String>>) -> Option<Relation> {
    let [oid, schema, name, sql_name, kind, persistence, identity, parent, owner] =
        <[_; 9]>::try_from(row).ok()?;
    Some(Relation {
        oid: oid?.parse().ok()?,
        schema: schema?,
        name: name?,
        sql_name: sql_name?,
        owner: owner?,
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
        "SELECT a.attrelid, a.attname, a.attgenerated, \
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
pub(crate) async fn read_columns(
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
        let Ok([Some(oid), Some(name), generated, is_in_key]) = <[_; 4]>::try_from(row) else {
            continue;
        };
        let generated = match generated.as_deref() {
            Some("s") => Generated::Stored,
            Some("v") => Generated::Virtual,
            _ => Generated::No,
        };
        let column = Column { name, generated, is_in_key: is_in_key.as_deref() == Some("t") };
        columns.entry(oid.parse().unwrap_or_default()).or_default().push(column);
    }
    columns
}

/// Relations for tests.
#[cfg(test)]
pub(crate) mod sample {
    use super::*;

    /// A table `public.NAME` with these columns, of which `id` is the primary key and `sum` is
    /// generated.
    pub(crate) fn table<const N: usize>(oid: u32, name: &str, columns: [&str; N]) -> Relation {
        let column = |name: &str| Column {
            name: name.into(),
            generated: if name == "sum" { Generated::Stored } else { Generated::No },
            is_in_key: name == "id",
        };
        Relation {
            oid,
            schema: "public".into(),
            name: name.into(),
            sql_name: format!("public.{name}"),
            owner: "app".into(),
            kind: Kind::Table,
            persistence: Persistence::Permanent,
            identity: ReplicaIdentity::Default,
            parent: None,
            columns: columns.map(column).into(),
        }
    }

    /// The same with a change.
    pub(crate) fn with(mut relation: Relation, change: impl FnOnce(&mut Relation)) -> Relation {
        change(&mut relation);
        relation
    }
}
