//! How the loop shows that it looks at the stream, and how a broken build stops doing so.

use crate::failpoint::Failpoint;

/// Notes that `read` was polled at all: in a loop that always has something else to do first it
/// never would be. As cancel safe as `read`.
pub(super) async fn looking<T>(has_looked: &mut bool, read: impl Future<Output = T>) -> T {
    *has_looked = true;
    read.await
}

/// What a broken build does from the first commit on; any other does nothing.
#[derive(Default)]
pub(super) struct Stall {
    begun: bool,
}

impl Stall {
    /// The stream has brought a commit.
    pub(super) fn commit(&mut self) {
        self.begun = true;
        while Failpoint::StallThread.is_set() {
            std::thread::park();
        }
    }

    /// Whether the stream is still read.
    pub(super) fn reads(&self) -> bool {
        !(self.begun && Failpoint::StallReader.is_set())
    }

    /// Comes back, unless the loop is to stop here.
    pub(super) async fn pass(&self) {
        if self.begun && Failpoint::StallLoop.is_set() {
            std::future::pending().await
        }
    }
}
