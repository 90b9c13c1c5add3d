//! Reads numbers, names and values off a message without trusting it.

use std::ops::Range;

use crate::decode::DecodeError;
use crate::lsn::Lsn;

/// A position in a message. Past its end everything is an error.
pub(super) struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Cursor { message, at: 0 }
    }

    pub(super) fn error<T>(&self, what: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError { at: self.at, what })
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let rest = self.message.get(self.at..).unwrap_or_default();
        match rest.split_at_checked(count) {
            Some((taken, _)) => {
                self.at += count;
                Ok(taken)
            }
            None => self.error("the message ends too early"),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N)?;
        // It has just that length.
        taken.try_into().or_else(|_| self.error("the message ends too early"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.array().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// A count of something that follows; the protocol has no negative ones.
    pub(super) fn count(&mut self) -> Result<usize, DecodeError> {
        match i16::try_from(self.u16()?) {
            Ok(count) => Ok(usize::from(count.unsigned_abs())),
            Err(_) => self.error("a negative count"),
        }
    }

    /// A text that ends with a zero byte.
    pub(super) fn text(&mut self) -> Result<&'a [u8], DecodeError> {
        let rest = self.message.get(self.at..).unwrap_or_default();
        let Some(end) = memchr::memchr(0, rest) else {
            return self.error("a name without its end");
        };
        self.at += end + 1;
        Ok(&rest[..end])
    }

    /// Where bytes stand whose length comes before them.
    pub(super) fn sized(&mut self) -> Result<Range<u32>, DecodeError> {
        let length = self.u32()?;
        let start = self.at;
        self.take(length as usize)?;
        match (u32::try_from(start), u32::try_from(self.at)) {
            (Ok(start), Ok(end)) => Ok(start..end),
            _ => self.error("a message of more than 4 GiB"),
        }
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        match self.at == self.message.len() {
            true => Ok(()),
            false => self.error("expected the end of the message"),
        }
    }
}
