//! Does the publication carry what the rules need, and does no statement fail because of it?

use super::database::{bounded, told};
use super::finding::Findings;
use super::server::Server;
use super::{LISTED_MAX, Targets};
use crate::postgres::PublicationQuery;
use crate::postgres::client::simple_query;
use crate::postgres::publication::{FailingBecause, Found, MARK_OF_CHANGE, failing_tables};
use crate::postgres::quote::identifier;

const SETUP: &str = "walpurge setup;  or let the tables' owner run what this prints: walpurge \
                     setup --print";

/// Looks at the configured publication.
pub(super) async fn publication(
    client: &tokio_postgres::Client,
    targets: Targets<'_>,
    server: &Server,
    findings: &mut Findings,
) {
    let name = &targets.postgres.publication;
    let subject = format!("publication {name}");
    let query = PublicationQuery::new(name, targets.rules, server.version_num);
    let asking = async {
        let carried = query.answer(simple_query(client, query.sql()).await?);
        let found = Found::read(client, name, server.version_num).await?;
        let failing = failing_tables(client, name, server.version_num).await?;
        Ok((found.zip(carried), failing))
    };
    let (found, failing) = match bounded("read the publication", asking).await {
        Ok((Some(found), failing)) => (found, failing),
        Ok((None, _)) => {
            let message = "there is none: pgoutput has nothing to send, and run ends with 78";
            return findings.failed(subject, message, SETUP.to_owned());
        }
        Err(error) => return findings.failed(subject, told(&error), error.hint()),
    };
    let (found, carried) = found;
    let alter = match found.is_ours() {
        true => SETUP.to_owned(),
        false => format!(
            "let {}, who owns it, alter it: walpurge setup leaves alone what it has not made",
            found.owner
        ),
    };
    let lacks = carried.lacks(targets.rules);
    for lack in lacks.iter().take(LISTED_MAX) {
        let hint = lack.hint().unwrap_or_else(|| alter.clone());
        findings.failed(&subject, format!("it does not carry {lack}"), hint);
    }
    if lacks.len() > LISTED_MAX {
        let more = lacks.len() - LISTED_MAX;
        findings.failed(&subject, format!("nor {more} more"), alter.clone());
    }
    for table in failing.iter().take(LISTED_MAX) {
        let table_name = &table.sql_name;
        let (why, hint) = match table.why {
            FailingBecause::NoIdentity => (
                "it has no replica identity",
                format!(
                    "ALTER TABLE {table_name} REPLICA IDENTITY FULL;  or take it out: ALTER \
                     PUBLICATION {} DROP TABLE {table_name};",
                    identifier(name)
                ),
            ),
            FailingBecause::ColumnList => {
                ("the list of columns does not cover its replica identity", alter.clone())
            }
        };
        let message = format!("every UPDATE and DELETE of {table_name} fails: {why}");
        findings.failed(&subject, message, hint);
    }
    if failing.len() > LISTED_MAX {
        let more = failing.len() - LISTED_MAX;
        findings.failed(&subject, format!("nor do those of {more} more tables work"), alter);
    }
    if found.comment == MARK_OF_CHANGE {
        findings.warning(
            &subject,
            "changed, and what transactions from before have written is not published; nobody has \
             waited until they ended",
            "walpurge setup  waits for them".to_owned(),
        );
    }
    if lacks.is_empty() && failing.is_empty() {
        let tables = match (found.all_tables, found.schemas.len()) {
            (true, _) => "all tables".to_owned(),
            (false, 0) => super::file::count(found.tables.len(), "table"),
            (false, _) => "whole schemas".to_owned(),
        };
        let whose = if found.is_ours() { "" } else { ", not made by walpurge setup" };
        let message = format!("it carries what the rules need: {tables}{whose}");
        findings.ok(&subject, message);
    }
}
