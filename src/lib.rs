//! walpurge tails Postgres' write-ahead log and removes from caches what a committed
//! transaction made stale.

pub mod action;
pub mod admin;
mod amount;
pub mod change;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod decode;
pub mod failpoint;
pub mod glob;
pub mod key_type;
pub mod lookups;
pub mod lsn;
pub mod metrics;
pub mod parked;
pub mod pipeline;
pub mod postgres;
pub mod problem;
pub mod replay;
pub mod rules;
pub mod service;
pub mod sinks;
pub mod snapshot;
pub mod state;
pub mod status;
pub mod tail;
mod ticks;
