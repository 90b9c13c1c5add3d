//! Paths: how does text from a row stay within its segment of a path, and what may a path hold?
//!
//! A slash in a row's text would begin a segment, `?` a query, and `*` at the end would be a
//! wildcard to a CDN. Pure.

use super::filter::Filter;
use super::template::{Placeholder, Segment, Template, TemplateError};

/// Checks the template of a path and makes it one that renders percent-encoded paths: its literals
/// are encoded, and every placeholder that has neither `urlencode` nor `path` gets the former.
///
/// # Errors
/// If what it renders cannot be a path. The place is in `text`, which it was parsed from.
pub(super) fn prepare(text: &str, template: &mut Template) -> Result<(), TemplateError> {
    check(text, template)?;
    for segment in &mut template.segments {
        match segment {
            Segment::Literal(literal) => *literal = encode(literal),
            Segment::Placeholder(placeholder) if is_encoded(&placeholder.filters) => {}
            Segment::Placeholder(placeholder) => placeholder.filters.push(Filter::UrlEncode),
        }
    }
    Ok(())
}

/// Percent-encodes what may not stand in a path and its query (RFC 3986). What is encoded already
/// stays as it is, and so does `*`.
pub fn encode(path: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(path.len());
    for (at, &byte) in path.iter().enumerate() {
        let is_hex = |at: usize| path.get(at).is_some_and(u8::is_ascii_hexdigit);
        let stays = match byte {
            b'%' => is_hex(at + 1) && is_hex(at + 2),
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&byte),
        };
        match stays {
            true => encoded.push(byte),
            false => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    encoded
}

fn check(text: &str, template: &Template) -> Result<(), TemplateError> {
    let keeps_slashes =
        |placeholder: &Placeholder| placeholder.filters.last() == Some(&Filter::Path);
    let starts_well = match template.segments.first() {
        Some(Segment::Literal(literal)) => literal.starts_with(b"/"),
        Some(Segment::Placeholder(placeholder)) => keeps_slashes(placeholder),
        // That it is empty is said elsewhere.
        None => true,
    };
    let error = |message: &str, label: &str, help: &str| {
        let (message, label, help) = (message.into(), label.into(), help.into());
        Err(TemplateError { at: 0..text.len(), message, label, help })
    };
    if !starts_well {
        return error(
            "a path that does not start with `/`",
            "no path",
            "write \"/products/{slug}\", or \"{column|path}\" for a column that holds whole paths",
        );
    }
    let literals = template.segments.iter().enumerate().filter_map(|(at, segment)| match segment {
        Segment::Literal(literal) => Some((at, literal)),
        Segment::Placeholder(_) => None,
    });
    for (at, literal) in literals {
        let is_last = at + 1 == template.segments.len();
        let inner = &literal[..literal.len() - usize::from(is_last && literal.ends_with(b"*"))];
        if inner.contains(&b'*') {
            return error(
                "a `*` within a path",
                "a wildcard only at its end",
                "end the path with the `*`, or write %2A for the character itself",
            );
        }
    }
    Ok(())
}

/// Whether what comes out is encoded. Base64 has slashes of its own, whatever goes in.
fn is_encoded(filters: &[Filter]) -> bool {
    let mut behind_base64 = filters.iter().rev().take_while(|filter| **filter != Filter::Base64);
    behind_base64.any(|filter| matches!(filter, Filter::UrlEncode | Filter::Path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(text: &str) -> Result<Template, String> {
        let mut template = Template::parse(text).unwrap();
        prepare(text, &mut template).map_err(|error| error.message)?;
        Ok(template)
    }

    #[test]
    fn what_is_not_encoded_is_encoded_last() {
        for (typed, meant) in [
            ("/p/{slug}", "/p/{slug|urlencode}"),
            ("/p/{slug|lower}/{$table}", "/p/{slug|lower|urlencode}/{$table|urlencode}"),
            ("/p/{slug|path}", "/p/{slug|path}"),
            ("/p/{slug|urlencode|lower}", "/p/{slug|urlencode|lower}"),
            ("/p/{slug|path|base64}", "/p/{slug|path|base64|urlencode}"),
            ("/p/{labels[]}/*", "/p/{labels[]|urlencode}/*"),
            ("/größe #{{1}}?a=b c&d/{x}", "/gr%C3%B6%C3%9Fe%20%23%7B1%7D?a=b%20c&d/{x|urlencode}"),
            ("/100%{x}/%41%4", "/100%25{x|urlencode}/%41%254"),
        ] {
            assert_eq!(prepared(typed), Ok(Template::parse(meant).unwrap()), "{typed}");
        }
    }

    #[test]
    fn what_cannot_be_a_path_is_refused() {
        for (typed, message) in [
            ("p/{slug}", "a path that does not start with `/`"),
            ("{slug}/x", "a path that does not start with `/`"),
            ("{slug|path|lower}", "a path that does not start with `/`"),
            ("/p/*/{slug}", "a `*` within a path"),
            ("/p/**", "a `*` within a path"),
        ] {
            assert_eq!(prepared(typed), Err(message.to_owned()), "{typed}");
        }
        assert!(prepared("{url|path}").is_ok() && prepared("/*").is_ok());
    }
}
