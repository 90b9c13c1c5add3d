//! One statement in one READ ONLY transaction, on a connection that may be a pooler's: nothing of it
//! outlives the transaction.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Row, SimpleQueryMessage};

use super::pool::Connection;
use crate::rules::lookup::{Input, Shape, Statement};

/// How long a statement may wait for a lock.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a statement may run.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take before the connection counts as dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug)]
pub enum QueryError {
    /// The connection broke.
    Lost(String),
    /// The server refuses the statement. Its text may hold values of rows.
    Refused(SqlState, String),
}

impl From<tokio_postgres::Error> for QueryError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refused) => {
                QueryError::Refused(refused.code().clone(), refused.message().to_owned())
            }
            None => QueryError::Lost("the connection broke".to_owned()),
        }
    }
}

/// Whether the rest of an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Go {
    On,
    /// It is too much.
    Over,
}

/// One row of an answer.
pub(super) struct Answered {
    /// The place of the input that it belongs to.
    pub(super) input: usize,
    row: Row,
}

impl Answered {
    /// The values of the query's columns, as text.
    pub(super) fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let value = |at| self.row.try_get::<_, Option<RawText<'_>>>(at).ok().flatten();
        (1..self.row.len()).map(move |at| value(at).map(|RawText(text)| text))
    }
}

/// Text as the server sends it, in whatever encoding.
struct RawText<'r>(&'r [u8]);

impl<'r> FromSql<'r> for RawText<'r> {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(RawText(raw))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}

/// Counts the rows of each input.
pub(super) struct Counter {
    rows: Vec<u64>,
    limit: u64,
}

impl Counter {
    pub(super) fn new(inputs: usize, limit: u64) -> Self {
        Counter { rows: vec![0; inputs], limit }
    }

    /// Counts one; answers whether there are too many.
    pub(super) fn is_over(&mut self, input: usize) -> bool {
        self.rows[input] += 1;
        self.rows[input] > self.limit
    }
}

/// Values have to look as in the stream. A startup packet could say the same, but a pooler takes
/// none of that.
fn begin() -> String {
    format!(
        "BEGIN READ ONLY; SET LOCAL DateStyle = 'ISO'; SET LOCAL TimeZone = 'UTC'; \
         SET LOCAL IntervalStyle = 'postgres'; SET LOCAL extra_float_digits = 1; \
         SET LOCAL bytea_output = 'hex'; \
         SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}",
        STATEMENT_TIMEOUT.as_millis(),
        LOCK_TIMEOUT.as_millis()
    )
}

/// Asks the server what a query's parameters and columns are, and so whether we may run it.
///
/// # Errors
/// If we may not, or the query makes no sense to the server.
pub(super) async fn describe(
    connection: &mut Connection,
    statement: &Statement,
) -> Result<Shape, QueryError> {
    let client = connection.client()?;
    // A name of its own: behind a pooler others may prepare statements in the same session.
    let name = format!("walpurge_{:016x}", fastrand::u64(..));
    let work = async {
        // With -1, so that char(n) is bpchar and no char(1), which would cut values off.
        let types = format!(
            "{};\n{}\n;\nSELECT pg_catalog.format_type(pg_catalog.unnest(parameter_types), -1) \
             FROM pg_catalog.pg_prepared_statements WHERE name = '{name}';\nDEALLOCATE {name}",
            begin(),
            statement.prepare(&name)
        );
        let types = client.simple_query(&types).await?;
        let types: Vec<String> = types
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect();
        let described = client.simple_query(&statement.describe(&types)).await?;
        let columns = described.iter().find_map(|message| match message {
            SimpleQueryMessage::RowDescription(columns) => {
                Some(columns.iter().map(|column| column.name().to_owned()).collect())
            }
            _ => None,
        });
        client.simple_query("COMMIT").await?;
        Ok(Shape { types, columns: columns.unwrap_or_default() })
    };
    let asked = timeout(ANSWER_TIMEOUT, work).await;
    asked.unwrap_or_else(|_| Err(QueryError::Lost("no answer".to_owned())))
}

/// Learns the same, and asks for no row at all in the way in which rows are asked for.
///
/// # Errors
/// As for a query of rows.
pub async fn try_out(
    connection: &mut Connection,
    statement: &Statement,
) -> Result<Shape, QueryError> {
    let shape = describe(connection, statement).await?;
    run(connection, statement, &shape, &[], 1, |_| Go::On).await?;
    Ok(shape)
}

/// Asks for all of `inputs` in one statement, and calls `take` for each row.
///
/// # Errors
/// If the server refuses, or the connection breaks. The connection is then of no use any more.
pub(super) async fn run(
    connection: &mut Connection,
    statement: &Statement,
    shape: &Shape,
    inputs: &[Input<'_>],
    limit: u64,
    mut take: impl FnMut(&Answered) -> Go,
) -> Result<Go, QueryError> {
    let client = connection.client()?;
    let sql = statement.batch(shape, inputs.len(), limit);
    let mut arrays = vec![Vec::with_capacity(inputs.len()); statement.parameters()];
    for input in inputs {
        let values = input.parameters(statement.parameters());
        arrays.iter_mut().zip(values).for_each(|(array, value)| array.push(value));
    }
    let parameters = arrays.iter().map(|array| (array as &(dyn ToSql + Sync), Type::TEXT_ARRAY));
    let begin = begin();
    let work = async {
        // Sent together: the statement runs in the transaction that the first one begins.
        let (begun, rows) =
            tokio::join!(client.simple_query(&begin), client.query_typed_raw(&sql, parameters));
        begun?;
        let mut rows = pin!(rows?);
        while let Some(row) = rows.try_next().await? {
            let number: i64 = row.try_get(0)?;
            let input = usize::try_from(number - 1).unwrap_or(usize::MAX);
            if take(&Answered { input, row }) == Go::Over {
                return Ok(Go::Over);
            }
        }
        client.simple_query("COMMIT").await?;
        Ok(Go::On)
    };
    let asked = timeout(ANSWER_TIMEOUT, work).await;
    asked.unwrap_or_else(|_| Err(QueryError::Lost("no answer".to_owned())))
}
