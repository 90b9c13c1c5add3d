//! What wal2json says, in place of a change, when it cannot write the change.

/// A change that wal2json dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedChange<'a> {
    /// The table's schema.
    pub schema: &'a str,
    /// The table's name.
    pub table: &'a str,
}

/// The table of a dropped change, if the notice names one without doubt.
///
/// wal2json writes `no tuple identifier for UPDATE in table "public"."np"`, and likewise for
/// DELETE, and does not escape quotes within a name: where the names cannot be told apart, the
/// answer is `None`, as for a notice that says something else. The server's `lc_messages` does
/// not translate it, since the plugin has no message catalogue.
pub fn dropped_change(message: &str) -> Option<DroppedChange<'_>> {
    let (what, names) = message.split_once(" in table \"")?;
    if !what.starts_with("no tuple identifier for ") {
        return None;
    }
    let (schema, table) = names.strip_suffix('"')?.split_once("\".\"")?;
    let certain = !schema.contains('"') && !table.contains('"');
    certain.then_some(DroppedChange { schema, table })
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
