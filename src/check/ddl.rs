//! Are the event triggers there that tell of DDL which changes rows?
//!
//! Many do without them, so that their absence is no fault.

use super::database::{bounded, told};
use super::finding::Findings;
use crate::postgres::{DdlTriggers, ddl_triggers};

/// Looks for the event triggers in the database `dbname`.
pub(super) async fn ddl(client: &tokio_postgres::Client, dbname: &str, findings: &mut Findings) {
    const SUBJECT: &str = "event triggers";
    let hint = || {
        format!(
            "as a superuser, once: walpurge setup --ddl;  or let psql be one: \
             walpurge setup --ddl --print | psql -U postgres -d {dbname}"
        )
    };
    let found = match bounded("ask for event triggers", ddl_triggers(client)).await {
        Ok(found) => found,
        Err(error) => return findings.failed(SUBJECT, told(&error), error.hint()),
    };
    match found {
        DdlTriggers::Installed => {
            findings.ok(SUBJECT, "installed: DDL on a rule's table runs the rule's fallback");
        }
        DdlTriggers::Missing => findings.note(
            SUBJECT,
            "not installed: ALTER TABLE, DROP TABLE and partitions that come and go leave keys \
             stale",
            hint(),
        ),
        DdlTriggers::Partial => findings.warning(
            SUBJECT,
            "some are missing or disabled: DDL on a rule's table may leave keys stale",
            hint(),
        ),
        DdlTriggers::OfOtherVersion => {
            findings.warning(SUBJECT, "those of another version of walpurge", hint());
        }
    }
}
