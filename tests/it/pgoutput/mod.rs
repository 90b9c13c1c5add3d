//! `plugin = "pgoutput"`: the same as with wal2json, and what only a publication can do.

mod daemon;
mod faults;
mod publication;
mod same;
mod tables;
mod versions;
