//! How do bytes from a socket become the messages of a replication stream?
//!
//! In: bytes, in pieces of any size. Out: [`Frame`]s that borrow the buffer. It does no I/O,
//! copies no payload, and never panics on, or allocates by, a length that a server announced:
//! the buffer grows with the bytes that have arrived, for a frame that needs it, up to
//! [`FRAME_BYTES_MAX`].

use super::fields::{Cursor, Notice, ServerError};
use crate::lsn::Lsn;

/// The largest message that is held whole. Postgres itself can build one of 1 GiB.
pub const FRAME_BYTES_MAX: usize = 256 << 20;

/// How much of a larger one is delivered, as the head of [`Frame::Oversized`]: enough for the
/// part that names the table.
pub const OVERSIZED_HEAD_BYTES: usize = 64 << 10;

/// What one read asks the socket for, and the size of the buffer while frames are small.
pub const READ_BYTES: usize = 256 << 10;

/// A tag and the length, which counts itself but not the tag.
const HEADER_BYTES: usize = 5;

/// What precedes the payload of XLogData: `w`, two LSNs and a clock.
const XLOG_HEADER_BYTES: usize = 25;

/// One message of a replication stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// What the output plugin wrote. The data is mutable since a decoder unescapes in place.
    XLogData {
        /// The LSN that the output plugin gave.
        start_lsn: Lsn,
        /// The server's end of WAL.
        wal_end: Lsn,
        /// The plugin's bytes.
        data: &'a mut [u8],
    },
    /// The server's sign of life.
    Keepalive {
        /// The server's end of WAL that it has decoded.
        wal_end: Lsn,
        /// Whether it wants a status update at once.
        reply_requested: bool,
    },
    /// XLogData beyond [`FRAME_BYTES_MAX`]: its head is here, the rest is skipped.
    Oversized {
        /// The LSN that the output plugin gave.
        start_lsn: Lsn,
        /// The server's end of WAL.
        wal_end: Lsn,
        /// How long the plugin's bytes were.
        data_bytes: usize,
        /// The first [`OVERSIZED_HEAD_BYTES`] of the plugin's bytes.
        head: &'a mut [u8],
    },
    /// A notice, in its place between the changes.
    Notice(Notice),
    /// The server ended the stream with an error.
    Error(ServerError),
    /// The server ended the stream.
    CopyDone,
    /// The server is ready for a query again: the stream is over.
    ReadyForQuery,
}

/// The stream is not Postgres' protocol; nothing after this can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length below its own four bytes.
    #[error("a message of type {0:?} announces an impossible length of {1}")]
    Length(char, i32),
    /// Longer than anything that is expected there.
    #[error("a message of type {0:?} announces {1} bytes, more than the bound of {2}")]
    TooLong(char, usize, usize),
    /// A body that does not have its type's layout.
    #[error("a message of type {0:?} is malformed")]
    Malformed(char),
    /// A type that has no place in a replication stream.
    #[error("a message of type {0:?} is unexpected here")]
    Unexpected(char),
}

/// A message's type and body, whatever they are.
#[derive(Debug)]
pub(crate) struct RawFrame<'a> {
    pub(crate) tag: u8,
    pub(crate) body: &'a mut [u8],
}

/// Cuts a stream of bytes into frames. It owns the buffer that the socket is read into.
#[derive(Debug)]
pub struct FrameReader {
    /// All of it is initialised; what has been read and not yet delivered is `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How many bytes of an oversized message are still to be thrown away.
    skip: usize,
    /// [`FRAME_BYTES_MAX`], or less in tests.
    frame_bytes_max: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        FrameReader::with_bound(FRAME_BYTES_MAX)
    }
}

/// Where the next frame lies in the buffer.
enum Extent {
    Incomplete,
    Whole { tag: u8, body: std::ops::Range<usize> },
    Oversized { body_bytes: usize, head: std::ops::Range<usize> },
}

impl FrameReader {
    fn with_bound(frame_bytes_max: usize) -> FrameReader {
        FrameReader { buffer: vec![0; READ_BYTES], start: 0, end: 0, skip: 0, frame_bytes_max }
    }

    /// Room to read into; say how much of it was used with [`advance`](Self::advance).
    ///
    /// It is empty only if a whole frame waits to be taken.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let waiting = self.end - self.start;
        if self.buffer.len() > READ_BYTES && waiting < READ_BYTES && self.wanted() <= READ_BYTES {
            // A large frame is gone: its memory goes too.
            let mut small = vec![0; READ_BYTES];
            small[..waiting].copy_from_slice(&self.buffer[self.start..self.end]);
            self.buffer = small;
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
        }
        (self.start, self.end) = (0, waiting);
        if self.end == self.buffer.len() && self.wanted() > self.end {
            // Doubling, so that memory follows what was received and not what was announced.
            let bytes = self.wanted().min(self.buffer.len() * 2).max(READ_BYTES);
            self.buffer.resize(bytes, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Tells that `count` bytes were read into the front of what [`spare_mut`](Self::spare_mut)
    /// gave.
    pub fn advance(&mut self, count: usize) {
        self.end = self.buffer.len().min(self.end + count);
        self.drop_skipped();
    }

    /// Whether [`next`](Self::next) has something to say without more bytes.
    pub fn has_frame(&self) -> bool {
        !matches!(self.extent(self.frame_bytes_max), Ok(Extent::Incomplete))
    }

    /// How much memory the buffer takes.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The next frame; `None` if its bytes are not all there yet.
    ///
    /// After an error the stream cannot be read on.
    #[allow(clippy::should_implement_trait)] // frames borrow the reader, an Iterator's items could not
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let (tag, body) = loop {
            match self.extent(self.frame_bytes_max)? {
                Extent::Incomplete => return Ok(None),
                Extent::Oversized { body_bytes, head } => {
                    return self.oversized(body_bytes, head).map(Some);
                }
                Extent::Whole { tag, body } => {
                    self.start = body.end;
                    // A changed setting and the end of a command are nobody's business here.
                    if !matches!(tag, b'S' | b'C') {
                        break (tag, body);
                    }
                }
            }
        };
        parse(tag, &mut self.buffer[body]).map(Some)
    }

    /// Whether [`next_raw`](Self::next_raw) has something to say without more bytes.
    pub(crate) fn has_raw(&self, bytes_max: usize) -> bool {
        !matches!(self.extent(usize::MAX), Ok(Extent::Incomplete))
            || self.announced_bytes() > bytes_max + HEADER_BYTES
    }

    /// The next message of any type, at most `bytes_max` long, for what happens outside of a
    /// stream.
    pub(crate) fn next_raw(
        &mut self,
        bytes_max: usize,
    ) -> Result<Option<RawFrame<'_>>, FrameError> {
        match self.extent(usize::MAX)? {
            Extent::Whole { tag, body } if body.len() <= bytes_max => {
                self.start = body.end;
                Ok(Some(RawFrame { tag, body: &mut self.buffer[body] }))
            }
            Extent::Incomplete if self.announced_bytes() <= bytes_max + HEADER_BYTES => Ok(None),
            _ => {
                let tag = self.buffer.get(self.start).copied().unwrap_or_default();
                Err(FrameError::TooLong(char::from(tag), self.announced_bytes(), bytes_max))
            }
        }
    }

    /// The length that the header at `start` announces for the whole message, if it is there.
    fn announced(&self) -> Option<(u8, i32)> {
        let mut cursor = Cursor(&self.buffer[self.start..self.end]);
        Some((cursor.u8()?, cursor.i32()?))
    }

    /// How many bytes the next message needs to have in the buffer before it can be delivered.
    fn wanted(&self) -> usize {
        let bytes = self.announced_bytes();
        if bytes > self.frame_bytes_max { self.head_bytes() } else { bytes }
    }

    /// How long the next message is, header included, as far as is known.
    fn announced_bytes(&self) -> usize {
        self.announced().map_or(HEADER_BYTES, |(_, length)| {
            usize::try_from(length).unwrap_or(0).saturating_add(1)
        })
    }

    fn head_bytes(&self) -> usize {
        HEADER_BYTES + XLOG_HEADER_BYTES + OVERSIZED_HEAD_BYTES.min(self.frame_bytes_max / 2)
    }

    fn extent(&self, bytes_max: usize) -> Result<Extent, FrameError> {
        let Some((tag, length)) = self.announced() else { return Ok(Extent::Incomplete) };
        let body_bytes = match usize::try_from(length) {
            Ok(bytes @ 4..) => bytes - 4,
            _ => return Err(FrameError::Length(char::from(tag), length)),
        };
        let (body, waiting) = (self.start + HEADER_BYTES, self.end - self.start);
        if body_bytes.saturating_add(HEADER_BYTES) > bytes_max {
            let head_bytes = self.head_bytes();
            return match self.buffer[self.start..self.end].get(HEADER_BYTES) {
                Some(b'w') if tag == b'd' && waiting >= head_bytes => {
                    Ok(Extent::Oversized { body_bytes, head: body..self.start + head_bytes })
                }
                Some(b'w') | None if tag == b'd' => Ok(Extent::Incomplete),
                _ => Err(FrameError::TooLong(char::from(tag), body_bytes, bytes_max)),
            };
        }
        if waiting < HEADER_BYTES + body_bytes {
            return Ok(Extent::Incomplete);
        }
        Ok(Extent::Whole { tag, body: body..body + body_bytes })
    }

    /// Delivers the head of a message that is too long and arranges for the rest to be skipped.
    fn oversized(
        &mut self,
        body_bytes: usize,
        head: std::ops::Range<usize>,
    ) -> Result<Frame<'_>, FrameError> {
        self.skip = body_bytes - head.len();
        self.start = head.end;
        self.drop_skipped();
        match parse(b'd', &mut self.buffer[head])? {
            Frame::XLogData { start_lsn, wal_end, data } => Ok(Frame::Oversized {
                start_lsn,
                wal_end,
                data_bytes: body_bytes.saturating_sub(XLOG_HEADER_BYTES),
                head: data,
            }),
            _ => Err(FrameError::Malformed('d')),
        }
    }

    fn drop_skipped(&mut self) {
        let dropped = self.skip.min(self.end - self.start);
        self.skip -= dropped;
        self.start += dropped;
    }
}

/// The layouts of "Streaming Replication Protocol" in Postgres' manual.
fn parse(tag: u8, body: &mut [u8]) -> Result<Frame<'_>, FrameError> {
    match tag {
        b'd' => copy_data(body).ok_or(FrameError::Malformed('d')),
        b'N' => Ok(Frame::Notice(ServerError::parse(body))),
        b'E' => Ok(Frame::Error(ServerError::parse(body))),
        b'c' => Ok(Frame::CopyDone),
        b'Z' => Ok(Frame::ReadyForQuery),
        other => Err(FrameError::Unexpected(char::from(other))),
    }
}

fn copy_data(body: &mut [u8]) -> Option<Frame<'_>> {
    let mut cursor = Cursor(body);
    match cursor.u8()? {
        b'w' => {
            let (start_lsn, wal_end) = (cursor.lsn()?, cursor.lsn()?);
            let data = body.get_mut(XLOG_HEADER_BYTES..)?;
            Some(Frame::XLogData { start_lsn, wal_end, data })
        }
        b'k' => {
            let wal_end = cursor.lsn()?;
            cursor.take(8)?;
            Some(Frame::Keepalive { wal_end, reply_requested: cursor.u8()? != 0 })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
