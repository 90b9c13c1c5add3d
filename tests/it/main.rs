//! Integration tests against real servers, all in one binary.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "in a test a broken environment should stop it at once and loudly"
)]

mod redis_sink;
