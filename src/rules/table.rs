//! Which tables does a rule's `table` mean?
//!
//! Names are exact and unfolded: `public.Products` is not `public.products`. They are split at
//! the first dot; a part may be quoted as in SQL. A `*` in an unquoted part stands for any text.
//! Pure: no I/O, no clock.

use std::fmt;

use crate::problem::{Problem, Text};

/// A table, or several by a `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TablePattern {
    /// The schema.
    pub schema: Part,
    /// The table's own name.
    pub table: Part,
}

/// The schema, or the table's own name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// This name.
    Exact(Vec<u8>),
    /// `*`: every name.
    Any,
    /// A name with a `*` in it: the literal pieces between the stars, at least two. The first and
    /// the last one are the name's start and end, and may be empty.
    Glob(Vec<Vec<u8>>),
}

impl TablePattern {
    /// Parses what was typed.
    ///
    /// # Errors
    /// When it names no schema, when a part is empty, and when quotes do not match.
    pub fn parse(text: &Text) -> Result<TablePattern, Problem> {
        let typed = text.value.as_str();
        let problem = |message: String, label: &str, range: std::ops::Range<usize>| {
            Problem::new(text.span.clone(), message, label).within(range)
        };
        let first = parse_part(typed, 0, Place::Schema).map_err(|fault| fault.problem(text))?;
        if first.end == typed.len() {
            let message = format!("table `{typed}` has no schema");
            return Err(problem(message, "no schema", 0..typed.len())
                .help(format!("write `public.{typed}`, if that is its schema")));
        }
        if typed.as_bytes()[first.end] != b'.' {
            let message = format!("table `{typed}` goes on after a closing quote");
            return Err(problem(message, "expected a dot", first.end..typed.len())
                .help("a quote inside a quoted name is doubled"));
        }
        let second =
            parse_part(typed, first.end + 1, Place::Table).map_err(|fault| fault.problem(text))?;
        if second.end < typed.len() {
            let message = format!("table `{typed}` goes on after a closing quote");
            return Err(problem(message, "expected the end", second.end..typed.len())
                .help("a quote inside a quoted name is doubled"));
        }
        Ok(TablePattern { schema: first.part, table: second.part })
    }

    /// Whether the pattern means this table.
    pub fn matches(&self, schema: &[u8], table: &[u8]) -> bool {
        self.schema.matches(schema) && self.table.matches(table)
    }
}

impl Part {
    /// Whether the part means this name.
    pub fn matches(&self, name: &[u8]) -> bool {
        match self {
            Part::Exact(exact) => exact == name,
            Part::Any => true,
            Part::Glob(pieces) => matches_pieces(pieces, name),
        }
    }
}

/// Whether `name` is the pieces in order, with any text between them.
fn matches_pieces(pieces: &[Vec<u8>], name: &[u8]) -> bool {
    let [first, middle @ .., last] = pieces else { return false };
    let Some(rest) = name.strip_prefix(first.as_slice()) else { return false };
    let Some(mut rest) = rest.strip_suffix(last.as_slice()) else { return false };
    // The first occurrence leaves the most for the pieces to come, so that no other is tried.
    for piece in middle.iter().filter(|piece| !piece.is_empty()) {
        let Some(start) = rest.windows(piece.len()).position(|window| window == piece) else {
            return false;
        };
        rest = &rest[start + piece.len()..];
    }
    true
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Schema,
    Table,
}

/// A part and where it ends.
struct Parsed {
    part: Part,
    end: usize,
}

enum Fault {
    Empty { place: Place, at: usize },
    Unclosed { quote: usize },
    Stray { quote: usize },
}

impl Fault {
    fn problem(self, text: &Text) -> Problem {
        let typed = &text.value;
        let new = |message: String, label: &str, within: std::ops::Range<usize>| {
            Problem::new(text.span.clone(), message, label).within(within)
        };
        match self {
            Fault::Empty { place, at } => {
                let what = if place == Place::Schema { "schema" } else { "table" };
                new(format!("table `{typed}` has an empty {what} name"), "empty name", at..at)
                    .help("write `schema.table`")
            }
            Fault::Unclosed { quote } => new(
                format!("table `{typed}` has an open quote"),
                "never closed",
                quote..typed.len(),
            ),
            Fault::Stray { quote } => {
                let message = format!("table `{typed}` has a quote inside a name");
                new(message, "not at the name's start", quote..quote + 1)
                    .help("quote the whole name, and double the quote inside it: \"we\"\"ird\"")
            }
        }
    }
}

fn parse_part(typed: &str, start: usize, place: Place) -> Result<Parsed, Fault> {
    let rest = &typed[start..];
    if rest.starts_with('"') {
        return parse_quoted(typed, start, place);
    }
    // Only the first dot splits: a table's own name may hold more.
    let length = match place {
        Place::Schema => rest.find('.').unwrap_or(rest.len()),
        Place::Table => rest.len(),
    };
    let name = &rest[..length];
    if name.is_empty() {
        return Err(Fault::Empty { place, at: start });
    }
    if let Some(quote) = name.find('"') {
        return Err(Fault::Stray { quote: start + quote });
    }
    let part = if name.bytes().all(|byte| byte == b'*') {
        Part::Any
    } else if name.contains('*') {
        Part::Glob(name.split('*').map(|piece| piece.as_bytes().to_vec()).collect())
    } else {
        Part::Exact(name.as_bytes().to_vec())
    };
    Ok(Parsed { part, end: start + length })
}

fn parse_quoted(typed: &str, start: usize, place: Place) -> Result<Parsed, Fault> {
    let mut name = String::new();
    let mut chars = typed[start + 1..].char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if chars.next_if(|&(_, next)| next == '"').is_some() {
            name.push('"');
        } else if name.is_empty() {
            return Err(Fault::Empty { place, at: start });
        } else {
            return Ok(Parsed { part: Part::Exact(name.into_bytes()), end: start + offset + 2 });
        }
    }
    Err(Fault::Unclosed { quote: start })
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Any => f.write_str("*"),
            Part::Glob(pieces) => {
                let pieces: Vec<_> =
                    pieces.iter().map(|piece| String::from_utf8_lossy(piece)).collect();
                f.write_str(&pieces.join("*"))
            }
            Part::Exact(name) => {
                let name = String::from_utf8_lossy(name);
                let is_plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
                if name.chars().all(is_plain) {
                    f.write_str(&name)
                } else {
                    write!(f, "\"{}\"", name.replace('"', "\"\""))
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn parse(typed: &str) -> Result<TablePattern, Problem> {
        TablePattern::parse(&Text { value: typed.to_owned(), span: 10..12 + typed.len() })
    }

    #[track_caller]
    fn check(typed: &str, means: &[(&str, &str)], not: &[(&str, &str)]) {
        let pattern = parse(typed).unwrap_or_else(|problem| panic!("{}", problem.message));
        for (schema, table) in means {
            assert!(pattern.matches(schema.as_bytes(), table.as_bytes()), "{schema} {table}");
        }
        for (schema, table) in not {
            assert!(!pattern.matches(schema.as_bytes(), table.as_bytes()), "{schema} {table}");
        }
        // What is shown means the same again.
        assert_eq!(parse(&pattern.to_string()).as_ref(), Ok(&pattern), "{pattern}");
    }

    #[track_caller]
    fn fails(typed: &str, label: &str, within: std::ops::Range<usize>) {
        let problem = parse(typed).expect_err(typed);
        assert_eq!((problem.label.as_str(), problem.within), (label, Some(within)), "{typed}");
    }

    #[test]
    fn a_name_is_exact_and_unfolded() {
        check("public.Products", &[("public", "Products")], &[("public", "products")]);
        check("täble.日本", &[("täble", "日本")], &[]);
    }

    #[test]
    fn only_the_first_dot_splits() {
        check("public.a.b", &[("public", "a.b")], &[("public.a", "b")]);
        check(r#""public.a".b"#, &[("public.a", "b")], &[("public", "a.b")]);
        check(r#"public."a.b""#, &[("public", "a.b")], &[]);
    }

    #[test]
    fn a_doubled_quote_in_quotes_is_one() {
        check(r#"public."we""ird""#, &[("public", "we\"ird")], &[("public", "we\"\"ird")]);
    }

    #[test]
    fn a_star_stands_for_any_text_unless_it_is_quoted() {
        check("public.*", &[("public", "a"), ("public", "*")], &[("other", "a")]);
        check("*.products", &[("a", "products")], &[("a", "product")]);
        check("*.*", &[("a", "b")], &[]);
        check(r#"public."*""#, &[("public", "*")], &[("public", "a")]);
        check("s.log_*", &[("s", "log_"), ("s", "log_1")], &[("s", "log"), ("s", "a_log_")]);
        check("s.*_log", &[("s", "a_log")], &[("s", "a_log_b")]);
        check(
            "s.a*b*c",
            &[("s", "abc"), ("s", "a1b2bc")],
            &[("s", "acb"), ("s", "ab"), ("s", "ac")],
        );
        check("s.ab*ba", &[("s", "abba")], &[("s", "aba")]);
        check("t_*.x", &[("t_1", "x")], &[("t", "x")]);
    }

    #[test]
    fn what_is_wrong_is_marked() {
        fails("products", "no schema", 0..8);
        fails(r#""a.b""#, "no schema", 0..5);
        fails("", "empty name", 0..0);
        fails(".products", "empty name", 0..0);
        fails("public.", "empty name", 7..7);
        fails(r#"public."""#, "empty name", 7..7);
        fails(r#"public."a"#, "never closed", 7..9);
        fails(r#"public."a"b"#, "expected the end", 10..11);
        fails(r#""a"b.c"#, "expected a dot", 3..6);
        fails(r#"public.we"ird"#, "not at the name's start", 9..10);
    }
}
