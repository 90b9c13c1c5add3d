//! How do messages get over a connection while it is not streaming?
//!
//! It joins a [`Stream`] and a [`FrameReader`] and knows no message's meaning.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::PgError;
use super::frame::{FrameReader, RawFrame};
use super::socket::Stream;

/// The longest message that is taken outside of a stream: catalog rows, and errors.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A connection, with what has been read and not yet understood.
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    pub(crate) frames: FrameReader,
    /// What [`send`](Self::send) sends next.
    pub(crate) out: BytesMut,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Wire {
        Wire { stream, frames: FrameReader::default(), out: BytesMut::new() }
    }

    /// Sends what was put into `out`. Not cancel safe: half a message may have gone.
    pub(crate) async fn send(&mut self, operation: &str) -> Result<(), PgError> {
        let sent = async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| PgError::io(operation, error))?;
        self.out.clear();
        Ok(())
    }

    /// The next message. Cancel safe: nothing that was read is lost.
    pub(crate) async fn receive(&mut self, operation: &str) -> Result<RawFrame<'_>, PgError> {
        while !self.frames.has_raw(MESSAGE_BYTES_MAX) {
            match self.stream.read(self.frames.spare_mut()).await {
                Ok(0) => return Err(PgError::closed(operation)),
                Ok(count) => self.frames.advance(count),
                Err(error) => return Err(PgError::io(operation, error)),
            }
        }
        let frame = self.frames.next_raw(MESSAGE_BYTES_MAX);
        frame
            .map_err(|error| PgError::frame(operation, error))?
            .ok_or_else(|| PgError::io(operation, io::ErrorKind::UnexpectedEof.into()))
    }
}
