//! walpurge tails Postgres' write-ahead log and removes from caches what a committed
//! transaction made stale.

pub mod action;
pub mod change;
pub mod config;
pub mod decode;
pub mod glob;
pub mod lsn;
pub mod pipeline;
pub mod problem;
pub mod rules;
pub mod sinks;
