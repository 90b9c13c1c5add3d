//! How is a command sent through the simple protocol, and its answer read?
//!
//! "Simple Query" of Postgres' manual, for SQL and replication commands. It keeps no state.

use postgres_protocol::message::frontend;

use super::error::{PgError, PgErrorKind};
use super::fields::{Cursor, ServerError};
use super::wire::Wire;

/// The most rows that an answer may have: our own questions about the catalog have few.
const ROWS_MAX: usize = 1_000_000;

/// The rows of an answer, as text; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// How the server answered a command.
pub(crate) enum Answer {
    Rows(Rows),
    Streaming,
}

/// Sends a command and reads its answer to the end: the inner error is the server's, after which
/// it is ready for the next command.
pub(crate) async fn exchange(
    wire: &mut Wire,
    operation: &str,
    sql: &str,
) -> Result<Result<Answer, ServerError>, PgError> {
    frontend::query(sql, &mut wire.out)
        .map_err(|error| PgError::new(PgErrorKind::Config, operation).because(error))?;
    wire.send(operation).await?;
    let mut rows = Rows::new();
    let mut failure = None;
    loop {
        let frame = match wire.receive(operation).await {
            Ok(frame) => frame,
            Err(error) => {
                // A FATAL error comes before the end of the connection, and says more.
                let fatal = failure.map(|fatal| PgError::server(operation, fatal));
                return Err(fatal.unwrap_or(error));
            }
        };
        match frame.tag {
            b'D' => {
                let row = data_row(frame.body).filter(|_| rows.len() < ROWS_MAX);
                rows.push(row.ok_or_else(|| PgError::new(PgErrorKind::Protocol, operation))?);
            }
            b'E' => failure = Some(ServerError::parse(frame.body)),
            b'N' => {
                let notice = ServerError::parse(frame.body);
                tracing::debug!(%notice, "the server says");
            }
            b'W' => return Ok(Ok(Answer::Streaming)),
            b'Z' => return Ok(failure.map_or(Ok(Answer::Rows(rows)), Err)),
            // Row descriptions, command tags, settings: nothing is done with them.
            _ => {}
        }
    }
}

fn data_row(body: &[u8]) -> Option<Vec<Option<String>>> {
    let mut cursor = Cursor(body);
    let count = cursor.u16()?;
    let mut row = Vec::new();
    for _ in 0..count {
        row.push(match usize::try_from(cursor.i32()?) {
            Ok(bytes) => Some(String::from_utf8_lossy(cursor.take(bytes)?).into_owned()),
            Err(_) => None,
        });
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_row_is_read_without_a_panic(body: Vec<u8>) {
            data_row(&body);
        }
    }
}
