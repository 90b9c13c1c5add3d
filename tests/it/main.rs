//! Every integration test, against real servers, in one binary: it links once.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "in a test a broken environment should stop it at once and loudly"
)]

mod add_tables;
mod config;
mod faults;
mod invalidation;
mod oracle;
mod postgres;
mod redis_sink;
mod world;
