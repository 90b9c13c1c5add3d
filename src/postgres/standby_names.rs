//! Would Postgres take us for a synchronous standby?
//!
//! It waits for a synchronous standby before a commit becomes visible; we wait until a commit is
//! visible before we confirm it. With our name among them both wait for ever, and every write on
//! the primary hangs. Pure.

use super::error::{PgError, PgErrorKind};
use super::query::Rows;

/// The question for the setting, which any role may ask.
pub(super) const QUERY: &str = "SELECT pg_catalog.current_setting('synchronous_standby_names')";

/// The error that the answer to [`QUERY`] is, if it means us.
pub(super) fn refuse(rows: &Rows, application_name: &str) -> Result<(), PgError> {
    let setting = rows.first().and_then(|row| row.first()?.as_deref()).unwrap_or_default();
    match names_us(setting, application_name) {
        Named::No => Ok(()),
        Named::Star | Named::ByName => {
            Err(PgError::new(PgErrorKind::SynchronousStandby, "stream without making writes wait"))
        }
    }
}

/// How `synchronous_standby_names` means us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// It does not.
    No,
    /// By `*`, which any connected walsender fits.
    Star,
    /// By our `application_name`.
    ByName,
}

/// Whether the setting means a walsender whose client calls itself `application_name`.
///
/// The forms are those of syncrep_gram.y: `a, b`, `2 (a, b)`, `FIRST 2 (a, b)`, `ANY 2 (a, b)`.
pub(crate) fn names_us(setting: &str, application_name: &str) -> Named {
    let mut named = Named::No;
    for token in tokens(setting) {
        match token {
            // What stands before is a method and a number, whoever is called so.
            Token::Open => named = Named::No,
            Token::Star => return Named::Star,
            // As Postgres compares them: SyncRepGetStandbyPriority of syncrep.c.
            Token::Name(name) if name.eq_ignore_ascii_case(application_name) => {
                named = Named::ByName;
            }
            Token::Name(_) => {}
        }
    }
    named
}

enum Token {
    Open,
    Star,
    Name(String),
}

fn tokens(setting: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = setting;
    while let Some(first) = rest.chars().next() {
        match first {
            '"' => {
                let (name, behind) = quoted(&rest[1..]);
                // Quoted or not, a star is one.
                tokens.push(if name == "*" { Token::Star } else { Token::Name(name) });
                rest = behind;
                continue;
            }
            '*' => tokens.push(Token::Star),
            '(' => tokens.push(Token::Open),
            ',' | ')' => {}
            space if space.is_whitespace() => {}
            _ => {
                let ends = |char: char| char.is_whitespace() || "\"*(),".contains(char);
                let end = rest.find(ends).unwrap_or(rest.len());
                tokens.push(Token::Name(rest[..end].to_owned()));
                rest = &rest[end..];
                continue;
            }
        }
        rest = &rest[first.len_utf8()..];
    }
    tokens
}

/// A name up to its closing quote, and what follows; a doubled quote stands for one.
fn quoted(mut rest: &str) -> (String, &str) {
    let mut name = String::new();
    loop {
        let Some((piece, behind)) = rest.split_once('"') else {
            return (name + rest, "");
        };
        name.push_str(piece);
        match behind.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return (name, behind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_our_name_are_found_in_every_form() {
        for (setting, named) in [
            ("", Named::No),
            ("replica1, replica2", Named::No),
            ("walpurge2", Named::No),
            ("walpurge", Named::ByName),
            ("a,WALPURGE", Named::ByName),
            ("FIRST 1 (replica, \"Walpurge\")", Named::ByName),
            ("ANY 2 (a, b, *)", Named::Star),
            ("2(walpurge,*)", Named::Star),
            ("walpurge 1 (a)", Named::No),
            ("*", Named::Star),
            ("\"*\"", Named::Star),
            ("\"a\"\"walpurge\"", Named::No),
            ("\"unclosed", Named::No),
        ] {
            assert_eq!(names_us(setting, "walpurge"), named, "{setting}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_setting_is_read_without_a_panic(setting in ".*") {
            names_us(&setting, "walpurge");
        }
    }
}
