//! What may a surrogate key or a path be, so that it purges what was meant and nothing else?
//!
//! In: a value as a rule or a message gives it. Out: text that can stand in a request, or the
//! reason why it cannot, without the value. Pure.

use crate::rules::{is_wildcard, paths};

/// The longest path, in bytes: CloudFront's limit, and half of what servers take as a request line.
const PATH_BYTES_MAX: usize = 4000;

/// A key for a list that is separated by spaces or commas: visible ASCII, so that it is one key
/// wherever it is read.
///
/// # Errors
/// The reason why it is none.
pub(super) fn listed_key(value: &[u8], bytes_max: usize) -> Result<&str, String> {
    let key = key(value, bytes_max)?;
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a surrogate key holds visible ASCII characters alone".to_owned());
    }
    if key.contains(',') {
        return Err("a surrogate key with a comma would be two".to_owned());
    }
    Ok(key)
}

/// A key for a place where nothing separates keys.
///
/// # Errors
/// The reason why it is none.
pub(super) fn key(value: &[u8], bytes_max: usize) -> Result<&str, String> {
    let Ok(key) = std::str::from_utf8(value) else {
        return Err("a surrogate key must be UTF-8".to_owned());
    };
    if key.is_empty() {
        return Err("an empty surrogate key".to_owned());
    }
    if key.len() > bytes_max {
        return Err(format!("a surrogate key of more than {bytes_max} bytes"));
    }
    if key.chars().any(char::is_control) {
        return Err("a surrogate key with control characters".to_owned());
    }
    Ok(key)
}

/// A path, percent-encoded; a `*` stands only at its end.
///
/// # Errors
/// The reason why it is none.
pub(super) fn path(value: &[u8], wildcards: Wildcards) -> Result<String, String> {
    let encoded = String::from_utf8(paths::encode(value)).unwrap_or_default();
    if !encoded.starts_with('/') {
        return Err("a path starts with `/`".to_owned());
    }
    if encoded.len() > PATH_BYTES_MAX {
        return Err(format!("a path of more than {PATH_BYTES_MAX} bytes"));
    }
    if encoded[..encoded.len() - 1].contains('*') {
        return Err("a `*` within a path".to_owned());
    }
    if is_wildcard(encoded.as_bytes()) && wildcards == Wildcards::Literal {
        return Err("the sink has no wildcards".to_owned());
    }
    // A client or a server may resolve these, and purge another path.
    let segments = encoded.split(['?']).next().unwrap_or_default().split('/');
    if segments.into_iter().any(is_dots) {
        return Err("a path with a segment `.` or `..`".to_owned());
    }
    Ok(encoded)
}

/// What a `*` at the end of a path means to a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wildcards {
    /// Any text.
    Any,
    /// Itself, so that it must not stand there.
    Literal,
}

fn is_dots(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    matches!(plain.as_str(), "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_encoded_or_refused() {
        let path = |text: &str| path(text.as_bytes(), Wildcards::Any);
        for (given, encoded) in [
            ("/a/b?c=d", "/a/b?c=d"),
            ("/a b/\u{e9}#x\"\\", "/a%20b/%C3%A9%23x%22%5C"),
            ("/a%2Fb/%zz", "/a%2Fb/%25zz"),
            ("/a/*", "/a/*"),
            ("/a\r\nHost: x", "/a%0D%0AHost:%20x"),
            ("/..a/.b/...", "/..a/.b/..."),
            ("/a?b=/../", "/a?b=/../"),
        ] {
            assert_eq!(path(given).as_deref(), Ok(encoded));
        }
        for given in ["", "a", "*", "/a*b", "/**", "/a/../b", "/.", "/a/%2E./b", "/a/.%2e"] {
            assert!(path(given).is_err(), "{given}");
        }
        assert!(path(&format!("/{}", "a".repeat(4000))).is_err());
        assert!(super::path(b"/a/*", Wildcards::Literal).is_err());
    }

    #[test]
    fn a_key_is_one_key_wherever_it_is_read() {
        assert_eq!(listed_key(b"product:7#~", 16), Ok("product:7#~"));
        for value in ["", "a b", "a,b", "a\nb", "\u{e9}", "a\u{0}", "12345678901234567"] {
            assert!(listed_key(value.as_bytes(), 16).is_err(), "{value}");
        }
        assert!(listed_key(b"\xff", 16).is_err());
        assert_eq!(key("a b,\u{e9}".as_bytes(), 16), Ok("a b,\u{e9}"));
        assert!(key(b"a\nb", 16).is_err());
    }
}
