//! What the catalog says of the rules' tables: columns and partitions.

use super::error::PgError;
use super::quote::literal;
use super::session::ReplicationSession;
use crate::rules::{Nulls, Part, Partitions, TablePattern};

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
    /// The columns of these tables, and of their partitions, whose NULL is NULL even where the
    /// plugin prints NaN as null.
    pub async fn certain_nulls(&mut self, tables: &[&TablePattern]) -> Result<Nulls, PgError> {
        let mut nulls = Nulls::default();
        let itself = conditions(tables, "n.nspname", "c.relname");
        let above = conditions(tables, "above_n.nspname", "above.relname");
        let query = format!(
            "{CERTAIN_COLUMNS} AND ({itself} OR c.relispartition AND EXISTS (SELECT 1 \
             FROM pg_catalog.pg_partition_ancestors(c.oid) tree \
             JOIN pg_catalog.pg_class above ON above.oid = tree.relid \
             JOIN pg_catalog.pg_namespace above_n ON above_n.oid = above.relnamespace \
             WHERE {above}))"
        );
        for row in self.command("read the columns of the rules' tables", &query).await? {
            if let [Some(schema), Some(table), Some(column)] = row.as_slice() {
                nulls.believe(schema.as_bytes(), table.as_bytes(), column.as_bytes());
            }
        }
        Ok(nulls)
    }
}

/// The partitioned tables, each with the partitions that hold its rows, if it has any.
const PARTITIONS: &str = "SELECT n.nspname, c.relname, leaf_n.nspname, leaf.relname \
    FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN LATERAL pg_catalog.pg_partition_tree(c.oid) tree ON tree.isleaf \
    LEFT JOIN pg_catalog.pg_class leaf ON leaf.oid = tree.relid \
    LEFT JOIN pg_catalog.pg_namespace leaf_n ON leaf_n.oid = leaf.relnamespace \
    WHERE c.relkind = 'p'";

/// Every table that the others see. Not only those whose changes are logged: of a dropped one
/// nobody could tell that it was none of them.
const TABLES: &str = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid >= 16384";

impl ReplicationSession {
    /// The partitions of the partitioned tables among these; `None` if there is no such table.
    pub async fn partitions(
        &mut self,
        tables: &[&TablePattern],
    ) -> Result<Option<Partitions>, PgError> {
        let mut partitions = Partitions::default();
        let conditions = conditions(tables, "n.nspname", "c.relname");
        let query = format!("{PARTITIONS} AND ({conditions})");
        for row in self.command("read the partitions of the rules' tables", &query).await? {
            let [Some(schema), Some(table), leaf @ ..] = row.as_slice() else { continue };
            let whole = (schema.as_bytes(), table.as_bytes());
            if !tables.iter().any(|pattern| pattern.matches(whole.0, whole.1)) {
                continue;
            }
            let leaf = match leaf {
                [Some(schema), Some(table)] => Some((schema.as_bytes(), table.as_bytes())),
                _ => None,
            };
            partitions.add(whole, leaf);
        }
        if partitions.is_empty() {
            return Ok(None);
        }
        for row in self.command("read the names of all tables", TABLES).await? {
            if let [Some(schema), Some(table)] = row.as_slice() {
                partitions.know(schema.as_bytes(), table.as_bytes());
            }
        }
        Ok(Some(partitions))
    }
}

/// What patterns mean for SQL, in parentheses; it may let through more than they do.
fn conditions(patterns: &[&TablePattern], schema: &str, table: &str) -> String {
    let part = |column: &str, part: &Part| match part {
        Part::Exact(name) => format!("{column} = {}", literal(&String::from_utf8_lossy(name))),
        Part::Any | Part::Glob(_) => "true".to_owned(),
    };
    let mut conditions: Vec<String> = patterns
        .iter()
        .map(|pattern| {
            format!("{} AND {}", part(schema, &pattern.schema), part(table, &pattern.table))
        })
        .collect();
    conditions.sort_unstable();
    conditions.dedup();
    let any = if conditions.is_empty() { "false".to_owned() } else { conditions.join(" OR ") };
    format!("({any})")
}
