//! How are changes read from, and positions told to, a walsender?
//!
//! One task owns a [`ReplicationStream`] and does both. It knows no plugin and no position of its
//! own: what is confirmed, and when, is the pipeline's affair.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::error::{PgError, Subject};
use super::frame::{Frame, FrameError, FrameReader};
use super::socket::Stream;
use super::wire::Wire;
use crate::lsn::Lsn;

/// A status update that is not taken for so long means that the server is gone: it reads them
/// even while it waits for us to read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to end the stream before the connection is just closed.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// From 1970-01-01 to Postgres' epoch, 2000-01-01.
const EPOCH_DIFFERENCE: Duration = Duration::from_secs(946_684_800);

/// A connection that streams changes.
pub struct ReplicationStream {
    stream: Stream,
    frames: FrameReader,
    /// The last read filled the buffer.
    filled: bool,
    /// What is still to be written; a cancelled write goes on here.
    out: Vec<u8>,
    subject: Subject,
}

/// Whether a status update asks the server for a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The server answers with a keepalive.
    Requested,
    /// It need not.
    NotNeeded,
}

impl ReplicationStream {
    pub(crate) fn new(wire: Wire, subject: Subject) -> ReplicationStream {
        let (filled, out) = (false, Vec::new());
        ReplicationStream { stream: wire.stream, frames: wire.frames, filled, out, subject }
    }

    /// Waits until bytes arrive and takes what is there, at most one buffer; at once if a frame is
    /// waiting to be taken with [`next_frame`](Self::next_frame).
    ///
    /// Cancel safe: bytes are either in the buffer or still in the socket. It waits without a
    /// bound, since a server may decode for minutes in silence; a dead peer is an error by TCP
    /// keepalive.
    pub async fn read(&mut self) -> Result<(), PgError> {
        if self.frames.has_frame() {
            return Ok(());
        }
        let (stream, frames, filled) = (&mut self.stream, &mut self.frames, &mut self.filled);
        let read = poll_fn(|cx| {
            let mut total = 0;
            // More than once, since TLS hands out 16 KiB records one by one.
            loop {
                let mut spare = ReadBuf::new(frames.spare_mut());
                let state = Pin::new(&mut *stream).poll_read(cx, &mut spare);
                let count = spare.filled().len();
                *filled = spare.remaining() == 0;
                frames.advance(count);
                total += count;
                match state {
                    Poll::Pending if total == 0 => return Poll::Pending,
                    Poll::Ready(Err(error)) if total == 0 => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) if count > 0 && !*filled => {}
                    // An error or end that came after bytes comes again with the next call.
                    _ => return Poll::Ready(Ok(total)),
                }
            }
        });
        match read.await {
            Ok(0) => Err(self.failed(PgError::closed("stream changes"))),
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(PgError::lost("stream changes", error))),
        }
    }

    /// Whether the server has sent more than was taken, as far as is known.
    pub fn has_more(&self) -> bool {
        self.filled || self.frames.has_frame()
    }

    /// The next frame that has arrived; `None`: [`read`](Self::read) first.
    ///
    /// The server's error is a frame as well; see [`server_failed`](Self::server_failed).
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, PgError> {
        let subject = &self.subject;
        let failed = |error: FrameError| PgError::frame("stream changes", error).about(subject);
        self.frames.next().map_err(failed)
    }

    /// The classified error for a [`Frame::Error`].
    pub fn server_failed(&self, error: super::fields::ServerError) -> PgError {
        self.failed(PgError::server("stream changes", error))
    }

    /// The error for a [`Frame::CopyDone`] that nobody asked for.
    pub fn ended(&self) -> PgError {
        self.failed(PgError::closed("stream changes"))
    }

    /// Tells the server how far we are: `flushed` is what the slot may forget.
    ///
    /// Bounded by a timeout of a few seconds, after which the connection counts as lost. Cancel
    /// safe: what was not written yet is written before the next update.
    pub async fn send_status(
        &mut self,
        written: Lsn,
        flushed: Lsn,
        reply: Reply,
    ) -> Result<(), PgError> {
        self.out.extend(status_update(written, flushed, SystemTime::now(), reply));
        self.write_out().await.map_err(|error| self.failed(PgError::lost("confirm", error)))
    }

    /// Ends the stream and the session, so that the slot is free for the next one. Takes at most
    /// a second; changes that arrive meanwhile are dropped, unconfirmed.
    pub async fn stop(mut self) -> Result<(), PgError> {
        match timeout(STOP_TIMEOUT, self.say_goodbye()).await {
            Ok(result) => result,
            Err(_) => Err(self.failed(PgError::timeout("end the stream", STOP_TIMEOUT))),
        }
    }

    async fn say_goodbye(&mut self) -> Result<(), PgError> {
        let lost = |error| PgError::lost("end the stream", error);
        // CopyDone: a tag and an empty body.
        self.out.extend([b'c', 0, 0, 0, 4]);
        self.write_out().await.map_err(lost)?;
        'stream: loop {
            while let Some(frame) = self.next_frame()? {
                match frame {
                    Frame::ReadyForQuery => break 'stream,
                    Frame::Error(error) => return Err(self.server_failed(error)),
                    _ => {}
                }
            }
            self.read().await?;
        }
        // Terminate.
        self.out.extend([b'X', 0, 0, 0, 4]);
        self.write_out().await.map_err(lost)?;
        // The slot is free when the server has closed its end.
        while self.read().await.is_ok() {
            while self.next_frame()?.is_some() {}
        }
        // The server is gone already, so that TLS' closing word may find nobody.
        let _ = self.stream.shutdown().await;
        Ok(())
    }

    async fn write_out(&mut self) -> io::Result<()> {
        let (stream, out) = (&mut self.stream, &mut self.out);
        let written = async {
            while !out.is_empty() {
                if stream.write_buf(&mut Pending(out)).await? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            stream.flush().await
        };
        let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "the server reads nothing");
        timeout(WRITE_TIMEOUT, written).await.map_err(timed_out)?
    }

    fn failed(&self, error: PgError) -> PgError {
        error.about(&self.subject)
    }
}

/// Bytes that leave the vector as they are written, so that dropping a write loses none.
struct Pending<'a>(&'a mut Vec<u8>);

impl bytes::Buf for Pending<'_> {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self) -> &[u8] {
        self.0
    }

    fn advance(&mut self, count: usize) {
        self.0.drain(..count);
    }
}

/// "Standby status update" of Postgres' manual, in its CopyData message.
fn status_update(written: Lsn, flushed: Lsn, now: SystemTime, reply: Reply) -> [u8; 39] {
    let clock = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(EPOCH_DIFFERENCE);
    let mut message = [0; 39];
    message[0] = b'd';
    message[1..5].copy_from_slice(&38u32.to_be_bytes());
    message[5] = b'r';
    message[6..14].copy_from_slice(&written.0.to_be_bytes());
    message[14..22].copy_from_slice(&flushed.0.to_be_bytes());
    // Applied: for a slot nothing else than flushed.
    message[22..30].copy_from_slice(&flushed.0.to_be_bytes());
    message[30..38].copy_from_slice(&(clock.as_micros() as u64).to_be_bytes());
    message[38] = u8::from(reply == Reply::Requested);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_update_has_the_manuals_layout() {
        let now = UNIX_EPOCH + EPOCH_DIFFERENCE + Duration::from_micros(7);
        let message = status_update(Lsn(0x0102), Lsn(0x0101), now, Reply::Requested);
        let mut expected = b"d\0\0\0\x26r".to_vec();
        for number in [0x0102u64, 0x0101, 0x0101, 7] {
            expected.extend(number.to_be_bytes());
        }
        expected.push(1);
        assert_eq!(message.as_slice(), expected);
    }
}
