//! How does walpurge talk to Postgres?
//!
//! A [`ConnectConfig`] opens a [`ReplicationSession`] (slots, catalog, identity), which becomes a
//! [`ReplicationStream`] of [`Frame`]s; and ordinary connections to the very same server, through
//! tokio-postgres. [`PgError`] says what went wrong, whether a retry helps, and what mends it.
//!
//! Absent on purpose: what a change means (`decode`), what is confirmed and when (`pipeline`),
//! waiting and trying again (the daemon).

mod auth;
mod barrier;
mod blockers;
mod catalog;
mod channel_binding;
pub mod client;
mod connect;
mod ddl;
mod error;
mod fields;
mod frame;
mod hint;
mod pgoutput;
mod plugin;
pub mod publication;
mod published;
mod query;
pub mod quote;
pub(crate) mod relations;
mod replica;
mod replication;
mod session;
mod slot;
mod socket;
pub(crate) mod standby_names;
mod timeline;
mod tls;
mod url;
mod wal2json;
mod wire;

pub use barrier::{Barrier, HEARTBEAT_PREFIX, Heard, WalHeld, Wanted};
pub use blockers::{Blocker, blockers};
pub use catalog::{AskCatalog, TablesQuery, known_tables, partitions};
pub use client::{
    ConnectionTask, OrdinaryConnection, ServerIdentity, connect_any, connect_client,
    server_identity,
};
pub use ddl::{DdlTriggers, INSTALL_DDL, REMOVE_DDL, ddl_triggers};
pub use error::{PgError, PgErrorKind};
pub use fields::{Notice, ServerError};
pub use frame::{
    FRAME_BYTES_MAX, Frame, FrameError, FrameReader, OVERSIZED_HEAD_BYTES, READ_BYTES,
};
pub use pgoutput::PgoutputOptions;
pub use plugin::{Asking, Format, PluginOptions, StartedStream, is_too_new};
pub use published::{PublicationQuery, listed, refuse_lacks};
pub use query::Rows;
pub use replica::{Replayed, Replica, ReplicaLost, Upstream};
pub use replication::{ReplicationStream, Reply};
pub use session::{ReplicationSession, StartFailure, SystemIdentity};
pub use slot::{CreatedSlot, FAILOVER_SINCE, Persistence, SlotInfo, WalStatus};
pub use socket::{ChosenHost, Encryption};
pub use url::{
    ChannelBinding, ConnectConfig, Host, HostSpec, Keepalive, RootCert, SslMode,
    TargetSessionAttrs, UrlError,
};
pub use wal2json::{NumericFormat, Wal2jsonOptions};
