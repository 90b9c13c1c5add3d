//! With which options is wal2json started?
//!
//! Format 2, without the names of types (40 % faster). Whether the server's wal2json knows the newer options
//! is learnt by trying, since nothing else tells its version.

use super::error::{PgError, PgErrorKind};

/// Known to wal2json 2.6 and later.
const NUMERIC_AS_STRING: &str = "numeric-data-types-as-string";

/// What a stream shall contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wal2jsonOptions {
    /// The tables, in the plugin's own syntax; empty: all.
    pub tables: String,
    /// The prefixes of logical messages; empty: all.
    pub message_prefixes: Vec<String>,
    /// Of `insert`, `update`, `delete`, `truncate`; empty: all.
    pub actions: Vec<String>,
    /// Whether null has to be told from NaN: by the number of each column's type (a tenth slower),
    /// unless numbers print as strings.
    pub has_nulls: bool,
}

/// How numbers print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumericFormat {
    /// As strings, NaN and Infinity too.
    Strings,
    /// As JSON numbers; NaN and Infinity print as `null`.
    Numbers,
}

impl Wal2jsonOptions {
    /// The plugin's options, in its own words.
    pub fn options(&self, numerics: NumericFormat) -> Vec<(&'static str, String)> {
        let mut options = vec![
            ("format-version", "2".to_string()),
            ("include-lsn", "true".to_string()),
            ("include-xids", "true".to_string()),
            ("include-timestamp", "true".to_string()),
            ("include-types", "false".to_string()),
        ];
        match numerics {
            NumericFormat::Strings => options.push((NUMERIC_AS_STRING, "true".to_string())),
            NumericFormat::Numbers if self.has_nulls => {
                options.push(("include-type-oids", "true".to_string()));
            }
            NumericFormat::Numbers => {}
        }
        if !self.tables.is_empty() {
            options.push(("add-tables", self.tables.clone()));
        }
        for (name, values) in
            [("add-msg-prefixes", &self.message_prefixes), ("actions", &self.actions)]
        {
            if !values.is_empty() {
                options.push((name, values.join(",")));
            }
        }
        options
    }
}

/// Whether the server's wal2json does not know [`NumericFormat::Strings`]. The error has dropped
/// the session's temporary slots.
pub(super) fn lacks_numerics(error: &PgError) -> bool {
    matches!(error.kind(), PgErrorKind::UnknownPluginOption(name) if name == NUMERIC_AS_STRING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_becomes_options() {
        let options = Wal2jsonOptions {
            tables: "public.products".into(),
            message_prefixes: vec!["walpurge".into(), "walpurge.heartbeat".into()],
            actions: vec![],
            has_nulls: true,
        };
        assert!(
            options.options(NumericFormat::Strings).iter().all(|(n, _)| *n != "include-type-oids")
        );
        let options = options.options(NumericFormat::Numbers);
        let value = |name| options.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        assert_eq!(value("add-tables"), Some("public.products"));
        assert_eq!(value("add-msg-prefixes"), Some("walpurge,walpurge.heartbeat"));
        assert_eq!(value("actions"), None);
        assert_eq!(value("include-type-oids"), Some("true"));
        assert_eq!(value(NUMERIC_AS_STRING), None);
    }
}
