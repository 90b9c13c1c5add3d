//! walpurge tails Postgres' write-ahead log and removes from caches what a committed
//! transaction made stale.

pub mod action;
pub mod lsn;
pub mod postgres;
pub mod sinks;
