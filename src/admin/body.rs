//! What is sent back: a text, or lines for as long as somebody reads them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Reply {
    /// All of it.
    Text(Bytes),
    /// Piece by piece, until the other end is dropped.
    Lines(mpsc::Receiver<Bytes>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Reply::Text(text) if text.is_empty() => Poll::Ready(None),
            Reply::Text(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Reply::Lines(lines) => {
                lines.poll_recv(context).map(|line| Some(Ok(Frame::data(line?))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Reply::Text(text) if text.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Text(text) => SizeHint::with_exact(text.len() as u64),
            Reply::Lines(_) => SizeHint::default(),
        }
    }
}
