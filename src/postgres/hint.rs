//! Which SQL or setting mends an error?
//!
//! Text for the operator, complete with names and ready to be run. Pure.

use super::error::{PgErrorKind, Subject};
use super::fields::ServerError;
use super::quote;

pub(crate) fn hint(
    kind: &PgErrorKind,
    subject: &Subject,
    server: Option<&ServerError>,
) -> Option<String> {
    use PgErrorKind::*;
    let (user, dbname) = (&subject.user, &subject.dbname);
    let slot = subject.slot.as_deref().unwrap_or("walpurge");
    let plugin = subject.plugin.as_deref().unwrap_or("wal2json");
    let slot_literal = quote::literal(slot);
    Some(match kind {
        Auth => auth(user, dbname, server),
        ServerStarting => "wait: the server is starting or recovering".into(),
        WrongServerRole => {
            "name the primary's host first in postgres.url, or all hosts together with \
             target_session_attrs=read-write"
                .into()
        }
        SlotInUse { pid } => in_use(*pid, &slot_literal),
        SlotMissing => format!(
            "SELECT pg_create_logical_replication_slot({slot_literal}, {});",
            quote::literal(plugin)
        ),
        SlotExists => format!("SELECT pg_drop_replication_slot({slot_literal});"),
        SlotOfOtherDatabase { database } => match database {
            Some(database) => format!(
                "slot {slot:?} belongs to database {database:?}: change the database in \
                 postgres.url, or choose another postgres.slot"
            ),
            None => format!("choose another postgres.slot than {slot:?}, which is taken"),
        },
        SlotOfOtherPlugin { plugin: found } => match found {
            Some(found) if matches!(found.as_str(), "wal2json" | "pgoutput") => format!(
                "slot {slot:?} is made for plugin {found}; to switch without losing a change choose \
                 another postgres.slot, and let the daemon run on: walpurge setup --from-slot {slot}"
            ),
            Some(found) => format!(
                "slot {slot:?} is made for plugin {found}: choose another postgres.slot, or drop \
                 it if nobody needs it: SELECT pg_drop_replication_slot({slot_literal});"
            ),
            None => format!("slot {slot:?} is a physical one: choose another postgres.slot"),
        },
        SynchronousStandby => {
            "synchronous_standby_names holds `*` or walpurge's application_name; as a \
             superuser, with the standbys' own names: ALTER SYSTEM SET synchronous_standby_names \
             = …; SELECT pg_reload_conf();  (or choose another application_name in postgres.url)"
                .into()
        }
        SlotLost => format!(
            "raise max_slot_wal_keep_size; walpurge run makes a new slot and runs every rule's \
             fallback, unless create_slot is false: SELECT pg_drop_replication_slot({slot_literal});"
        ),
        PluginMissing => format!(
            "install {plugin} on the database server (Debian: apt install \
             postgresql-<version>-wal2json)"
        ),
        PluginRefused => format!(
            "as a superuser: ALTER SYSTEM SET output_plugin_libraries = pgoutput, \
             test_decoding, {plugin}; SELECT pg_reload_conf();  (without quotes round the list)"
        ),
        UnknownPluginOption(name) => format!(
            "the server's {plugin} is too old for the option {name:?}, or the slot is for \
             another plugin"
        ),
        PublicationMissing => format!(
            "walpurge setup  makes it; if it is there by now, it is younger than the slot's \
             position, and what was committed in between is not in the stream: SELECT \
             pg_drop_replication_slot({slot_literal});  walpurge run makes a new slot then and runs \
             every rule's fallback, unless create_slot is false"
        ),
        PublicationLacking { hint } => {
            let setup = "walpurge setup  brings the publication in step with the rules";
            hint.as_ref().map_or(setup.to_owned(), |hint| format!("{hint}; else: {setup}"))
        }
        WalLevel => "as a superuser: ALTER SYSTEM SET wal_level = logical;  then restart the \
                     server"
            .into(),
        NoFreeSlot => "drop a slot that nobody uses (SELECT slot_name FROM \
                       pg_replication_slots WHERE NOT active;), or raise \
                       max_replication_slots and restart the server"
            .into(),
        NoFreeWalSender => "ALTER SYSTEM SET max_wal_senders = 20;  then restart the server".into(),
        NoFreeConnection => "raise max_connections, or end sessions that idle".into(),
        NoReplicationRight => format!(
            "ALTER ROLE {} REPLICATION;  (Amazon RDS: GRANT rds_replication TO {0};)",
            quote::identifier(user)
        ),
        DatabaseMissing => {
            format!("CREATE DATABASE {};  or correct postgres.url", quote::identifier(dbname))
        }
        Pooler => "point postgres.url at the server itself, past the pooler".into(),
        Tls => "check sslmode and sslrootcert in postgres.url: the certificate must chain to a \
                root there or to a root of the system, and for verify-full name the host in its \
                subjectAltName"
            .into(),
        ConnectionLost | ServerShuttingDown | Config | Protocol | Other { .. } => {
            return server.and_then(|error| error.hint.clone());
        }
    })
}

fn auth(user: &str, dbname: &str, server: Option<&ServerError>) -> String {
    let message = server.map_or("", |error| error.message.as_str());
    let role = quote::identifier(user);
    if message.contains("pg_hba.conf") {
        // Logical replication connects to a database, so `replication` in that column is no match.
        format!(
            "add a line to pg_hba.conf and reload, for instance: \
             hostssl {dbname} {user} samehost scram-sha-256"
        )
    } else if message.contains("does not exist") {
        format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD '…';")
    } else if message.contains("not permitted to log in") {
        format!("ALTER ROLE {role} LOGIN;")
    } else {
        format!("correct the password in postgres.url, or: ALTER ROLE {role} PASSWORD '…';")
    }
}

fn in_use(pid: Option<i32>, slot: &str) -> String {
    match pid {
        Some(pid) => format!(
            "another session reads this slot; if it is a dead one: \
             SELECT pg_terminate_backend({pid});"
        ),
        None => format!(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = {slot};  tells who \
             reads it"
        ),
    }
}
