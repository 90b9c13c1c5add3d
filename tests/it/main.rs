//! Every integration test, against real servers, in one binary: it links once.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "in a test a broken environment should stop it at once and loudly"
)]

mod add_tables;
mod admin;
mod barrier;
mod broken;
mod cdn;
mod check;
mod config;
mod crashes;
mod expire;
mod explain;
mod failover;
mod fallbacks;
mod faults;
mod fuzz;
mod gap;
mod huge;
mod invalidation;
mod lookup_values;
mod lookups;
mod messages;
mod oracle;
mod outcome;
mod pacing;
mod package;
mod parked;
mod partitions;
mod pgoutput;
mod positions;
mod postgres;
mod publish;
mod readers;
mod readme;
mod redelete;
mod redis_cluster;
mod redis_sink;
mod reload;
mod replay;
mod replicas;
mod schema;
mod schema_changes;
mod setup;
mod side_by_side;
mod slot;
mod systemd;
mod torture;
mod world;
