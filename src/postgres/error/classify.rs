//! Which kind of error is it that a server reports?
//!
//! The classes come from the messages of Postgres 12 to 18. Where a SQLSTATE is shared by several
//! causes the message decides, and where that is translated the place in the server's source.

use super::PgErrorKind::{self, *};
use super::ServerError;

/// Which kind a server's error is.
pub(crate) fn classify(error: &ServerError) -> PgErrorKind {
    let other = || Other { sqlstate: error.sqlstate.clone() };
    by_message(error).or_else(|| by_routine(error)).unwrap_or_else(other)
}

/// By its SQLSTATE, and where several causes share that by the message.
fn by_message(error: &ServerError) -> Option<PgErrorKind> {
    let message = error.message.as_str();
    let has = |part: &str| message.contains(part);
    // Worded by the plugin or the library loader, with SQLSTATEs that others use as well.
    if has("may not be used as an output plugin") {
        return Some(PluginRefused);
    }
    if let Some(option) = unknown_option(message) {
        return Some(UnknownPluginOption(option));
    }
    Some(match error.sqlstate.as_str() {
        "28000" | "28P01" => Auth,
        "3D000" => DatabaseMissing,
        "57P03" if has("shutting down") => ServerShuttingDown,
        "57P03" => ServerStarting,
        "57P01" | "57P02" => ServerShuttingDown,
        "53300" if has("max_wal_senders") => NoFreeWalSender,
        "53300" => NoFreeConnection,
        "53400" if has("replication slots") => NoFreeSlot,
        "42501" if has("walsender") || has("WAL sender") || has("replication") => {
            NoReplicationRight
        }
        "08P01" if has("startup parameter") || has("replication") => Pooler,
        "42601" if has("IDENTIFY_SYSTEM") => Pooler,
        "55006" if has("active for PID") => SlotInUse { pid: pid(message) },
        "42704" if has("replication slot") => SlotMissing,
        "42704" if has("publication") => PublicationMissing,
        "42710" if has("replication slot") => SlotExists,
        "58P01" if has("could not access file") => PluginMissing,
        "58P01" if has("WAL segment") => SlotLost,
        "55000" | "0A000" if has("was not created in this database") => {
            SlotOfOtherDatabase { database: None }
        }
        "55000" | "0A000" if has("physical replication slot") => SlotOfOtherPlugin { plugin: None },
        // A warning of Postgres 18, which goes on without the publication.
        "55000" if has("skipped loading publication") => PublicationMissing,
        "55000" if has("wal_level") => WalLevel,
        "55000" | "0A000" if has("while in recovery") => WrongServerRole,
        "55000"
            if has("can no longer get changes from")
                || has("can no longer access replication slot")
                || has("cannot read from logical replication slot") =>
        {
            SlotLost
        }
        _ if has("requested WAL segment") && has("has already been removed") => SlotLost,
        _ => return None,
    })
}

/// By its SQLSTATE and the function of the server's source that reports it: messages may be
/// translated, the names of functions never are. From Postgres 12 to 18.
fn by_routine(error: &ServerError) -> Option<PgErrorKind> {
    let routine = error.routine.as_str();
    // ReplicationSlotAcquire, ReplicationSlotCreate and the like.
    let is_slots = routine.starts_with("ReplicationSlot");
    Some(match error.sqlstate.as_str() {
        "42501" if matches!(routine, "InitPostgres" | "CheckSlotPermissions") => NoReplicationRight,
        "42704" if is_slots => SlotMissing,
        "42704" if routine == "get_publication_oid" => PublicationMissing,
        "42710" if is_slots => SlotExists,
        "53400" if is_slots => NoFreeSlot,
        "55000" if routine == "LoadPublications" => PublicationMissing,
        "55006" if is_slots => SlotInUse { pid: pid(&error.message) },
        "58P01" if routine == "internal_load_library" => PluginMissing,
        _ => return None,
    })
}

/// wal2json, test_decoding: `option "NAME" = "VALUE" is unknown`; pgoutput: `unrecognized
/// pgoutput option: NAME`.
fn unknown_option(message: &str) -> Option<String> {
    if let Some(name) = message.strip_prefix("unrecognized pgoutput option: ") {
        return Some(name.to_string());
    }
    let (name, rest) = message.strip_prefix("option \"")?.split_once('"')?;
    rest.ends_with("is unknown").then(|| name.to_string())
}

/// The number behind or before the word, which every translation keeps: the last one.
fn pid(message: &str) -> Option<i32> {
    let numbers = message.split(|c: char| !c.is_ascii_digit());
    numbers.rev().find(|number| !number.is_empty())?.parse().ok()
}
