//! What the catalog says of columns.

use std::collections::BTreeSet;

use super::error::PgError;
use super::quote::{identifier, literal};
use super::session::ReplicationSession;
use crate::rules::{Nulls, Part, TablePattern};

/// The columns that no NaN or Infinity can be in. A domain counts as the type below it, one step
/// down; one over another domain counts as numeric, which is the safe side.
const CERTAIN_COLUMNS: &str = "SELECT n.nspname, c.relname, a.attname \
    FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
    LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype AND t.typtype = 'd' \
    WHERE c.relkind IN ('r', 'p') AND coalesce(b.typtype, t.typtype) <> 'd' \
    AND coalesce(b.oid, t.oid) NOT IN ('float4'::regtype, 'float8'::regtype, 'numeric'::regtype)";

impl ReplicationSession {
    /// The columns of these tables whose NULL is NULL even where the plugin prints NaN as null.
    pub async fn certain_nulls<'t>(
        &mut self,
        tables: impl Iterator<Item = &'t TablePattern>,
    ) -> Result<Nulls, PgError> {
        let mut conditions: Vec<String> = tables.map(condition).collect();
        conditions.sort_unstable();
        conditions.dedup();
        let mut nulls = Nulls::default();
        if conditions.is_empty() {
            return Ok(nulls);
        }
        let query = format!("{CERTAIN_COLUMNS} AND ({})", conditions.join(" OR "));
        for row in self.command("read the columns of the rules' tables", &query).await? {
            if let [Some(schema), Some(table), Some(column)] = row.as_slice() {
                nulls.believe(schema.as_bytes(), table.as_bytes(), column.as_bytes());
            }
        }
        Ok(nulls)
    }
}

/// The partitions that hold rows, each with the table that a rule names.
const PARTITIONS: &str = "SELECT n.nspname, c.relname, leaf_n.nspname, leaf.relname \
    FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    CROSS JOIN LATERAL pg_catalog.pg_partition_tree(c.oid) tree \
    JOIN pg_catalog.pg_class leaf ON leaf.oid = tree.relid \
    JOIN pg_catalog.pg_namespace leaf_n ON leaf_n.oid = leaf.relnamespace \
    WHERE c.relkind = 'p' AND tree.isleaf";

impl ReplicationSession {
    /// The partitioned tables among these of which a partition is not: its changes come under its
    /// own name, and so go unnoticed.
    pub async fn unnamed_partitions(
        &mut self,
        tables: &[&TablePattern],
    ) -> Result<BTreeSet<String>, PgError> {
        let mut unnamed = BTreeSet::new();
        let conditions: Vec<String> = tables.iter().copied().map(condition).collect();
        if conditions.is_empty() {
            return Ok(unnamed);
        }
        let query = format!("{PARTITIONS} AND ({})", conditions.join(" OR "));
        let is_named = |schema: &str, table: &str| {
            tables.iter().any(|pattern| pattern.matches(schema.as_bytes(), table.as_bytes()))
        };
        for row in self.command("read the partitions of the rules' tables", &query).await? {
            let [Some(schema), Some(table), Some(leaf_schema), Some(leaf)] = row.as_slice() else {
                continue;
            };
            if is_named(schema, table) && !is_named(leaf_schema, leaf) {
                unnamed.insert(format!("{}.{}", identifier(schema), identifier(table)));
            }
        }
        Ok(unnamed)
    }
}

/// What a pattern means for SQL; it may let through more than the pattern does.
fn condition(pattern: &TablePattern) -> String {
    let part = |column: &str, part: &Part| match part {
        Part::Exact(name) => format!("{column} = {}", literal(&String::from_utf8_lossy(name))),
        Part::Any | Part::Glob(_) => "true".to_owned(),
    };
    let (schema, table) = (part("n.nspname", &pattern.schema), part("c.relname", &pattern.table));
    format!("({schema} AND {table})")
}
