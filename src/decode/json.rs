//! A cursor over one JSON text, which reads it once from left to right and builds no tree.
//!
//! Strings are unescaped in place (an escape is never shorter than what it stands for), so what it
//! hands out are ranges of the text. A number keeps its digits exactly as they stand. Bytes that
//! are not UTF-8 pass through a string unchanged: a `SQL_ASCII` database may hold them.

use std::ops::Range;

use super::DecodeError;

/// How deep a value that is skipped may nest.
const DEPTH_MAX: u32 = 32;

/// A value that is not a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    /// `null`.
    Null,
    /// The unescaped text of a string, or a number, `true` or `false` as it stands.
    Text(Range<u32>),
}

/// Where in the text reading goes on.
pub(super) struct Cursor<'l> {
    text: &'l mut [u8],
    at: usize,
}

impl<'l> Cursor<'l> {
    /// Starts at the beginning. A range of `u32` must be able to address the text.
    pub(super) fn new(text: &'l mut [u8]) -> Result<Self, DecodeError> {
        if u32::try_from(text.len()).is_err() {
            return Err(DecodeError { at: 0, what: "a message of 4 GiB or more" });
        }
        Ok(Cursor { text, at: 0 })
    }

    /// The bytes of a range that the cursor handed out.
    pub(super) fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.text[range.start as usize..range.end as usize]
    }

    pub(super) fn error<T>(&self, what: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError { at: self.at, what })
    }

    /// The next byte that is not white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Takes `byte` if it comes next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Takes `byte`, or fails with `what`.
    pub(super) fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), DecodeError> {
        if self.take(byte) { Ok(()) } else { self.error(what) }
    }

    /// Fails if anything but white space is left.
    pub(super) fn end(&mut self) -> Result<(), DecodeError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.error("expected the end of the line"),
        }
    }

    /// After `{`: the next key, with its colon taken, or `None` at the closing brace. `first` says
    /// whether no key was read yet.
    pub(super) fn key(&mut self, first: bool) -> Result<Option<Range<u32>>, DecodeError> {
        if self.take(b'}') {
            return Ok(None);
        }
        if !first {
            self.expect(b',', "expected `,` or `}`")?;
        }
        let key = self.string()?;
        self.expect(b':', "expected `:`")?;
        Ok(Some(key))
    }

    /// After `[`: whether another element follows, its comma taken.
    pub(super) fn element(&mut self, first: bool) -> Result<bool, DecodeError> {
        if self.take(b']') {
            return Ok(false);
        }
        if !first {
            self.expect(b',', "expected `,` or `]`")?;
        }
        Ok(true)
    }

    /// A string, unescaped.
    pub(super) fn string(&mut self) -> Result<Range<u32>, DecodeError> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        match memchr::memchr2(b'"', b'\\', &self.text[start..]) {
            Some(length) if self.text[start + length] == b'"' => {
                self.at = start + length + 1;
                Ok(start as u32..(start + length) as u32)
            }
            Some(length) => self.escaped_string(start, start + length),
            None => self.error("a string without its closing quote"),
        }
    }

    /// The rest of a string whose first escape is at `escape`.
    #[cold]
    fn escaped_string(&mut self, start: usize, escape: usize) -> Result<Range<u32>, DecodeError> {
        let mut write = escape;
        self.at = escape;
        loop {
            match self.text.get(self.at) {
                None => return self.error("a string without its closing quote"),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(start as u32..write as u32);
                }
                Some(b'\\') => {
                    self.at += 1;
                    write = self.escape(write)?;
                }
                Some(_) => {
                    let rest = &self.text[self.at..];
                    let run = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    self.text.copy_within(self.at..self.at + run, write);
                    self.at += run;
                    write += run;
                }
            }
        }
    }

    /// Unescapes what follows a backslash to `write` and returns where writing goes on.
    fn escape(&mut self, write: usize) -> Result<usize, DecodeError> {
        let byte = match self.text.get(self.at) {
            Some(&byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0C,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let character = self.unicode_escape()?;
                let mut encoded = [0; 4];
                let encoded = character.encode_utf8(&mut encoded).as_bytes();
                self.text[write..write + encoded.len()].copy_from_slice(encoded);
                return Ok(write + encoded.len());
            }
            _ => return self.error("an unknown escape in a string"),
        };
        self.text[write] = byte;
        self.at += 1;
        Ok(write + 1)
    }

    /// `uXXXX`, or a pair of them for a character outside the basic plane.
    fn unicode_escape(&mut self) -> Result<char, DecodeError> {
        let first = self.four_digits()?;
        let code = if (0xD800..0xDC00).contains(&first) {
            if self.text.get(self.at) != Some(&b'\\') || self.text.get(self.at + 1) != Some(&b'u') {
                return self.error("half of a surrogate pair");
            }
            self.at += 1;
            let second = self.four_digits()?;
            if !(0xDC00..0xE000).contains(&second) {
                return self.error("half of a surrogate pair");
            }
            0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)
        } else {
            first
        };
        match char::from_u32(code) {
            Some(character) => Ok(character),
            None => self.error("half of a surrogate pair"),
        }
    }

    fn four_digits(&mut self) -> Result<u32, DecodeError> {
        let digits = self.text.get(self.at + 1..self.at + 5);
        let code = digits.and_then(|digits| {
            digits
                .iter()
                .try_fold(0, |code, &digit| Some(code << 4 | (digit as char).to_digit(16)?))
        });
        match code {
            Some(code) => {
                self.at += 5;
                Ok(code)
            }
            None => self.error("expected four hexadecimal digits"),
        }
    }

    /// A string, number, `true`, `false` or `null`.
    pub(super) fn scalar(&mut self) -> Result<Scalar, DecodeError> {
        match self.peek() {
            Some(b'"') => Ok(Scalar::Text(self.string()?)),
            Some(b'n') => self.word(b"null").map(|_| Scalar::Null),
            Some(b't') => self.word(b"true").map(Scalar::Text),
            Some(b'f') => self.word(b"false").map(Scalar::Text),
            Some(b'-' | b'0'..=b'9') => self.number().map(Scalar::Text),
            _ => self.error("expected a string, number, boolean or null"),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<Range<u32>, DecodeError> {
        let start = self.at;
        if !self.text[start..].starts_with(word) {
            return self.error("expected true, false or null");
        }
        self.at += word.len();
        Ok(start as u32..self.at as u32)
    }

    fn number(&mut self) -> Result<Range<u32>, DecodeError> {
        let start = self.at;
        self.at += usize::from(self.text[start] == b'-');
        self.digits()?;
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(start as u32..self.at as u32)
    }

    fn digits(&mut self) -> Result<(), DecodeError> {
        let start = self.at;
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { self.error("expected a digit") } else { Ok(()) }
    }

    /// Passes over any value.
    pub(super) fn skip(&mut self) -> Result<(), DecodeError> {
        self.skip_nested(DEPTH_MAX)
    }

    fn skip_nested(&mut self, depth: u32) -> Result<(), DecodeError> {
        if depth == 0 {
            return self.error("a value that nests too deeply");
        }
        let mut first = true;
        if self.take(b'{') {
            while self.key(first)?.is_some() {
                self.skip_nested(depth - 1)?;
                first = false;
            }
        } else if self.take(b'[') {
            while self.element(first)? {
                self.skip_nested(depth - 1)?;
                first = false;
            }
        } else {
            self.scalar()?;
        }
        Ok(())
    }
}

/// Calls `each` for every element of a JSON array that is not null.
///
/// # Errors
/// If the text is not an array of strings, numbers, booleans and nulls.
pub(crate) fn json_array(text: &mut [u8], each: &mut impl FnMut(&[u8])) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(text)?;
    cursor.expect(b'[', "expected an array")?;
    let mut first = true;
    while cursor.element(first)? {
        first = false;
        if let Scalar::Text(range) = cursor.scalar()? {
            each(cursor.slice(&range));
        }
    }
    cursor.end()
}
