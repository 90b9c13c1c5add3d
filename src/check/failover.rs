//! Does the slot follow a failover, and does walpurge stay behind the standbys that take over?
//!
//! From Postgres 17 on; before, a promoted standby has no slot, which is a gap.

use super::database::{bounded, told};
use super::finding::Findings;
use super::server::Server;
use crate::postgres::client::simple_query;
use crate::postgres::{FAILOVER_SINCE, quote};

/// What the server says of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failover<'a> {
    follows: bool,
    synchronized_standby_slots: &'a str,
    /// Those of them for which it waits, and why.
    waits_for: &'a str,
    /// How many physical slots there are: one for each standby that keeps one.
    standbys: u64,
}

/// One column for each field; the setting is a list of names, which may be quoted. A standby's slot
/// that nobody reads stays where it is.
const QUERY: &str = "SELECT failover, current_setting('synchronized_standby_slots'), \
       (SELECT string_agg(CASE \
            WHEN s.slot_name IS NULL THEN n.name || ' does not exist' \
            WHEN s.slot_type <> 'physical' THEN n.name || ' is not a standby''s' \
            WHEN s.invalidation_reason IS NOT NULL THEN n.name || ' is invalidated' \
            ELSE n.name || ' is not in use' END, ', ') \
          FROM unnest(string_to_array(current_setting('synchronized_standby_slots'), ',')) t (typed), \
            LATERAL (SELECT btrim(typed, ' \"')) n (name) \
          LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = n.name \
          WHERE s.slot_name IS NULL OR s.slot_type <> 'physical' OR NOT s.active \
            OR s.invalidation_reason IS NOT NULL), \
       (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical') \
     FROM pg_catalog.pg_replication_slots";

/// Looks at it, if the slot is there.
pub(super) async fn failover(
    client: &tokio_postgres::Client,
    slot: &str,
    server: &Server,
    findings: &mut Findings,
) {
    if server.version_num < FAILOVER_SINCE || server.in_recovery {
        return;
    }
    let sql = format!("{QUERY} WHERE slot_name = {}", quote::literal(slot));
    let rows = match bounded("ask whether the slot follows a failover", simple_query(client, &sql))
        .await
    {
        Ok(rows) => rows,
        Err(error) => return findings.failed("failover", told(&error), error.hint()),
    };
    let Some([follows, names, waits_for, standbys]) = rows.first().map(Vec::as_slice) else {
        return;
    };
    let failover = Failover {
        follows: follows.as_deref() == Some("t"),
        synchronized_standby_slots: names.as_deref().unwrap_or_default(),
        waits_for: waits_for.as_deref().unwrap_or_default(),
        standbys: standbys.as_deref().and_then(|count| count.parse().ok()).unwrap_or_default(),
    };
    judge(failover, slot, findings);
}

fn judge(failover: Failover<'_>, slot: &str, findings: &mut Findings) {
    const SUBJECT: &str = "failover";
    const GAP: &str = "after a failover the slot is missing, and every rule's fallback runs";
    match failover {
        Failover { follows: false, .. } => findings.note(
            SUBJECT,
            format!("slot {slot} does not follow one: {GAP}"),
            format!(
                "with walpurge stopped: psql 'dbname=… replication=database' -c \
                 'ALTER_REPLICATION_SLOT {} (FAILOVER true)'; and on the standbys: \
                 ALTER SYSTEM SET sync_replication_slots = on;",
                quote::identifier(slot)
            ),
        ),
        Failover { synchronized_standby_slots: "", standbys, .. } if standbys > 0 => findings
            .warning(
                SUBJECT,
                format!(
                    "slot {slot} follows one, and synchronized_standby_slots is empty: walpurge \
                     may be ahead of the standby that takes over, and then there is a gap"
                ),
                "as a superuser, with the standbys' physical slots: ALTER SYSTEM SET \
                 synchronized_standby_slots = …; SELECT pg_reload_conf();"
                    .to_owned(),
            ),
        Failover { waits_for: "", .. } => findings.ok(SUBJECT, format!("slot {slot} follows one")),
        Failover { waits_for, .. } => findings.failed(
            SUBJECT,
            format!(
                "slot {slot} follows one, and Postgres sends it nothing that the slots of \
                 synchronized_standby_slots have not got: {waits_for}"
            ),
            "start that standby; or, as a superuser, with those that are there: ALTER SYSTEM SET \
             synchronized_standby_slots = …; SELECT pg_reload_conf();"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Group, Status};

    #[test]
    fn a_slot_that_follows_needs_standbys_that_are_waited_for() {
        let status = |follows, synchronized_standby_slots, standbys, waits_for| {
            let mut findings = Findings::new(Group::Postgres);
            let failover = Failover { follows, synchronized_standby_slots, waits_for, standbys };
            judge(failover, "walpurge", &mut findings);
            findings.into_list().iter().map(|finding| finding.status).collect::<Vec<_>>()
        };
        assert_eq!(status(false, "", 0, ""), [Status::Note]);
        assert_eq!(status(true, "", 0, ""), [Status::Ok]);
        assert_eq!(status(true, "", 1, ""), [Status::Warning]);
        assert_eq!(status(true, "standby1", 1, ""), [Status::Ok]);
        assert_eq!(status(true, "a", 1, "a is not in use"), [Status::Failed]);
        assert_eq!(status(false, "a", 1, "a is not in use"), [Status::Note]);
    }
}
