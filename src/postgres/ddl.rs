//! The event triggers that tell walpurge of DDL: how they are installed, removed and recognised.
//!
//! SQL text, so that `--print` shows what is run. What their messages mean is told by
//! [`Ddl`](crate::rules::Ddl).

use tokio_postgres::Client;

use super::client::simple_query;
use super::error::PgError;

/// Installs the event triggers, or brings them up to date: one transaction, for a superuser.
pub const INSTALL_DDL: &str = include_str!("ddl.sql");

/// Removes all that [`INSTALL_DDL`] makes, where it is there; a schema that holds more stays.
pub const REMOVE_DDL: &str = "\
BEGIN;
SET LOCAL client_min_messages = warning;
DROP EVENT TRIGGER IF EXISTS walpurge_sql_drop;
DROP EVENT TRIGGER IF EXISTS walpurge_table_rewrite;
DROP EVENT TRIGGER IF EXISTS walpurge_ddl_command_end;
DROP FUNCTION IF EXISTS walpurge.ddl();
DO $walpurge$
BEGIN
    DROP SCHEMA IF EXISTS walpurge;
EXCEPTION WHEN dependent_objects_still_exist THEN
    RAISE WARNING 'schema walpurge holds more than walpurge made, and stays';
END
$walpurge$;
COMMIT;
";

/// How many event triggers there are.
const TRIGGERS: usize = 3;

/// What of the event triggers is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DdlTriggers {
    /// All of them, enabled and of this version.
    Installed,
    /// Some are missing or disabled.
    Partial,
    /// They are of another version.
    OfOtherVersion,
    /// Nothing.
    Missing,
}

/// Asks for the event triggers; any role may.
pub async fn ddl_triggers(client: &Client) -> Result<DdlTriggers, PgError> {
    const QUERY: &str = "SELECT p.prosrc, e.evtname, e.evtenabled IN ('O', 'A') \
        FROM pg_catalog.pg_proc p \
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'walpurge' \
        LEFT JOIN pg_catalog.pg_event_trigger e ON e.evtfoid = p.oid \
        WHERE p.proname = 'ddl'";
    let rows = simple_query(client, QUERY).await?;
    let Some([Some(source), ..]) = rows.first().map(Vec::as_slice) else {
        return Ok(DdlTriggers::Missing);
    };
    let ours = INSTALL_DDL.split("$walpurge$").nth(1);
    let enabled = rows.iter().filter(|row| row.get(2).and_then(Option::as_deref) == Some("t"));
    Ok(match enabled.count() {
        TRIGGERS if ours == Some(source) => DdlTriggers::Installed,
        TRIGGERS => DdlTriggers::OfOtherVersion,
        _ => DdlTriggers::Partial,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sql_can_be_stored_whatever_the_encoding() {
        assert!(INSTALL_DDL.is_ascii() && REMOVE_DDL.is_ascii());
        assert_eq!(INSTALL_DDL.matches("$walpurge$").count(), 2);
        assert_eq!(INSTALL_DDL.matches("CREATE EVENT TRIGGER").count(), TRIGGERS);
    }
}
