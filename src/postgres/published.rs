//! What the catalog says of a publication and of the rules' tables in it.
//!
//! Everybody may read it: the views and catalogs that are asked are public.

use super::catalog::{AskCatalog, conditions, names};
use super::error::{PgError, PgErrorKind};
use super::query::Rows;
use super::quote::literal;
use crate::change::Op;
use crate::rules::{Hiding, Lack, Publication, PublishedLeaf, PublishedTable, Rule, RuleSet};

/// From this version on a publication may list columns, filter rows and mean whole schemas.
const COLUMN_LISTS_SINCE: u32 = 150_000;

/// From this version on a publication may carry generated columns.
const GENERATED_COLUMNS_SINCE: u32 = 180_000;

/// Asks for a publication, as often as one likes.
#[derive(Clone, Debug)]
pub struct PublicationQuery {
    name: String,
    sql: String,
}

impl PublicationQuery {
    /// Asks a server of this version what a publication has of the rules' tables.
    pub fn new(name: &str, rules: &RuleSet, server_version_num: u32) -> Self {
        let tables: Vec<_> = rules.tables().collect();
        let conditions = conditions(&tables, "n.nspname", "c.relname");
        let has_lists = server_version_num >= COLUMN_LISTS_SINCE;
        let (filter, schemas) = match has_lists {
            true => (
                "p.rowfilter IS NOT NULL",
                "(SELECT pg_catalog.string_agg(s.oid::text || ':' || s.xmin::text, ',' \
                     ORDER BY s.oid) \
                  FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = pub.oid)",
            ),
            false => ("false", "NULL"),
        };
        let (attributes, hidden) = match server_version_num {
            GENERATED_COLUMNS_SINCE.. => ("attnames", "NOT a.attname = ANY (p.attnames)"),
            COLUMN_LISTS_SINCE.. => {
                ("attnames", "(a.attgenerated <> '' OR NOT a.attname = ANY (p.attnames))")
            }
            _ => ("NULL", "a.attgenerated <> ''"),
        };
        let rowfilter = if has_lists { "rowfilter" } else { "NULL" };
        let sql = format!(
            "WITH p AS MATERIALIZED (SELECT schemaname, tablename, {attributes} AS attnames, \
                 {rowfilter} AS rowfilter \
               FROM pg_catalog.pg_publication_tables WHERE pubname = {name}) \
             SELECT pub.pubinsert, pub.pubupdate, pub.pubdelete, pub.pubtruncate, pub.pubviaroot, \
               pub.oid::text || ':' || pub.xmin::text || coalesce(':' || {schemas}, '') AS version, \
               t.oid, t.nspname, t.relname, t.relkind = 'p' AS is_whole, \
               (SELECT pg_catalog.string_agg(r.oid::text || ':' || r.xmin::text, ',' ORDER BY r.oid) \
                  FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = pub.oid AND \
                    (r.prrelid = t.oid \
                     OR r.prrelid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(t.oid)) \
                     OR r.prrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(t.oid))) \
               ) AS table_version, \
               l.nspname AS leaf_schema, l.relname AS leaf_name, \
               p.tablename IS NOT NULL AS is_published, {filter} AS is_filtered, \
               h.attname AS hidden, h.is_generated \
             FROM pg_catalog.pg_publication pub \
             LEFT JOIN (SELECT c.oid, n.nspname, c.relname, c.relkind \
                  FROM pg_catalog.pg_class c \
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                  WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND {conditions}) t \
               ON true \
             LEFT JOIN LATERAL (SELECT t.oid, t.nspname, t.relname WHERE t.relkind = 'r' \
                  UNION ALL SELECT c.oid, n.nspname, c.relname \
                  FROM pg_catalog.pg_partition_tree(t.oid) tree \
                  JOIN pg_catalog.pg_class c ON c.oid = tree.relid \
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                  WHERE t.relkind = 'p' AND tree.isleaf AND c.relkind = 'r' \
                    AND c.relpersistence = 'p') l \
               ON true \
             LEFT JOIN p ON p.schemaname = l.nspname AND p.tablename = l.relname \
             LEFT JOIN LATERAL (SELECT a.attname, a.attgenerated <> '' AS is_generated \
                  FROM pg_catalog.pg_attribute a \
                  WHERE a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped \
                    AND a.attname = ANY ({columns}) AND {hidden}) h \
               ON p.tablename IS NOT NULL \
             WHERE pub.pubname = {name} ORDER BY t.oid, l.oid",
            name = literal(name),
            columns = names(rules.rules().iter().flat_map(Rule::carried_columns)),
        );
        PublicationQuery { name: name.to_owned(), sql }
    }

    /// The publication's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The question.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The answer, from the rows; `None`: there is no such publication.
    pub fn answer(&self, rows: Rows) -> Option<Publication> {
        let mut publication: Option<Publication> = None;
        for row in rows {
            let Ok([insert, update, delete, truncate, via_root, version, table @ ..]) =
                <[_; 17]>::try_from(row)
            else {
                continue;
            };
            let is = |value: Option<String>| value.as_deref() == Some("t");
            let publication = publication.get_or_insert_with(|| {
                let ops = Op::ALL.into_iter().zip([insert, update, delete, truncate]);
                Publication {
                    name: self.name.clone(),
                    ops: ops.filter_map(|(op, has)| is(has).then_some(op)).collect(),
                    via_root: is(via_root),
                    version: version.unwrap_or_default(),
                    tables: Vec::new(),
                }
            });
            let [_, Some(schema), Some(name), is_whole, version, leaf @ ..] = table else {
                continue;
            };
            let table = entry(
                &mut publication.tables,
                |it| it.schema == schema && it.name == name,
                || PublishedTable {
                    schema: schema.clone(),
                    name: name.clone(),
                    is_partitioned: is(is_whole),
                    version: version.unwrap_or_default(),
                    leaves: Vec::new(),
                },
            );
            let [Some(schema), Some(name), is_published, is_filtered, hidden, generated] = leaf
            else {
                continue;
            };
            let leaf = entry(
                &mut table.leaves,
                |it| it.schema == schema && it.name == name,
                || PublishedLeaf {
                    schema: schema.clone(),
                    name: name.clone(),
                    is_published: is(is_published),
                    has_row_filter: is(is_filtered),
                    ..PublishedLeaf::default()
                },
            );
            if let Some(column) = hidden {
                let hiding = if is(generated) { Hiding::Generated } else { Hiding::NotListed };
                leaf.hidden_columns.insert(column, hiding);
            }
        }
        publication
    }

    /// The same where there has to be one.
    ///
    /// # Errors
    /// [`PgErrorKind::PublicationMissing`] if there is none of that name.
    pub fn found(&self, rows: Rows) -> Result<Publication, PgError> {
        let operation = format!("use publication {:?}: there is none of that name", self.name);
        self.answer(rows).ok_or_else(|| PgError::new(PgErrorKind::PublicationMissing, operation))
    }
}

/// The last item if it is the wanted one, since rows that belong together come together; else a new
/// one.
fn entry<T>(items: &mut Vec<T>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
    if !items.last().is_some_and(is_it) {
        items.push(new());
    }
    let last = items.len() - 1;
    &mut items[last]
}

impl PublicationQuery {
    /// What the publication has of the rules' tables.
    ///
    /// Never to be asked in a session that streams afterwards: a walsender keeps what it has read
    /// of the catalog, and pgoutput takes it for what was true when an older change was made. A
    /// publication that is younger than the slot's position is then no error, but one without
    /// tables.
    ///
    /// # Errors
    /// [`PgErrorKind::PublicationMissing`] if there is none of that name.
    pub async fn ask(&self, asked: &mut impl AskCatalog) -> Result<Publication, PgError> {
        let operation = format!("use publication {:?}", self.name);
        let rows = asked.ask(&operation, &self.sql).await?;
        self.found(rows)
    }
}

/// Refuses a publication that does not carry what the rules need.
///
/// # Errors
/// [`PgErrorKind::PublicationLacking`] with all that it lacks.
pub fn refuse_lacks(publication: &Publication, rules: &RuleSet) -> Result<(), PgError> {
    let lacks = publication.lacks(rules);
    if lacks.is_empty() {
        return Ok(());
    }
    let operation =
        format!("use publication {:?}: it does not carry {}", publication.name, listed(&lacks));
    let hint = lacks.iter().find_map(Lack::hint);
    Err(PgError::new(PgErrorKind::PublicationLacking { hint }, operation))
}

/// How many things that are lacking are named.
const LISTED_MAX: usize = 8;

/// What is lacking, in a sentence.
pub fn listed(lacks: &[Lack]) -> String {
    let mut listed: Vec<_> = lacks.iter().take(LISTED_MAX).map(Lack::to_string).collect();
    if lacks.len() > LISTED_MAX {
        listed.push(format!("{} things more", lacks.len() - LISTED_MAX));
    }
    listed.join(", ")
}
