//! How does a name or a text become a part of a command?
//!
//! For commands that take no parameters: the replication grammar and simple queries. Pure.

/// A double-quoted identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A single-quoted literal, right whatever `standard_conforming_strings` says.
///
/// For SQL; the replication grammar knows no `E''` and treats a backslash as itself: use
/// [`replication_literal`] there.
pub fn literal(text: &str) -> String {
    if text.contains('\\') {
        return format!(" E'{}'", text.replace('\\', r"\\").replace('\'', "''"));
    }
    replication_literal(text)
}

/// A single-quoted literal of the replication grammar (repl_scanner.l).
pub fn replication_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_inside_are_doubled() {
        assert_eq!(identifier(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(replication_literal(r"a\ 'b"), r"'a\ ''b'");
    }
}
