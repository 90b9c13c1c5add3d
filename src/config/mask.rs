//! Finds passwords and tokens in the configuration's text, so that a shown line hides them.
//!
//! It looks at the text and not at the parsed document, since a line is shown just as well when
//! the document does not parse. Where it is in doubt it hides too much.

use std::ops::Range;

/// What stands in the place of a secret, whatever the secret's length.
const HIDDEN: &str = "***";

/// Parts of a key's name that say that its value is a secret; typos of them included.
const SECRET_WORDS: [&str; 11] = [
    "pass",
    "pasw",
    "pwd",
    "secret",
    "token",
    // Headers that carry one.
    "authoriz",
    "bearer",
    "accesskey",
    "access-key",
    "api-key",
    "apikey",
];

/// The secrets of a text.
pub(super) struct Mask {
    /// Sorted, without overlap.
    hidden: Vec<Range<usize>>,
}

impl Mask {
    /// Finds the secrets in `text`.
    pub(super) fn new(text: &str) -> Mask {
        let mut found: Vec<_> = text
            .match_indices("://")
            .filter_map(|(place, mark)| password_of_url(text, place, place + mark.len()))
            .chain(text.match_indices('=').filter_map(|(place, _)| value_of_key(text, place)))
            .filter(|range| !range.is_empty())
            .collect();
        found.sort_by_key(|range| range.start);
        let mut hidden: Vec<Range<usize>> = Vec::with_capacity(found.len());
        for range in found {
            match hidden.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => hidden.push(range),
            }
        }
        Mask { hidden }
    }

    /// The bytes of `part` with every secret replaced.
    pub(super) fn apply(&self, text: &str, part: Range<usize>) -> String {
        let mut out = String::new();
        let mut done = part.start;
        for range in self.hidden_in(part.start, part.end) {
            out.push_str(text.get(done..range.start).unwrap_or_default());
            out.push_str(HIDDEN);
            done = range.end;
        }
        out.push_str(text.get(done..part.end).unwrap_or_default());
        out
    }

    /// Where the byte at `offset` is in what [`Mask::apply`] makes of a part from `start` on.
    pub(super) fn shown(&self, start: usize, offset: usize) -> usize {
        let mut place = offset.saturating_sub(start);
        for range in self.hidden_in(start, offset) {
            place = place - (range.end - range.start) + HIDDEN.len();
        }
        place
    }

    /// The hidden ranges between two places, cut to them.
    fn hidden_in(&self, start: usize, end: usize) -> impl Iterator<Item = Range<usize>> {
        self.hidden
            .iter()
            .map(move |range| range.start.max(start)..range.end.min(end))
            .filter(|range| range.start < range.end)
    }
}

/// The password in the URL whose `://` starts at `mark` and ends at `rest`.
fn password_of_url(text: &str, mark: usize, rest: usize) -> Option<Range<usize>> {
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+.-".contains(byte);
    let scheme = text.as_bytes()[..mark].iter().rev().take_while(|byte| is_scheme(byte)).count();
    let before = &text[..mark - scheme];
    let end = string_end(text, before, rest);
    let url = &text[rest..end];
    // The last one: a password may hold an @ itself.
    let at = url.rfind('@')?;
    let colon = url[..at].find(':')?;
    Some(rest + colon + 1..rest + at)
}

/// The value of the key before the `=` at `equals`, if its name says that it is secret.
fn value_of_key(text: &str, equals: usize) -> Option<Range<usize>> {
    let before = text[..equals].trim_end_matches([' ', '\t', '"', '\'']);
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let start = before
        .rfind(|c| !is_name(c))
        .map_or(0, |place| place + before[place..].chars().next().map_or(1, char::len_utf8));
    let name = before[start..].to_ascii_lowercase();
    if !SECRET_WORDS.iter().any(|word| name.contains(word)) {
        return None;
    }
    let after = &text[equals + 1..];
    let value = equals + 1 + (after.len() - after.trim_start_matches([' ', '\t']).len());
    let rest = &text[value..];
    if rest.starts_with('{') {
        // Where a secret is kept is none; a key in these braces is found by itself.
        return None;
    }
    let quotes = leading_quotes(rest);
    if quotes == 0 {
        // A word of a connection string, or not TOML.
        let end = rest.find([' ', '&', '"', '\n']).unwrap_or(rest.len());
        return Some(value..value + end);
    }
    let inside = value + quotes;
    Some(inside..string_end(text, &text[..inside], inside))
}

/// One quote or three at the start of `text`; two are an empty string.
fn leading_quotes(text: &str) -> usize {
    if text.starts_with("\"\"\"") || text.starts_with("'''") {
        3
    } else if text.starts_with(['"', '\'']) {
        1
    } else {
        0
    }
}

/// The end of the string from `start` on, given what stands before it; without opening quotes,
/// the line's end.
fn string_end(text: &str, before: &str, start: usize) -> usize {
    let closing = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| before.ends_with(quote));
    let rest = &text[start..];
    let Some(closing) = closing else {
        return start + rest.find('\n').unwrap_or(rest.len());
    };
    let is_basic = closing.starts_with('"');
    let mut place = 0;
    while place < rest.len() {
        let here = &rest.as_bytes()[place..];
        if here.starts_with(closing.as_bytes()) || (closing.len() == 1 && here[0] == b'\n') {
            return start + place;
        }
        place += if is_basic && here[0] == b'\\' { 2 } else { 1 };
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        assert_eq!(Mask::new(text).apply(text, 0..text.len()), shown);
    }

    #[test]
    fn the_password_of_a_url_is_hidden() {
        check(r#"url = "postgres://u:pw@h/db""#, r#"url = "postgres://u:***@h/db""#);
        check(r#"url = 'redis://:p"w@h' # a@b"#, r#"url = 'redis://:***@h' # a@b"#);
        check(r#"url = "redis://u:p@s/s@h""#, r#"url = "redis://u:***@h""#);
        check(
            r#"urls = ["pg://a:b@c", "pg://d@e", "pg://f:1"]"#,
            r#"urls = ["pg://a:***@c", "pg://d@e", "pg://f:1"]"#,
        );
        check("url = \"pg://u:\\\"x@h\nnext = 'a@b'", "url = \"pg://u:***@h\nnext = 'a@b'");
        check("url = pg://u:x@h\nnext = 'a@b'", "url = pg://u:***@h\nnext = 'a@b'");
    }

    #[test]
    fn the_value_of_a_key_with_a_telling_name_is_hidden() {
        check(r#"token = "abc" # x"#, r#"token = "***" # x"#);
        check("pasword='a\"b'", "pasword='***'");
        check("\"api-token\" = \"a\\\"b\"", "\"api-token\" = \"***\"");
        check("TOKEN = \"\"\"a\n\"b\n\"\"\"\nx = 1", "TOKEN = \"\"\"***\"\"\"\nx = 1");
        check("token = \"unclosed\nx = 1", "token = \"***\nx = 1");
        check(r#"url = "host=h password=pw dbname=d""#, r#"url = "host=h password=*** dbname=d""#);
        check(r#"url = "host=h password='a b' x=1""#, r#"url = "host=h password='***' x=1""#);
        check(
            r#"url = "pg://u@h/d?sslpassword=x&a=b""#,
            r#"url = "pg://u@h/d?sslpassword=***&a=b""#,
        );
        check(r#"token = { env = "NAME" }"#, r#"token = { env = "NAME" }"#);
        check(r#"token = """#, r#"token = """#);
        check(r#"delete = ["token:{id}"]"#, r#"delete = ["token:{id}"]"#);
    }

    #[test]
    fn a_place_behind_a_secret_moves_with_it() {
        let text = r#"urls = ["pg://a:longer@c", 3]"#;
        let mask = Mask::new(text);
        let shown = mask.apply(text, 0..text.len());
        let place = mask.shown(0, text.find('3').expect("there"));
        assert_eq!(&shown[place..=place], "3");
    }
}
