//! The templates of `[http.NAME]`: a URL, a header or a body with places for what is purged.
//!
//! ```text
//! form = { literal | "{{" | "}}" | "{" place [ "|" encoding ] "}" }
//! ```
//!
//! What may stand where is decided when a form is parsed, so that no value can ever end the string,
//! list or line that it stands in. Pure.

use std::ops::Range;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::problem::nearest;
use crate::rules::TemplateError;

/// What RFC 3986 calls unreserved stands for itself.
const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A parsed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    part: Part,
    pieces: Vec<Piece>,
}

/// Which part of a request a form is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its URL.
    Url,
    /// The value of a header.
    Header,
    /// Its body.
    Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Hole(Place, Encoding),
}

/// What is put into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A batch of surrogate keys.
    Keys,
    /// One surrogate key.
    Key,
    /// A batch of paths.
    Paths,
    /// One path.
    Path,
}

impl Place {
    /// Whether it holds surrogate keys; else paths.
    pub fn is_key(self) -> bool {
        matches!(self, Place::Keys | Place::Key)
    }

    /// Whether it holds several.
    pub fn is_list(self) -> bool {
        matches!(self, Place::Keys | Place::Paths)
    }

    fn name(self) -> &'static str {
        match self {
            Place::Keys => "keys",
            Place::Key => "key",
            Place::Paths => "paths",
            Place::Path => "path",
        }
    }
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// As it is; several joined by spaces.
    Plain,
    /// Several joined by commas.
    Comma,
    /// As a JSON string, or a list of them.
    Json,
    /// Percent-encoded.
    Url,
    /// As a regular expression that matches it alone, or all that starts with it.
    Regex,
}

const PLACES: [(&str, Place); 4] =
    [("keys", Place::Keys), ("key", Place::Key), ("paths", Place::Paths), ("path", Place::Path)];

const ENCODINGS: [(&str, Encoding); 4] = [
    ("comma", Encoding::Comma),
    ("json", Encoding::Json),
    ("urlencode", Encoding::Url),
    ("regex", Encoding::Regex),
];

impl Form {
    /// Parses a form.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub fn parse(text: &str, part: Part) -> Result<Form, TemplateError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut holes: Vec<(Range<usize>, Place, Encoding)> = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(next) = text[at..].chars().next() {
            let rest = &text[at..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                literal.push(next);
                at += 2;
            } else if next == '{' {
                let Some(length) = rest.find('}') else {
                    return Err(error(at..text.len(), "a `{` that is not closed", CLOSE));
                };
                let (place, encoding) = hole(text, at + 1..at + length)?;
                if !literal.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Hole(place, encoding));
                holes.push((at..at + length + 1, place, encoding));
                at += length + 1;
            } else if next == '}' {
                return Err(error(at..at + 1, "a `}` that closes nothing", CLOSE));
            } else {
                literal.push(next);
                at += next.len_utf8();
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        let form = Form { part, pieces };
        for (at, place, encoding) in holes {
            form.check(place, encoding).map_err(|help| {
                let message = format!("`{}` cannot stand here", &text[at.clone()]);
                error(at, &message, help)
            })?;
        }
        Ok(form)
    }

    /// A URL without places.
    pub fn plain(url: &str) -> Form {
        Form { part: Part::Url, pieces: vec![Piece::Text(url.to_owned())] }
    }

    /// Whether a value in that place can stand in this form without changing what it means.
    fn check(&self, place: Place, encoding: Encoding) -> Result<(), &'static str> {
        use Encoding::{Comma, Json, Plain, Regex, Url};
        let is_alone = self.pieces.len() == 1;
        let first = self.pieces.first();
        let is_json = matches!(first, Some(Piece::Text(text))
            if text.trim_start().starts_with(['{', '[', '"']));
        match (self.part, place, encoding) {
            (_, Place::Keys | Place::Key, Regex) => Err("`regex` is for {path}"),
            (_, Place::Key | Place::Path, Comma) => Err("`comma` is for {keys}"),
            (Part::Url, Place::Key, Plain | Url) | (Part::Url, Place::Path, Plain | Url) => Ok(()),
            (Part::Url, ..) => Err("a URL takes {key} or {path}: a request for each"),
            (Part::Header, Place::Paths, _) => Err("a header takes {path}: a request for each"),
            (Part::Header, _, Json) => Err("a header takes no JSON"),
            (Part::Header, ..) => Ok(()),
            (Part::Body, Place::Paths, Json) => Ok(()),
            (Part::Body, Place::Paths, _) => Err("write {paths|json}"),
            (Part::Body, _, Json | Url) => Ok(()),
            // What is left of a path after it was encoded ends no JSON string.
            (Part::Body, Place::Path, Plain) if is_json => Ok(()),
            (Part::Body, ..) if is_alone => Ok(()),
            (Part::Body, Place::Keys, _) => Err("write {keys|json} or {keys|urlencode}"),
            (Part::Body, Place::Key, _) => Err("write {key|json} or {key|urlencode}"),
            (Part::Body, Place::Path, _) => Err("write {path|json} or {path|urlencode}"),
        }
    }

    /// What it has places for.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.holes().map(|(place, _)| place)
    }

    /// Whether its keys stand side by side, so that none may hold a space or a comma.
    pub(super) fn lists_keys(&self) -> bool {
        let is_listed = |(place, encoding): (Place, Encoding)| {
            place.is_key() && matches!(encoding, Encoding::Plain | Encoding::Comma)
        };
        self.part != Part::Url && self.holes().any(is_listed)
    }

    /// Whether it turns a `*` at a path's end into what the receiver understands.
    pub fn has_wildcards(&self) -> bool {
        self.holes().any(|(_, encoding)| encoding == Encoding::Regex)
    }

    /// The text before the first place.
    pub fn beginning(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Text(text)) => text,
            _ => "",
        }
    }

    fn holes(&self) -> impl Iterator<Item = (Place, Encoding)> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Hole(place, encoding) => Some((*place, *encoding)),
            Piece::Text(_) => None,
        })
    }

    /// The form with checked keys or paths in it: at least one, and one alone where it takes one.
    pub fn render<S: AsRef<str>>(&self, items: &[S]) -> String {
        let first = items.first().map_or("", AsRef::as_ref);
        let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
        let mut out = String::new();
        for piece in &self.pieces {
            let (place, encoding) = match piece {
                Piece::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Piece::Hole(place, encoding) => (place, encoding),
            };
            match encoding {
                Encoding::Plain if self.part == Part::Url && place.is_key() => {
                    out.extend(utf8_percent_encode(first, URL));
                }
                Encoding::Plain if self.part == Part::Url && out.ends_with('/') => {
                    out.push_str(first.strip_prefix('/').unwrap_or(first));
                }
                Encoding::Plain if place.is_list() => out.push_str(&items.join(" ")),
                Encoding::Plain => out.push_str(first),
                Encoding::Comma => out.push_str(&items.join(",")),
                Encoding::Json if place.is_list() => {
                    out.push_str(&serde_json::json!(items).to_string());
                }
                Encoding::Json => out.push_str(&serde_json::json!(first).to_string()),
                Encoding::Url => out.extend(utf8_percent_encode(&items.join(" "), URL)),
                Encoding::Regex => regex(first, &mut out),
            }
        }
        out
    }
}

/// Writes a regular expression for a path. What it escapes means itself in every dialect.
fn regex(path: &str, out: &mut String) {
    let (path, end) = match path.strip_suffix('*') {
        Some(beginning) => (beginning, ""),
        None => (path, "$"),
    };
    out.push('^');
    for character in path.chars() {
        if "\\.+*?()|[]{}^$".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out.push_str(end);
}

const CLOSE: &str = "write {{ and }} for literal braces";

/// What stands between braces, at `at` of the text.
fn hole(text: &str, at: Range<usize>) -> Result<(Place, Encoding), TemplateError> {
    let (name, filter) = match text[at.clone()].split_once('|') {
        Some((name, filter)) => (name, Some(filter)),
        None => (&text[at.clone()], None),
    };
    let Some(&(_, place)) = PLACES.iter().find(|(known, _)| *known == name) else {
        let known = PLACES.map(|(known, _)| known);
        let help = match nearest(name, known) {
            Some(near) => format!("did you mean {{{near}}}?"),
            None => "known: {keys}, {key}, {paths}, {path}; {{ and }} are literal braces".into(),
        };
        return Err(error(at.start..at.start + name.len(), "no such place in a request", help));
    };
    let Some(filter) = filter else { return Ok((place, Encoding::Plain)) };
    let start = at.start + name.len() + 1;
    match ENCODINGS.iter().find(|(known, _)| *known == filter) {
        Some(&(_, encoding)) => Ok((place, encoding)),
        None => {
            let message = format!("`{}` cannot be written as `{filter}`", place.name());
            let known = "known: json, urlencode, comma, regex";
            Err(error(start..at.end, &message, known))
        }
    }
}

fn error(at: Range<usize>, message: &str, help: impl Into<String>) -> TemplateError {
    TemplateError { at, message: message.into(), label: "here".into(), help: help.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(part: Part, form: &str, items: &[&str], expected: &str) {
        let form = Form::parse(form, part).unwrap();
        assert_eq!(form.render(items), expected);
    }

    #[test]
    fn values_are_written_as_their_place_needs_it() {
        let keys = ["a", "b\"\u{e9}"];
        check(Part::Header, "{keys}", &["a", "b"], "a b");
        check(Part::Header, "x={keys|comma};", &["a", "b"], "x=a,b;");
        check(Part::Body, r#"{{"tags":{keys|json}}}"#, &keys, "{\"tags\":[\"a\",\"b\\\"\u{e9}\"]}");
        check(Part::Body, "k={keys|urlencode}", &keys, "k=a%20b%22%C3%A9");
        check(Part::Url, "http://h/t/{key}", &["a/b?c#d"], "http://h/t/a%2Fb%3Fc%23d");
        check(Part::Url, "http://h{path}", &["/a?b"], "http://h/a?b");
        check(Part::Url, "http://h/{path}", &["/a?b"], "http://h/a?b");
        check(Part::Url, "http://h/p?url=x{path|urlencode}", &["/a*"], "http://h/p?url=x%2Fa%2A");
        check(Part::Header, "{path|regex}", &["/a.b/*"], r"^/a\.b/");
        check(Part::Header, "{path|regex}", &["/a?b"], r"^/a\?b$");
        check(
            Part::Body,
            r#"{{"files":["https://h{path}"]}}"#,
            &["/a"],
            r#"{"files":["https://h/a"]}"#,
        );
        check(Part::Body, "{{{paths|json}}}", &["/a", "/b"], r#"{["/a","/b"]}"#);
    }

    #[test]
    fn a_value_that_could_end_what_it_stands_in_is_refused() {
        for (part, form) in [
            (Part::Url, "http://h/{keys}"),
            (Part::Url, "http://h/{paths}"),
            (Part::Url, "http://h/{path|json}"),
            (Part::Header, "{keys|json}"),
            (Part::Header, "{paths}"),
            (Part::Header, "{key|regex}"),
            (Part::Header, "{path|comma}"),
            (Part::Body, r#"{{"tag":"{key}"}}"#),
            (Part::Body, "<tag>{keys}</tag>"),
            (Part::Body, "<path>{path}</path>"),
            (Part::Body, "{paths}"),
        ] {
            let error = Form::parse(form, part).unwrap_err();
            assert!(error.message.ends_with("cannot stand here"), "{form}: {error:?}");
        }
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (form, at, message) in [
            ("a{key", 1..5, "a `{` that is not closed"),
            ("a}b", 1..2, "a `}` that closes nothing"),
            ("a{kye}", 2..5, "no such place in a request"),
            ("a{key|jsn}", 6..9, "`key` cannot be written as `jsn`"),
        ] {
            let error = Form::parse(form, Part::Body).unwrap_err();
            assert_eq!((error.at, error.message.as_str()), (at, message), "{form}");
        }
    }
}
