//! Every integration test, in one binary: it links once.

#![allow(clippy::expect_used)]

mod config;
