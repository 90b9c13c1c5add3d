//! Why does a stream not go on?

use crate::postgres::PgError;
use crate::state::{Commit, GapCause};

/// Why a stream does not go on.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// The server's history is not the one that was followed.
    Gap(GapCause),
    /// The server failed within this transaction.
    Undecodable(Commit, PgError),
    /// It broke, or makes no sense.
    Error(PgError),
    /// It has come to a table that is not known, which may be a new partition, or to DDL on a
    /// rule's table, or the rules' tables take other options: it has to start again with what the
    /// catalog says now.
    Catalog,
}

impl From<GapCause> for Interrupted {
    fn from(cause: GapCause) -> Self {
        Interrupted::Gap(cause)
    }
}

impl From<PgError> for Interrupted {
    fn from(error: PgError) -> Self {
        Interrupted::Error(error)
    }
}
