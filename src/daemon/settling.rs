//! Fallbacks in place of transactions that nobody streams: when have they removed what these made
//! stale?
//!
//! Such a transaction may be committed and not be visible yet, and a reader could put its old row
//! back after the fallbacks. So they run once more when every transaction has ended that was open
//! when they ran first, unless the stream itself has brought it.

use crate::postgres::Wanted;
use crate::snapshot::Snapshot;

/// How far they are.
#[derive(Debug)]
pub(super) enum Settling {
    /// They wait until it is known which transactions are open.
    Asking,
    /// They ran, and these may have been committed before.
    Open(Vec<u32>),
    /// They ran for the last time.
    Settled,
}

impl Settling {
    /// Takes what other sessions can see; `run` runs the fallbacks.
    pub(super) fn show(&mut self, snapshot: &Snapshot, run: impl FnOnce()) {
        let open = match self {
            Settling::Settled => return,
            Settling::Asking => match snapshot.open() {
                Some(open) => open,
                None => return,
            },
            Settling::Open(open) => {
                open.retain(|&xid| !snapshot.shows(xid));
                if !open.is_empty() {
                    return;
                }
                Vec::new()
            }
        };
        run();
        *self = if open.is_empty() { Settling::Settled } else { Settling::Open(open) };
    }

    /// The stream has brought a transaction: its own actions wait until it is visible.
    pub(super) fn streamed(&mut self, xid: u32) {
        if let Settling::Open(open) = self {
            open.retain(|&other| other != xid);
        }
    }

    /// What has to be known of other sessions.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        match self {
            Settling::Asking => Some(Wanted::Open),
            Settling::Open(_) => Some(Wanted::Visible),
            Settling::Settled => None,
        }
    }

    /// Whether they ran for the last time.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Settling::Settled)
    }
}
