//! `setup`: makes the publication, the slot, the one for replays and, on request, the event triggers
//! for DDL.

mod publication;
mod switch;

use anyhow::anyhow;

use super::endpoints::connect_config;
use super::run::stop_signal;
use super::{Misconfigured, Outcome, block_on, load, logs, print, say};
use crate::cli::{Global, SetupArgs};
use crate::config::{Loaded, Plugin, PostgresConfig, replay_slot};
use crate::lsn::Lsn;
use crate::postgres::client::simple_query;
use crate::postgres::publication::Surplus;
use crate::postgres::quote::literal;
use crate::postgres::{
    ConnectConfig, INSTALL_DDL, OrdinaryConnection, Persistence, PgError, PgErrorKind,
    ReplicationSession, connect_any, connect_client,
};
use crate::rules::RuleSet;
use publication::{Made, Publishing};

/// The server's word for a missing right.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// How long the server may take to give up a slot that nobody wants any more.
const CANCEL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

pub(super) fn setup(global: &Global, args: &SetupArgs) -> anyhow::Result<Outcome> {
    let Loaded { config, rules, .. } = load(global)?;
    let asked = Asked { config: &config.postgres, rules: &rules, args };
    if args.print {
        let publication = match asked.config.plugin {
            Plugin::Wal2json => String::new(),
            // What is to be published depends on the tables.
            Plugin::Pgoutput => {
                let connect = connect_config(asked.config)?;
                block_on(asked.publication_sql(&connect))?
            }
        };
        print(&sql(asked.config, args.ddl, &publication))?;
        return Ok(Outcome::Done);
    }
    // For whom a slot's creation waits is logged.
    logs::start(global)?;
    let connect = connect_config(asked.config)?;
    block_on(asked.make(&connect))
}

/// The same as SQL: each part may be run again.
fn sql(config: &PostgresConfig, ddl: bool, publication: &str) -> String {
    let (slot, plugin) = (literal(&config.slot), literal(config.plugin.name()));
    let triggers = if ddl { format!("{INSTALL_DDL}\n") } else { String::new() };
    let rights = if ddl { "a superuser" } else { "a role with REPLICATION" };
    format!(
        "-- What walpurge needs in its database, the one that postgres.url names, to be run there\n\
         -- by {rights}. What is there already stays as it is.\n\n\
         {publication}{triggers}\
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

/// What is asked for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    config: &'a PostgresConfig,
    rules: &'a RuleSet,
    args: &'a SetupArgs,
}

impl<'a> Asked<'a> {
    async fn make(self, connect: &ConnectConfig) -> anyhow::Result<Outcome> {
        let fail = Misconfigured::or_failure;
        let (config, database) = (self.config, connect.dbname());
        let (slot, plugin) = (&config.slot, config.plugin.name());
        let mut session = ReplicationSession::connect(connect).await.map_err(fail)?;
        session.identify_system().await.map_err(fail)?;
        let asking = connect_client(connect, session.host()).await.map_err(fail)?;
        let found = match session.usable_slot(slot, plugin).await {
            Ok(found) => Some(found),
            Err(error) if *error.kind() == PgErrorKind::SlotMissing => None,
            Err(error) => return Err(fail(error)),
        };
        let former = match self.args.from_slot.as_deref() {
            None => None,
            Some(former) if former == slot => return Ok(misused(slot)),
            // Made by an earlier attempt, which may have been the last one.
            Some(former) if found.is_some() => session.slot(former).await.map_err(fail)?,
            Some(former) => Some(switch::former(former, &mut session, database).await?),
        };
        // Before the slot: what is older than the publication cannot be decoded.
        let mut is_newer = false;
        if config.plugin == Plugin::Pgoutput {
            let readers = [&found, &former];
            let is_read = readers.into_iter().flatten().any(|slot| slot.active);
            let surplus = match is_read && !self.args.prune {
                true => Surplus::Kept,
                false => Surplus::Removed,
            };
            let publishing = self.publishing(connect, session.server_version_num(), surplus);
            let made = publishing.make(&asking.client, &mut session).await?;
            is_newer = made == Made::New && found.is_some();
            if found.is_some() {
                publishing.settle(&asking.client).await?;
            }
        }
        // Before the slot, whose first transaction may be DDL.
        if self.args.ddl {
            let installed = simple_query(&asking.client, INSTALL_DDL).await;
            installed.map_err(|error| not_installed(error, connect.user(), database))?;
            print(&format!("installed the event triggers for DDL in database {database}\n"))?;
        }
        match (&found, &former) {
            (Some(_), _) => print(&format!(
                "slot {slot} is there already, for {plugin} in database {database}\n"
            ))?,
            (None, Some(former)) => {
                switch::switch(former, &mut session, &asking, slot, plugin).await?;
            }
            (None, None) => {
                let permanent = Persistence::Permanent;
                let from = create_slot(&mut session, &asking, slot, plugin, permanent).await?;
                print(&format!(
                    "made slot {slot} for {plugin} in database {database}; what is committed after \
                     {from} is invalidated\n"
                ))?;
            }
        }
        if config.replay.is_some() {
            make_replay_slot(&mut session, slot, plugin).await?;
        }
        if let Some(former) = &former {
            print(&switch::next(former, slot))?;
        }
        if is_newer { Err(newer(config)) } else { Ok(Outcome::Done) }
    }

    async fn publication_sql(self, connect: &ConnectConfig) -> anyhow::Result<String> {
        let fail = Misconfigured::or_failure;
        let asking = connect_any(connect).await.map_err(fail)?;
        let version = simple_query(&asking.client, "SHOW server_version_num").await;
        let version = version.map_err(fail)?.into_iter().flatten().flatten().next();
        let version = version.and_then(|version| version.parse().ok()).unwrap_or_default();
        // Whoever runs it knows best what is still needed.
        let surplus = if self.args.prune { Surplus::Removed } else { Surplus::Kept };
        self.publishing(connect, version, surplus).sql(&asking.client).await
    }

    fn publishing(
        self,
        connect: &'a ConnectConfig,
        server_version_num: u32,
        surplus: Surplus,
    ) -> Publishing<'a> {
        Publishing {
            name: &self.config.publication,
            rules: self.rules,
            server_version_num,
            user: connect.user(),
            database: connect.dbname(),
            surplus,
        }
    }
}

fn misused(slot: &str) -> Outcome {
    say(&format!(
        "error: --from-slot names {slot}, which is postgres.slot itself\nhint: give the new slot another \
         name in postgres.slot\n"
    ));
    Outcome::Misused
}

/// The slot was there before the publication.
fn newer(config: &PostgresConfig) -> anyhow::Error {
    let PostgresConfig { slot, publication, .. } = config;
    let drop = format!("SELECT pg_drop_replication_slot({});", literal(slot));
    let mend = match config.create_slot {
        true => {
            "walpurge run --assume-gap, once: it runs every rule's fallback for that, and makes \
                 the slot anew"
                .to_owned()
        }
        false => format!("{drop}  then walpurge setup, and walpurge run --assume-gap, once"),
    };
    anyhow!(
        "publication {publication} is newer than slot {slot}: with it pgoutput cannot read what was \
         committed between the two\nhint: {mend}"
    )
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
    persistence: Persistence,
) -> anyhow::Result<Lsn> {
    let stop = stop_signal()?;
    let cancel = format!("SELECT pg_catalog.pg_cancel_backend({})", session.process_id());
    let creation = session.create_slot_reporting(slot, plugin, persistence, &asking.client);
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
