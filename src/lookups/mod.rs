//! Who asks the database which actions a rule has.
//!
//! In: a batch of lookups of one rule. Out: what they ask for ([`Found`]). Each rule has a
//! [`LookupLane`] of its own, so that one whose table is locked delays no other; all of them share
//! a [`Pool`] of connections, which may go to a pooler: nothing is kept in a session.
//!
//! A lookup reads, and changes nothing: each batch runs in a READ ONLY transaction, with a bound on
//! its time. What fails for want of a lock or a connection is tried again; what can never succeed
//! gets the rule's fallback.

mod pool;
mod query;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tracing::{debug, error, warn};

pub use pool::{CONNECTIONS_MAX, Connection, Pool, PoolError};
use query::describe;
pub use query::{LOCK_TIMEOUT, QueryError, STATEMENT_TIMEOUT, try_out};

use crate::action::{Batch, Verb};
use crate::rules::lookup::{Answer, Found, Input, Shape};
use crate::rules::{Cause, RuleId, RuleSet};
use crate::sinks::{Failure, Report};

/// How many lookups one statement asks for at most.
const STATEMENT_LOOKUPS_MAX: usize = 1024;

/// How much one statement may ask for. What is asked for is handed on from half of that on.
const FOUND_BYTES_MAX: usize = 4 << 20;

/// How much a single lookup may ask for before its rule's fallback takes its place.
const FOUND_BY_ONE_BYTES_MAX: usize = 16 << 20;

/// How long the server is believed what it said about the query: a parameter's type may become
/// another one without an error, as when a date becomes a timestamp.
const SHAPE_AGE_MAX: Duration = Duration::from_secs(5);

/// How often a single lookup may run out of time before its rule's fallback takes its place. It did
/// not wait for a lock all that time, which is an error of its own.
const SLOW_ATTEMPTS_MAX: u32 = 3;

/// Asks for one rule.
pub struct LookupLane {
    pool: Pool,
    rules: Arc<RuleSet>,
    rule: RuleId,
    /// What the server says about the query; `None`: it is asked first.
    shape: Option<Shape>,
    /// When it said so.
    described_at: Instant,
    /// How many lookups the next statement asks for.
    size: usize,
    /// How often the lookup at hand ran out of time by itself.
    slow: u32,
    answer: Answer,
}

/// What came of one statement.
enum Outcome {
    Done,
    /// Try again later, with the same.
    Again(Failure),
    /// It is too much at once.
    TooMuch,
    /// It ran out of time.
    Slow,
    /// It can never succeed with one of its values.
    BadValue(SqlState),
    /// It can never succeed, whatever the values are.
    BadQuery(SqlState),
}

impl LookupLane {
    /// A lane for a rule's lookups.
    pub fn new(pool: Pool, rules: Arc<RuleSet>, rule: RuleId) -> Self {
        let (size, answer) = (STATEMENT_LOOKUPS_MAX, Answer::default());
        let described_at = Instant::now();
        LookupLane { pool, rules, rule, shape: None, described_at, size, slow: 0, answer }
    }

    /// Asks for what `batch` holds from `at` on: for all of it, or up to the report's `rest`.
    ///
    /// # Errors
    /// A [`Failure`]: nothing from `at` on is answered, and all of it must be asked again.
    pub async fn send(&mut self, batch: &Batch, mut at: usize) -> Result<Report, Failure> {
        let mut found = Found::default();
        let first = at;
        // What the server said before may be old: a column renamed, a type changed.
        let mut is_fresh = false;
        if self.described_at.elapsed() > SHAPE_AGE_MAX {
            self.shape = None;
        }
        while at < batch.len() && found.bytes() < FOUND_BYTES_MAX / 2 {
            let range = at..batch.len().min(at + self.size);
            let count = range.len();
            let before = found.len();
            let outcome = match self.shape.clone() {
                None => {
                    is_fresh = true;
                    self.describe().await
                }
                Some(shape) => {
                    let outcome = self.ask(batch, range, &shape, &mut found).await;
                    if !matches!(outcome, Outcome::Done) {
                        found.truncate(before);
                    } else {
                        at += count;
                        self.size = (self.size * 2).min(STATEMENT_LOOKUPS_MAX);
                        self.slow = 0;
                    }
                    outcome
                }
            };
            match outcome {
                Outcome::Done => {}
                // What is answered need not be asked again.
                Outcome::Again(_) if at > first => break,
                Outcome::Again(failure) => return Err(failure),
                Outcome::BadQuery(_) | Outcome::BadValue(_) if !is_fresh => self.shape = None,
                Outcome::TooMuch | Outcome::Slow | Outcome::BadValue(_) if count > 1 => {
                    self.size = count.div_ceil(2);
                }
                Outcome::Slow if self.slow + 1 < SLOW_ATTEMPTS_MAX => {
                    self.slow += 1;
                    if at > first {
                        break;
                    }
                    return Err(self.outage("ran out of time"));
                }
                Outcome::BadQuery(state) => {
                    self.warn("its query fails", Some(&state));
                    self.fall_back(at..batch.len(), Cause::Absent, &mut found);
                    // The table may be mended by the next batch.
                    self.shape = None;
                    at = batch.len();
                }
                Outcome::TooMuch => {
                    self.fall_back(at..at + 1, Cause::Bulk, &mut found);
                    at += 1;
                }
                Outcome::Slow => {
                    self.warn("one lookup takes too long", None);
                    self.fall_back(at..at + 1, Cause::Absent, &mut found);
                    self.slow = 0;
                    at += 1;
                }
                Outcome::BadValue(state) => {
                    self.warn("its query fails for a value", Some(&state));
                    self.fall_back(at..at + 1, Cause::Absent, &mut found);
                    at += 1;
                }
            }
        }
        let rest = (at < batch.len()).then_some(at);
        Ok(Report { requested: (at - first) as u64, found, rest, ..Report::default() })
    }

    async fn describe(&mut self) -> Outcome {
        let Some(lookup) = &self.rules.rule(self.rule).lookup else { return Outcome::Done };
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(failure) => return Outcome::Again(failure),
        };
        match describe(&mut connection, lookup.statement()).await {
            Ok(shape) => {
                connection.keep();
                self.shape = Some(shape);
                self.described_at = Instant::now();
                Outcome::Done
            }
            Err(error) => self.judge(error),
        }
    }

    async fn ask(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        shape: &Shape,
        found: &mut Found,
    ) -> Outcome {
        let rules = Arc::clone(&self.rules);
        let rule = rules.rule(self.rule);
        let Some(lookup) = &rule.lookup else { return Outcome::Done };
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(failure) => return Outcome::Again(failure),
        };
        // A batch holds nothing but what this program wrote.
        let inputs: Vec<Input<'_>> =
            range.clone().filter_map(|at| Input::read(batch.get(at).value)).collect();
        // A rule without fallback gets all the rows that there are.
        let limit = rule.bulk_above(Verb::Lookup).unwrap_or(i64::MAX as u64 - 1);
        let statement = lookup.statement();
        let (id, answer) = (self.rule, &mut self.answer);
        let bytes_max = match range.len() {
            1 if rule.fallback.is_empty() => usize::MAX,
            1 => FOUND_BY_ONE_BYTES_MAX,
            _ => FOUND_BYTES_MAX,
        };
        let mut rows = query::Counter::new(inputs.len(), limit);
        let before = found.bytes();
        let asked = query::run(&mut connection, statement, shape, &inputs, limit + 1, |row| {
            let Some(input) = inputs.get(row.input) else { return query::Go::On };
            if rows.is_over(row.input) {
                return query::Go::Over;
            }
            let columns = shape.columns.iter().map(String::as_str).zip(row.values());
            found.add_row(&rules, id, (range.start + row.input, *input), columns, answer);
            match found.bytes() - before > bytes_max {
                true => query::Go::Over,
                false => query::Go::On,
            }
        });
        match asked.await {
            Ok(query::Go::On) => {
                connection.keep();
                Outcome::Done
            }
            Ok(query::Go::Over) => Outcome::TooMuch,
            Err(error) => self.judge(error),
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Outage(message) => Failure::Outage { message },
            PoolError::Refused { message, hint } => Failure::Refused { message, hint },
        })
    }

    /// What an error means. Its text may hold a row's values.
    fn judge(&self, error: QueryError) -> Outcome {
        let state = match error {
            QueryError::Lost(message) => return Outcome::Again(self.outage(&message)),
            QueryError::Refused(state, text) => {
                debug!(rule = self.name(), sqlstate = state.code(), "a lookup failed: {text}");
                state
            }
        };
        match state.code().get(..2) {
            _ if state == SqlState::QUERY_CANCELED => Outcome::Slow,
            Some("08" | "40" | "53" | "55" | "57") => {
                Outcome::Again(self.outage(&format!("SQLSTATE {}", state.code())))
            }
            Some("22" | "21" | "23" | "P0") => Outcome::BadValue(state),
            _ => Outcome::BadQuery(state),
        }
    }

    fn outage(&self, what: &str) -> Failure {
        Failure::Outage { message: format!("the lookup of rule {}: {what}", self.name()) }
    }

    fn warn(&self, what: &str, state: Option<&SqlState>) {
        let rule = self.name();
        let sqlstate = state.map(SqlState::code);
        let hint = "walpurge check tries the query and says more; so does --log debug";
        match self.rules.rule(self.rule).fallback.is_empty() {
            false => warn!(rule, sqlstate, hint, "{what}; the rule's fallback runs"),
            true => error!(
                rule,
                sqlstate, hint, "{what}; nothing is invalidated, as the rule has no fallback"
            ),
        }
    }

    fn fall_back(&self, lookups: Range<usize>, cause: Cause, found: &mut Found) {
        lookups.for_each(|at| found.add_fallback(self.rule, at, cause));
    }

    fn name(&self) -> &str {
        &self.rules.rule(self.rule).name
    }
}
