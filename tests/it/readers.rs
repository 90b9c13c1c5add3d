//! The readers that `docs/redis.md` shows, in Python, TypeScript and Go: run as they stand there, on
//! a real Redis, while walpurge follows the rows that they cache.
//!
//! A reader is a process that a driver of its language makes of them. It asks the test for what it
//! has to read from Postgres, so that a test can let a commit fall between the read and the fill.

mod page;
mod reader;
mod styles;
