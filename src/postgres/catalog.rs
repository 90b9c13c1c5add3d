//! What the catalog says of the rules' tables: names, columns and partitions.

use std::collections::BTreeSet;

use super::error::PgError;
use super::published::PublicationQuery;
use super::query::Rows;
use super::quote::literal;
use super::session::ReplicationSession;
use crate::rules::{KnownTables, Part, Partitions, RuleSet, TablePattern};

/// Asks for the tables that rules mean, as often as one likes.
#[derive(Clone, Debug)]
pub struct TablesQuery {
    /// What asks for all of them, but for the tables that are followed by OID.
    open: String,
    /// Those, so that one that was renamed is found under its new name.
    followed: Vec<u32>,
    /// The publication that is to carry them.
    publication: Option<PublicationQuery>,
}

/// More tables are not followed to their new names: the question would get too long.
const FOLLOWED_MAX: usize = 1000;

impl TablesQuery {
    /// Asks for the tables of these rules.
    pub fn new(rules: &RuleSet) -> Self {
        let tables: Vec<_> = rules.tables().collect();
        let columns = rules
            .rules()
            .iter()
            .flat_map(|rule| rule.columns().into_iter().chain(rule.filter_columns()));
        let open = format!(
            "SELECT c.oid, n.nspname, c.relname, c.relkind, a.attname, NOT a.attnotnull \
             FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
                 AND NOT a.attisdropped AND a.attname = ANY ({}) \
             WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND ({}",
            names(columns),
            conditions(&tables, "n.nspname", "c.relname")
        );
        TablesQuery { open, followed: Vec::new(), publication: None }
    }

    /// Asks for the publication too.
    #[must_use]
    pub fn with(self, publication: PublicationQuery) -> Self {
        TablesQuery { publication: Some(publication), ..self }
    }

    /// The publication that is asked for.
    pub fn publication(&self) -> Option<&PublicationQuery> {
        self.publication.as_ref()
    }

    /// The question.
    pub fn sql(&self) -> String {
        if self.followed.is_empty() {
            return format!("{})", self.open);
        }
        let oids: Vec<_> = self.followed.iter().map(u32::to_string).collect();
        format!("{} OR c.oid IN ({}))", self.open, oids.join(","))
    }

    /// A question whose answer, a value or two, stays the same while those of [`sql`](Self::sql)
    /// and of the publication's do.
    pub fn digest(&self) -> String {
        let digest = |sql: &str| {
            format!(
                "SELECT pg_catalog.count(*), \
                 pg_catalog.sum(pg_catalog.hashtextextended(t::text, 0)) FROM ({sql}) t"
            )
        };
        let tables = digest(&self.sql());
        match &self.publication {
            Some(publication) => format!("{tables} UNION ALL {}", digest(publication.sql())),
            None => tables,
        }
    }

    /// The answer, from the rows. Later questions ask for these tables even if their names change.
    pub fn answer(&mut self, rows: Rows) -> KnownTables {
        let mut known = KnownTables::default();
        for row in rows {
            let Ok([Some(oid), Some(schema), Some(name), Some(kind), column, nullable]) =
                <[_; 6]>::try_from(row)
            else {
                continue;
            };
            let Ok(oid) = oid.parse() else { continue };
            let table = known.add(oid);
            (table.schema, table.name, table.is_partitioned) = (schema, name, kind == "p");
            if let Some(column) = column {
                table.columns.insert(column, nullable.as_deref() != Some("f"));
            }
        }
        self.followed = known.oids().take(FOLLOWED_MAX).collect();
        known
    }
}

/// Who can be asked about the catalog.
pub trait AskCatalog {
    /// Runs SQL. Not cancel safe.
    fn ask(&mut self, operation: &str, sql: &str) -> impl Future<Output = Result<Rows, PgError>>;
}

impl AskCatalog for ReplicationSession {
    async fn ask(&mut self, operation: &str, sql: &str) -> Result<Rows, PgError> {
        self.command(operation, sql).await
    }
}

/// The tables that rules mean.
///
/// # Errors
/// Also if there is no such publication as is asked for.
pub async fn known_tables(
    asked: &mut impl AskCatalog,
    query: &mut TablesQuery,
) -> Result<KnownTables, PgError> {
    let rows = asked.ask("read the columns of the rules' tables", &query.sql()).await?;
    let mut known = query.answer(rows);
    if let Some(publication) = query.publication() {
        known.publication = Some(publication.ask(asked).await?);
    }
    Ok(known)
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

/// The partitions of the partitioned tables among these; `None` if there is no such table.
pub async fn partitions(
    asked: &mut impl AskCatalog,
    tables: &[&TablePattern],
) -> Result<Option<Partitions>, PgError> {
    let mut partitions = Partitions::default();
    let conditions = conditions(tables, "n.nspname", "c.relname");
    let query = format!("{PARTITIONS} AND ({conditions})");
    for row in asked.ask("read the partitions of the rules' tables", &query).await? {
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
    for row in asked.ask("read the names of all tables", TABLES).await? {
        if let [Some(schema), Some(table)] = row.as_slice() {
            partitions.know(schema.as_bytes(), table.as_bytes());
        }
    }
    Ok(Some(partitions))
}

/// Names, each once, as an array for SQL.
pub(super) fn names<'n>(names: impl Iterator<Item = &'n [u8]>) -> String {
    let names: BTreeSet<_> = names.collect();
    let names: Vec<_> = names.iter().map(|name| literal(&String::from_utf8_lossy(name))).collect();
    format!("ARRAY[{}]::name[]", names.join(","))
}

/// What patterns mean for SQL, in parentheses; it may let through more than they do.
pub(super) fn conditions(patterns: &[&TablePattern], schema: &str, table: &str) -> String {
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
