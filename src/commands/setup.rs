//! `setup`: makes the slot, the one for replays and, on request, the event triggers for DDL.

use anyhow::anyhow;

use super::endpoints::connect_config;
use super::run::stop_signal;
use super::{Misconfigured, Outcome, block_on, load, logs, print};
use crate::cli::{Global, SetupArgs};
use crate::config::{PostgresConfig, replay_slot};
use crate::lsn::Lsn;
use crate::postgres::client::simple_query;
use crate::postgres::quote::literal;
use crate::postgres::{
    ConnectConfig, INSTALL_DDL, OrdinaryConnection, Persistence, PgError, PgErrorKind,
    ReplicationSession, connect_client,
};

/// The server's word for a missing right.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// How long the server may take to give up a slot that nobody wants any more.
const CANCEL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

pub(super) fn setup(global: &Global, args: &SetupArgs) -> anyhow::Result<Outcome> {
    let config = load(global)?.config.postgres;
    if args.print {
        print(&sql(&config, args.ddl))?;
        return Ok(Outcome::Done);
    }
    // For whom a slot's creation waits is logged.
    logs::start(global)?;
    let connect = connect_config(&config)?;
    block_on(make(&config, &connect, args.ddl))?;
    Ok(Outcome::Done)
}

/// The same as SQL: each part may be run again.
fn sql(config: &PostgresConfig, ddl: bool) -> String {
    let (slot, plugin) = (literal(&config.slot), literal(config.plugin.name()));
    let triggers = if ddl { format!("{INSTALL_DDL}\n") } else { String::new() };
    let rights = if ddl { "a superuser" } else { "a role with REPLICATION" };
    format!(
        "-- What walpurge needs in its database, the one that postgres.url names, to be run there\n\
         -- by {rights}. What is there already stays as it is.\n\n\
         {triggers}\
         -- Waits for open transactions that have written. On Postgres 17 and newer `failover => true`\n\
         -- behind the plugin lets the slot follow a failover.\n\
         SELECT slot_name, lsn\n\
         FROM pg_catalog.pg_create_logical_replication_slot({slot}, {plugin})\n\
         WHERE NOT EXISTS (\n    \
             SELECT FROM pg_catalog.pg_replication_slots\n    \
             WHERE slot_name = {slot} AND plugin = {plugin} AND database = current_database()\n\
         );\n{}",
        config.replay.map(|_| replay_sql(config)).unwrap_or_default()
    )
}

/// The slot for replays, as a copy of the other one.
fn replay_sql(config: &PostgresConfig) -> String {
    let (slot, plugin) = (literal(&config.slot), literal(config.plugin.name()));
    let replay = literal(&replay_slot(&config.slot));
    format!(
        "\n-- What is kept for replays; walpurge moves it.\n\
         SELECT slot_name, lsn\n\
         FROM pg_catalog.pg_copy_logical_replication_slot({slot}, {replay}, false)\n\
         WHERE NOT EXISTS (\n    \
             SELECT FROM pg_catalog.pg_replication_slots\n    \
             WHERE slot_name = {replay} AND plugin = {plugin} AND database = current_database()\n\
         );\n"
    )
}

async fn make(config: &PostgresConfig, connect: &ConnectConfig, ddl: bool) -> anyhow::Result<()> {
    let fail = Misconfigured::or_failure;
    let (slot, plugin, database) = (&config.slot, config.plugin.name(), connect.dbname());
    let mut session = ReplicationSession::connect(connect).await.map_err(fail)?;
    session.identify_system().await.map_err(fail)?;
    let asking = connect_client(connect, session.host()).await.map_err(fail)?;
    let is_missing = match session.usable_slot(slot, plugin).await {
        Ok(_) => false,
        Err(error) if *error.kind() == PgErrorKind::SlotMissing => true,
        Err(error) => return Err(fail(error)),
    };
    // Before the slot, whose first transaction may be DDL.
    if ddl {
        let installed = simple_query(&asking.client, INSTALL_DDL).await;
        installed.map_err(|error| not_installed(error, connect.user(), database))?;
        print(&format!("installed the event triggers for DDL in database {database}\n"))?;
    }
    if is_missing {
        let from = create_slot(&mut session, &asking, slot, plugin).await?;
        print(&format!(
            "made slot {slot} for {plugin} in database {database}; what is committed after {from} \
             is invalidated\n"
        ))?;
    } else {
        print(&format!("slot {slot} is there already, for {plugin} in database {database}\n"))?;
    }
    match config.replay {
        Some(_) => make_replay_slot(&mut session, slot, plugin).await,
        None => Ok(()),
    }
}

async fn make_replay_slot(
    session: &mut ReplicationSession,
    slot: &str,
    plugin: &str,
) -> anyhow::Result<()> {
    let fail = Misconfigured::or_failure;
    let replay = replay_slot(slot);
    match session.usable_slot(&replay, plugin).await {
        Ok(_) => print(&format!("slot {replay} is there already, for replays\n")),
        Err(error) if *error.kind() == PgErrorKind::SlotMissing => {
            let made = session.copy_slot(slot, &replay, Persistence::Permanent).await;
            let from = made.map_err(fail)?.consistent_lsn;
            print(&format!("made slot {replay}; what is committed after {from} can be replayed\n"))
        }
        Err(error) => Err(fail(error)),
    }
}

/// Makes the slot, or gives it up on Ctrl-C and SIGTERM: the server alone would go on waiting, and
/// make one that holds WAL for nobody.
async fn create_slot(
    session: &mut ReplicationSession,
    asking: &OrdinaryConnection,
    slot: &str,
    plugin: &str,
) -> anyhow::Result<Lsn> {
    let stop = stop_signal()?;
    let cancel = format!("SELECT pg_catalog.pg_cancel_backend({})", session.process_id());
    let creation =
        session.create_slot_reporting(slot, plugin, Persistence::Permanent, &asking.client);
    let mut creation = std::pin::pin!(creation);
    let created = tokio::select! {
        created = &mut creation => created,
        () = stop => {
            simple_query(&asking.client, &cancel).await.map_err(Misconfigured::or_failure)?;
            match tokio::time::timeout(CANCEL_TIMEOUT, creation).await {
                // It was made all the same.
                Ok(Ok(created)) => Ok(created),
                Ok(Err(_)) => return Err(anyhow!("interrupted; slot {slot} is not made")),
                Err(_) => {
                    return Err(anyhow!(
                        "interrupted; the server may still make slot {slot}\n\
                         hint: walpurge teardown drops it"
                    ));
                }
            }
        }
    };
    created.map(|created| created.consistent_lsn).map_err(Misconfigured::or_failure)
}

fn not_installed(error: PgError, user: &str, database: &str) -> anyhow::Error {
    let is_right = matches!(
        error.kind(),
        PgErrorKind::Other { sqlstate } if sqlstate == INSUFFICIENT_PRIVILEGE
    );
    if !is_right {
        return Misconfigured::or_failure(error)
            .context("cannot install the event triggers for DDL, and changed nothing");
    }
    let said = error.server_error().map(|said| format!(": {}", said.message)).unwrap_or_default();
    anyhow!(
        "role {user} may not install event triggers in database {database}{said}; nothing is \
         changed\nhint: let a superuser run the SQL: walpurge setup --ddl --print | \
         psql -v ON_ERROR_STOP=1 -U postgres -d {database}"
    )
}
