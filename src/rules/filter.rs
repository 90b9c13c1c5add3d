//! Filters: what `{column|filter}` does to a value before it enters a template.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::DateTime;
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use sha1::Sha1;
use sha2::Sha256;

/// What RFC 3986 calls unreserved stands for itself.
const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same, with the slashes between segments kept.
const PATH: &AsciiSet = &URL.remove(b'/');

/// The value is not of the kind that a filter or `[]` reads: no date, no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// One filter and its argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Unicode lower case.
    Lower,
    /// Unicode upper case.
    Upper,
    /// Without white space at both ends.
    Trim,
    /// Percent-encoded, `/` too.
    UrlEncode,
    /// Percent-encoded, `/` kept.
    Path,
    /// MD5, lower-case hexadecimal.
    Md5,
    /// SHA-1, lower-case hexadecimal.
    Sha1,
    /// SHA-256, lower-case hexadecimal.
    Sha256,
    /// CRC-32 (IEEE), decimal.
    Crc32,
    /// Base64 with padding, standard alphabet.
    Base64,
    /// The first N characters.
    First(usize),
    /// A date or timestamp in a strftime format.
    Date(String),
    /// What stands in for NULL.
    Default(Vec<u8>),
}

impl Filter {
    /// Every filter's name.
    pub const NAMES: [&'static str; 13] = [
        "lower",
        "upper",
        "trim",
        "urlencode",
        "path",
        "md5",
        "sha1",
        "sha256",
        "crc32",
        "base64",
        "first",
        "date",
        "default",
    ];

    /// The filter of that name, which must be one of [`NAMES`](Self::NAMES).
    ///
    /// # Errors
    /// What argument it takes, if it cannot take this one.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Filter, String> {
        let filter = match (name, argument) {
            ("first", Some(count)) => match count.parse() {
                Ok(count) if count > 0 => return Ok(Filter::First(count)),
                _ => return Err("`first` takes a number of characters: {sku|first:3}".into()),
            },
            ("first", None) => {
                return Err("`first` takes a number of characters: {sku|first:3}".into());
            }
            ("date", Some(format)) if is_date_format(format) => {
                return Ok(Filter::Date(format.to_string()));
            }
            ("date", _) => {
                return Err("`date` takes a strftime format: {created_at|date:%Y-%m}".into());
            }
            ("default", Some(text)) => return Ok(Filter::Default(text.as_bytes().to_vec())),
            ("default", None) => {
                return Err("`default` takes what stands in for NULL: {region|default:eu}".into());
            }
            ("lower", None) => Filter::Lower,
            ("upper", None) => Filter::Upper,
            ("trim", None) => Filter::Trim,
            ("urlencode", None) => Filter::UrlEncode,
            ("path", None) => Filter::Path,
            ("md5", None) => Filter::Md5,
            ("sha1", None) => Filter::Sha1,
            ("sha256", None) => Filter::Sha256,
            ("crc32", None) => Filter::Crc32,
            ("base64", None) => Filter::Base64,
            _ => return Err(format!("`{name}` takes no argument")),
        };
        Ok(filter)
    }

    /// Filters the end of `text`, from `start`, in place: that costs no memory of its own except
    /// where a filter has to look at its input while it writes.
    ///
    /// # Errors
    /// If the value is not of the kind that the filter reads.
    pub(super) fn apply(&self, text: &mut Vec<u8>, start: usize) -> Result<(), Unreadable> {
        let value = &text[start..];
        match self {
            Filter::Lower if value.is_ascii() => text[start..].make_ascii_lowercase(),
            Filter::Upper if value.is_ascii() => text[start..].make_ascii_uppercase(),
            Filter::Lower => {
                let mapped = map_text(value, str::to_lowercase, <[u8]>::to_ascii_lowercase);
                replace(text, start, &mapped);
            }
            Filter::Upper => {
                let mapped = map_text(value, str::to_uppercase, <[u8]>::to_ascii_uppercase);
                replace(text, start, &mapped);
            }
            Filter::Trim => {
                text.truncate(start + value.trim_ascii_end().len());
                let blank = text.len() - start - text[start..].trim_ascii_start().len();
                text.drain(start..start + blank);
            }
            Filter::UrlEncode => encode(text, start, URL),
            Filter::Path => encode(text, start, PATH),
            Filter::Md5 => replace_by_hex(text, start, &Md5::digest(value)),
            Filter::Sha1 => replace_by_hex(text, start, &Sha1::digest(value)),
            Filter::Sha256 => replace_by_hex(text, start, &Sha256::digest(value)),
            Filter::Crc32 => replace(text, start, crc32fast::hash(value).to_string().as_bytes()),
            Filter::Base64 => replace(text, start, STANDARD.encode(value).as_bytes()),
            Filter::First(count) => text.truncate(start + first_characters(value, *count).len()),
            Filter::Date(format) => replace(text, start, &date(value, format).ok_or(Unreadable)?),
            Filter::Default(_) => {}
        }
        Ok(())
    }
}

fn replace(text: &mut Vec<u8>, start: usize, by: &[u8]) {
    text.truncate(start);
    text.extend_from_slice(by);
}

fn replace_by_hex(text: &mut Vec<u8>, start: usize, digest: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.truncate(start);
    for byte in digest {
        text.extend([byte >> 4, byte & 15].map(|half| DIGITS[half as usize]));
    }
}

fn encode(text: &mut Vec<u8>, start: usize, kept: &'static AsciiSet) {
    let encoded = Cow::from(percent_encode(&text[start..], kept));
    // Most values have nothing to encode.
    if encoded.as_bytes() != &text[start..] {
        let encoded = encoded.into_owned();
        replace(text, start, encoded.as_bytes());
    }
}

/// Text that is not UTF-8, which a `SQL_ASCII` database may hold, is mapped byte by byte.
fn map_text(value: &[u8], text: fn(&str) -> String, bytes: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    match std::str::from_utf8(value) {
        Ok(value) => text(value).into_bytes(),
        Err(_) => bytes(value),
    }
}

/// Cuts between characters, or between bytes where the value is not UTF-8.
fn first_characters(value: &[u8], count: usize) -> &[u8] {
    let end = match std::str::from_utf8(value) {
        Ok(text) => text.char_indices().nth(count).map_or(value.len(), |(at, _)| at),
        Err(_) => count.min(value.len()),
    };
    &value[..end]
}

/// Formats a date, timestamp or timestamptz; the zone is cut off, since the session's is UTC.
/// `infinity` and dates before Christ cannot be formatted.
fn date(value: &[u8], format: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let text = match text.find(' ') {
        Some(space) => {
            let time = &text[space + 1..];
            let zone = time.find(['+', '-']).unwrap_or(time.len());
            // Behind it stands nothing but the era.
            if time[zone..].contains(' ') {
                return None;
            }
            &text[..space + 1 + zone]
        }
        None => text,
    };
    let date: DateTime = text.parse().ok()?;
    jiff::fmt::strtime::format(format, date).ok().map(String::into_bytes)
}

fn is_date_format(format: &str) -> bool {
    let sample = jiff::civil::date(2001, 2, 3).at(4, 5, 6, 0);
    !format.is_empty() && jiff::fmt::strtime::format(format, sample).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, value: &str, expected: Result<&str, Unreadable>) {
        let (name, argument) = match filter.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (filter, None),
        };
        let filter = Filter::parse(name, argument).unwrap();
        // What stands before the value stays as it is.
        let mut text = [b"A b:", value.as_bytes()].concat();
        let filtered = filter.apply(&mut text, 4).map(|()| String::from_utf8(text).unwrap());
        let expected = expected.map(|value| format!("A b:{value}"));
        assert_eq!(filtered, expected);
    }

    #[test]
    fn each_filter_does_what_its_name_says() {
        check("lower", "ÄBC", Ok("äbc"));
        check("lower", "ABC", Ok("abc"));
        check("upper", "äbc", Ok("ÄBC"));
        check("upper", "abc", Ok("ABC"));
        check("trim", " \ta b\n", Ok("a b"));
        check("urlencode", "a b/ä~*", Ok("a%20b%2F%C3%A4~%2A"));
        check("path", "a b/ä~", Ok("a%20b/%C3%A4~"));
        check("md5", "abc", Ok("900150983cd24fb0d6963f7d28e17f72"));
        check("sha1", "abc", Ok("a9993e364706816aba3e25717850c26c9cd0d89d"));
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check("sha256", "abc", Ok(sha256));
        check("crc32", "123456789", Ok("3421780262"));
        check("base64", "a?>~", Ok("YT8+fg=="));
        check("first:2", "äöü", Ok("äö"));
        check("first:9", "äöü", Ok("äöü"));
        check("default:x", "", Ok(""));
    }

    #[test]
    fn dates_are_formatted_and_what_is_no_date_is_unreadable() {
        check("date:%Y-%m", "2026-11-21", Ok("2026-11"));
        check("date:%Y%m%dT%H", "2026-11-21 03:04:05.678901+00", Ok("20261121T03"));
        check("date:%H:%M", "2026-11-21 03:04:05", Ok("03:04"));
        for value in [
            "infinity",
            "0044-03-15 BC",
            "0044-03-15 03:04:05 BC",
            "0044-03-15 03:04:05+00 BC",
            "2026-11-21 03:04:05+00 x",
            "x",
            "",
        ] {
            check("date:%Y", value, Err(Unreadable));
        }
    }

    #[test]
    fn text_that_is_not_utf8_passes() {
        for (filter, expected) in [
            (Filter::First(1), &b"\xff"[..]),
            (Filter::Lower, b"\xffa"),
            (Filter::UrlEncode, b"%FFA"),
        ] {
            let mut text = b"\xffA".to_vec();
            assert_eq!(filter.apply(&mut text, 0), Ok(()));
            assert_eq!(text, expected);
        }
    }
}
