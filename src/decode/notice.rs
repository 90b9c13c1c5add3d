//! What the server says beside the stream: wal2json in place of a change that it cannot write, and
//! the walsender when it waits.

/// A change that wal2json dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedChange<'a> {
    /// The table's schema.
    pub schema: &'a str,
    /// The table's name.
    pub table: &'a str,
}

/// How wal2json begins.
const DROPPED: &str = "no tuple identifier for ";

/// The table of a dropped change, if the notice names one without doubt.
///
/// wal2json writes `no tuple identifier for UPDATE in table "public"."np"`, and likewise for
/// DELETE, and does not escape quotes within a name: where the names cannot be told apart, the
/// answer is `None`, as for a notice that says something else. The server's `lc_messages` does
/// not translate it, since the plugin has no message catalogue.
pub fn dropped_change(message: &str) -> Option<DroppedChange<'_>> {
    let (what, names) = message.split_once(" in table \"")?;
    if !what.starts_with(DROPPED) {
        return None;
    }
    let (schema, table) = names.strip_suffix('"')?.split_once("\".\"")?;
    let certain = !schema.contains('"') && !table.contains('"');
    certain.then_some(DroppedChange { schema, table })
}

/// The setting that walsenders of Postgres 17 and newer name when they wait.
const STANDBYS: &str = "\"synchronized_standby_slots\"";

/// Whether the server says that it waits for a standby that is named in
/// `synchronized_standby_slots`, over and over while it waits: nothing of the stream is missing.
///
/// From `StandbySlotsHaveCaughtup` of Postgres' `slot.c`; a translation keeps the setting's name.
pub fn waits_for_standby(message: &str) -> bool {
    // A table may have any name.
    message.contains(STANDBYS) && !message.starts_with(DROPPED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_table_of_a_dropped_change() {
        let message = r#"no tuple identifier for UPDATE in table "public"."n.p, x""#;
        let dropped = DroppedChange { schema: "public", table: "n.p, x" };
        assert_eq!(dropped_change(message), Some(dropped));
    }

    #[test]
    fn knows_what_a_waiting_walsender_says() {
        for message in [
            r#"replication slot "a" specified in parameter "synchronized_standby_slots" does not exist"#,
            r#"replication slot "a" specified in parameter "synchronized_standby_slots" does not have active_pid"#,
            r#"physical replication slot "a" specified in parameter "synchronized_standby_slots" has been invalidated"#,
        ] {
            assert!(waits_for_standby(message));
            assert_eq!(dropped_change(message), None);
        }
        let table =
            r#"no tuple identifier for UPDATE in table "public"."synchronized_standby_slots""#;
        assert!(!waits_for_standby(table));
    }

    #[test]
    fn does_not_guess() {
        for message in [
            "",
            "something else",
            r#"no tuple identifier for UPDATE in table "a"."b"."c""#,
            r#"no tuple identifier for UPDATE in table "public"."np"#,
            r#"no tuple identifier for UPDATE in table "public""#,
        ] {
            assert_eq!(dropped_change(message), None, "{message}");
        }
    }
}
