//! How far is the invalidation of one tag? Steps without I/O, for a single server and for a cluster
//! alike; what they are for is said in [`tags`](super::tags).

use super::judge::Judge;
use super::session::Keys;
use super::tags::{page as read, taken_name};
use super::wire::Reply;
use crate::sinks::Failure;

/// How often one tag's renaming may find a set in its way. The first is a crash's leftover; each
/// other means that another walpurge renamed, so that both go forward.
pub(super) const RENAMES_MAX: u32 = 100;

/// One tag's progress.
pub(super) struct Work<'a> {
    /// The place of its action, unless a scan found the set.
    pub(super) index: Option<usize>,
    pub(super) set: &'a [u8],
    pub(super) taken: Vec<u8>,
    pub(super) step: Step,
    renames: u32,
}

pub(super) enum Step {
    /// Rename `set` to `taken` and read the first page.
    Rename,
    /// Read the page at the cursor; if `again`, rename after the last one.
    Read { cursor: Vec<u8>, again: bool },
    /// There is nothing to do, or it failed, which is noted.
    Over,
}

impl<'a> Work<'a> {
    /// One for each of the sets `keys`.
    pub(super) fn all(keys: &'a Keys) -> Vec<Self> {
        let work = |(index, set): (Option<usize>, &'a [u8])| Work {
            index,
            set,
            taken: taken_name(set),
            step: Step::Rename,
            renames: 0,
        };
        keys.iter().map(work).collect()
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.step, Step::Over)
    }

    /// Finds out whether there is something to do, by SCARD of the set and then EXISTS of its taken
    /// name.
    ///
    /// SCARD also keeps RENAMENX from a key that is no set, which is somebody else's. It is asked
    /// before EXISTS: a set that another walpurge renames between the two is then still seen, as
    /// the latter.
    pub(super) fn begin(
        &mut self,
        judge: &mut Judge<'_>,
        card: &Reply,
        taken: &Reply,
    ) -> Result<(), Failure> {
        if let Reply::Error(text) = taken {
            return Err(judge.failure(text, "EXISTS"));
        }
        self.step = match (card, taken.int()) {
            (Reply::Error(text), _) => {
                judge.note(self.index, text, "SCARD")?;
                Step::Over
            }
            (Reply::Int(0), Some(0)) => Step::Over,
            (Reply::Int(0), Some(_)) => Step::Read { cursor: b"0".to_vec(), again: false },
            (Reply::Int(_), Some(_)) => Step::Rename,
            _ => return Err(judge.unexpected("SCARD")),
        };
        Ok(())
    }

    /// Takes the answers to RENAMENX, if that was the step, and to SSCAN: the page's members. The
    /// work is then at its next step.
    pub(super) fn take_page(
        &mut self,
        judge: &mut Judge<'_>,
        renamed: Option<Reply>,
        page: Reply,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        let again = match (&self.step, renamed) {
            (Step::Read { again, .. }, _) => *again,
            // Another walpurge was quicker; `taken` holds what it has not done yet.
            (_, Some(Reply::Error(text))) if text == "ERR no such key" => false,
            (_, Some(Reply::Error(text))) => return Err(judge.failure(&text, "RENAMENX")),
            (_, renamed) => renamed.and_then(|reply| reply.int()) != Some(1),
        };
        let (cursor, members) = match page {
            Reply::Error(text) => {
                judge.note(self.index, &text, "SSCAN")?;
                self.step = Step::Over;
                return Ok(Vec::new());
            }
            page => read(page).ok_or_else(|| judge.unexpected("SSCAN"))?,
        };
        self.step = match (&cursor[..], again) {
            (b"0", false) => Step::Over,
            (b"0", true) if self.renames == RENAMES_MAX => {
                let text = "ERR another walpurge keeps taking this tag";
                return Err(judge.failure(text, "RENAMENX"));
            }
            (b"0", true) => {
                self.renames += 1;
                Step::Rename
            }
            _ => Step::Read { cursor, again },
        };
        Ok(members)
    }
}

/// How many members a removal has removed, by the answer to its EXEC.
pub(super) fn removed(judge: &Judge<'_>, exec: &Reply, members: usize) -> Result<u64, Failure> {
    let removed = match exec {
        Reply::Array(results) => match &results[..] {
            // A taken name that is no set any more: someone else's key since a moment ago.
            [_, Reply::Error(text)] => return Err(judge.failure(text, "SREM")),
            [removed @ Reply::Int(_), Reply::Int(_)] => removed.count(members),
            _ => None,
        },
        _ => None,
    };
    removed.ok_or_else(|| judge.unexpected("EXEC"))
}
