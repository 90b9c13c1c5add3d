//! What the catalog says of columns.

use super::error::PgError;
use super::quote::literal;
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

/// What a pattern means for SQL; it may let through more than the pattern does.
fn condition(pattern: &TablePattern) -> String {
    let part = |column: &str, part: &Part| match part {
        Part::Exact(name) => format!("{column} = {}", literal(&String::from_utf8_lossy(name))),
        Part::Any | Part::Glob(_) => "true".to_owned(),
    };
    let (schema, table) = (part("n.nspname", &pattern.schema), part("c.relname", &pattern.table));
    format!("({schema} AND {table})")
}
