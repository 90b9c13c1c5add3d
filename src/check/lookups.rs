//! Can the lookups of rules run, and do they give the columns that templates use?

use std::collections::HashMap;

use tokio::time::timeout;

use super::ANSWER_TIMEOUT;
use super::file::{count, rule as rule_subject};
use super::finding::Findings;
use crate::lookups::{Pool, PoolError, QueryError, try_out};
use crate::postgres::ConnectConfig;
use crate::postgres::quote::identifier;
use crate::rules::lookup::{Lookup, Shape};
use crate::rules::{RuleId, RuleSet};

/// What each rule's query gives, as far as it could be learned.
pub(super) type Shapes = HashMap<RuleId, Shape>;

/// Tries every lookup, for no row at all.
pub(super) async fn lookups(
    rules: &RuleSet,
    connect: &ConnectConfig,
    findings: &mut Findings,
) -> Shapes {
    let pool = Pool::new(connect.clone());
    let mut shapes = Shapes::new();
    for (at, rule) in rules.rules().iter().enumerate() {
        let Some(lookup) = &rule.lookup else { continue };
        let subject = rule_subject(&rule.name);
        let tried = timeout(ANSWER_TIMEOUT, try_one(&pool, lookup)).await;
        match tried.unwrap_or(Err(Fault::NoAnswer)) {
            Ok(shape) => {
                findings.ok(subject, said(&shape));
                shapes.insert(RuleId(at as u32), shape);
            }
            Err(Fault::Query(QueryError::Refused(state, text))) => {
                let hint = hint(state.code(), connect.user());
                findings.failed(subject, format!("its lookup fails: {text}"), hint);
            }
            Err(Fault::Query(QueryError::Lost(_)) | Fault::NoAnswer) => {
                let hint = "another session may hold a lock on its tables: try again".to_owned();
                findings.failed(subject, "its lookup gets no answer", hint);
            }
            // It is the same for all of them.
            Err(Fault::Connection(PoolError::Outage(message))) => {
                let hint = "start the server, or correct postgres.lookup_url".to_owned();
                findings.failed("lookups", message, hint);
                break;
            }
            Err(Fault::Connection(PoolError::Refused { message, hint })) => {
                findings.failed("lookups", message, hint);
                break;
            }
        }
    }
    shapes
}

enum Fault {
    Connection(PoolError),
    Query(QueryError),
    NoAnswer,
}

async fn try_one(pool: &Pool, lookup: &Lookup) -> Result<Shape, Fault> {
    let mut connection = pool.get().await.map_err(Fault::Connection)?;
    let tried = try_out(&mut connection, lookup.statement()).await;
    if tried.is_ok() {
        connection.keep();
    }
    tried.map_err(Fault::Query)
}

fn said(shape: &Shape) -> String {
    let columns = count(shape.columns.len(), "column");
    let mut said = format!("its lookup gives {columns}: {}", shape.columns.join(", "));
    if !shape.types.is_empty() {
        said.push_str(&format!("; it binds {}", shape.types.join(", ")));
    }
    said
}

/// What mends a query, by its SQLSTATE.
fn hint(sqlstate: &str, user: &str) -> Option<String> {
    let user = identifier(user);
    match sqlstate {
        "42501" => Some(format!("GRANT SELECT ON TABLE … TO {user};  -- each table of the query")),
        "42P01" => Some("name the table with its schema".to_owned()),
        "42703" => Some("a column was renamed or dropped: correct `lookup`".to_owned()),
        "42P18" => Some("say what type the value is: {column}::bigint".to_owned()),
        "42601" => Some("`lookup` must be one SELECT".to_owned()),
        _ => None,
    }
}
