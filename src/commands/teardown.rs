//! `teardown`: drops the slot and the one for replays, with the WAL that they hold, the publication and
//! the event triggers for DDL; or only a slot that a switch has left behind.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, anyhow};

use super::endpoints::connect_config;
use super::{Misconfigured, Outcome, block_on, load, print, say};
use crate::amount::bytes;
use crate::cli::{Global, TeardownArgs};
use crate::config::{Plugin, PostgresConfig, replay_slot};
use crate::postgres::client::simple_query;
use crate::postgres::publication::{Found, remove_publication};
use crate::postgres::quote::{identifier, literal};
use crate::postgres::{
    ConnectConfig, DdlTriggers, OrdinaryConnection, PgErrorKind, REMOVE_DDL, ReplicationSession,
    SlotInfo, connect_client, ddl_triggers,
};

pub(super) fn teardown(global: &Global, args: &TeardownArgs) -> anyhow::Result<Outcome> {
    let config = load(global)?.config.postgres;
    match args.slot.as_deref() {
        Some(slot) if slot == config.slot => {
            say(&format!(
                "error: {slot} is postgres.slot itself; nothing is changed\nhint: leave --slot out, and \
                 everything that walpurge setup made is dropped\n"
            ));
            return Ok(Outcome::Misused);
        }
        Some(slot) if args.print => print(&slots_sql(slot, "('wal2json', 'pgoutput')"))?,
        None if args.print => print(&sql(&config))?,
        Some(slot) => {
            let connect = connect_config(&config)?;
            return block_on(remove_former(slot, &config, &connect, args.yes));
        }
        None => {
            let connect = connect_config(&config)?;
            return block_on(remove(&config, &connect, args.yes));
        }
    }
    Ok(Outcome::Done)
}

/// A slot and the one for replays beside it, if they are for one of these plugins.
fn slots_sql(slot: &str, plugins: &str) -> String {
    let (slot, replay) = (literal(slot), literal(&replay_slot(slot)));
    format!(
        "-- The WAL that the slot, and the one for replays, hold goes with them.\n\
         SELECT slot_name, pg_catalog.pg_drop_replication_slot(slot_name)\n\
         FROM pg_catalog.pg_replication_slots\n\
         WHERE slot_name IN ({slot}, {replay}) AND plugin IN {plugins}\n    \
             AND database = current_database();\n"
    )
}

/// The same as SQL: each part may be run again.
fn sql(config: &PostgresConfig) -> String {
    let slots = slots_sql(&config.slot, &format!("({})", literal(config.plugin.name())));
    let publication = match config.plugin {
        Plugin::Wal2json => String::new(),
        Plugin::Pgoutput => format!(
            "-- The publication, if walpurge setup made it: for its owner.\n{}\n",
            remove_publication(&config.publication)
        ),
    };
    format!(
        "-- Removes what walpurge setup made, in the database that postgres.url names. Stop walpurge\n\
         -- first; it makes the slot anew at its next start.\n\n\
         {slots}\n{publication}\
         -- The event triggers, for a superuser; other walpurges of this database lose them too.\n\
         {REMOVE_DDL}"
    )
}

/// Drops a slot that a switch has left behind, once the configured one has come past it.
async fn remove_former(
    name: &str,
    config: &PostgresConfig,
    connect: &ConnectConfig,
    is_sure: bool,
) -> anyhow::Result<Outcome> {
    let fail = Misconfigured::or_failure;
    let mut session = ReplicationSession::connect(connect).await.map_err(fail)?;
    let slot = session.slot(name).await.map_err(fail)?;
    let replay = session.slot(&replay_slot(name)).await.map_err(fail)?;
    let Some(slot) = slot else {
        print(&format!("there is no slot {name}\n"))?;
        return drop_replay(replay, &mut session).await.map(|()| Outcome::Done);
    };
    let plugin = slot.plugin.clone().unwrap_or_default();
    for slot in std::iter::once(&slot).chain(&replay) {
        droppable(slot, &plugin, connect.dbname())?;
    }
    let now = session.usable_slot(&config.slot, config.plugin.name()).await.map_err(fail)?;
    if now.confirmed_flush_lsn < slot.confirmed_flush_lsn {
        let at = |slot: &SlotInfo| slot.confirmed_flush_lsn.unwrap_or_default();
        return Err(anyhow!(
            "slot {} stands at {}, and slot {name} at {}: what is between the two is not done with the \
             new one; nothing is changed\nhint: let walpurge run with this configuration, and try again",
            config.slot,
            at(&now),
            at(&slot)
        ));
    }
    let held = held(&slot, &mut session).await;
    if !is_sure && let Some(outcome) = refused(&ask(&slot, &held)?) {
        return Ok(outcome);
    }
    session.drop_slot(name).await.map_err(fail)?;
    print(&format!("dropped slot {name}, which held {held}\n"))?;
    drop_replay(replay, &mut session).await?;
    Ok(Outcome::Done)
}

async fn drop_replay(
    slot: Option<SlotInfo>,
    session: &mut ReplicationSession,
) -> anyhow::Result<()> {
    let Some(slot) = slot else { return Ok(()) };
    let held = held(&slot, session).await;
    session.drop_slot(&slot.name).await.map_err(Misconfigured::or_failure)?;
    print(&format!("dropped slot {}, which held {held} for replays\n", slot.name))
}

async fn remove(
    config: &PostgresConfig,
    connect: &ConnectConfig,
    is_sure: bool,
) -> anyhow::Result<Outcome> {
    let fail = Misconfigured::or_failure;
    let mut session = ReplicationSession::connect(connect).await.map_err(fail)?;
    let asking = connect_client(connect, session.host()).await.map_err(fail)?;
    let triggers = ddl_triggers(&asking.client).await.map_err(fail)?;
    let slot = session.slot(&config.slot).await.map_err(fail)?;
    // Whether or not the configuration still asks for it: nobody else would drop it.
    let replay = session.slot(&replay_slot(&config.slot)).await.map_err(fail)?;
    let replay = replay.filter(|slot| {
        let usable = slot.usable_for(config.plugin.name(), connect.dbname());
        matches!(usable, Ok(()) | Err(PgErrorKind::SlotLost))
    });
    for slot in slot.iter().chain(&replay) {
        droppable(slot, config.plugin.name(), connect.dbname())?;
    }
    if let Some(slot) = &slot {
        let held = held(slot, &mut session).await;
        if !is_sure && let Some(outcome) = refused(&ask(slot, &held)?) {
            return Ok(outcome);
        }
        session.drop_slot(&slot.name).await.map_err(fail)?;
        print(&format!("dropped slot {}, which held {held}\n", slot.name))?;
    }
    let has_slots = slot.is_some() || replay.is_some();
    drop_replay(replay, &mut session).await?;
    // What cannot be removed keeps nothing else from it.
    let mut left = Vec::new();
    let publication = match config.plugin {
        Plugin::Wal2json => false,
        Plugin::Pgoutput => {
            let version = session.server_version_num();
            let dropped = drop_publication(&config.publication, &asking, version, connect).await;
            dropped.unwrap_or_else(|error| {
                left.push(error);
                true
            })
        }
    };
    if triggers != DdlTriggers::Missing {
        left.extend(remove_triggers(&asking, connect).await.err());
    } else if !has_slots && !publication {
        print(&format!(
            "nothing to remove: there is neither a slot {} nor an event trigger of walpurge\n",
            config.slot
        ))?;
    }
    told(left)
}

/// What stays, all together.
fn told(mut left: Vec<anyhow::Error>) -> anyhow::Result<Outcome> {
    match left.len() {
        0 => Ok(Outcome::Done),
        1 => Err(left.remove(0)),
        _ => {
            let left: Vec<_> = left.iter().map(|error| format!("{error:#}")).collect();
            Err(anyhow!("{}", left.join("\nerror: ")))
        }
    }
}

async fn remove_triggers(
    asking: &OrdinaryConnection,
    connect: &ConnectConfig,
) -> anyhow::Result<()> {
    simple_query(&asking.client, REMOVE_DDL).await.map_err(|error| {
        anyhow!(
            "the event triggers for DDL stay: {:#}\nhint: let a superuser run the SQL: walpurge \
             teardown --print | psql -v ON_ERROR_STOP=1 -U postgres -d {}",
            anyhow::Error::from(error),
            connect.dbname()
        )
    })?;
    print("removed the event triggers for DDL\n")
}

/// Drops the publication if it is ours; whether there was one.
async fn drop_publication(
    name: &str,
    asking: &OrdinaryConnection,
    server_version_num: u32,
    connect: &ConnectConfig,
) -> anyhow::Result<bool> {
    let fail = Misconfigured::or_failure;
    let found = Found::read(&asking.client, name, server_version_num).await.map_err(fail)?;
    let Some(found) = found else { return Ok(false) };
    if !found.is_ours() {
        let owner = found.owner;
        print(&format!("publication {name} stays: {owner} made it, and not walpurge setup\n"))?;
        return Ok(true);
    }
    simple_query(&asking.client, &remove_publication(name)).await.map_err(|error| {
        anyhow!(
            "publication {name} stays: {:#}\nhint: let {}, who owns it, or a superuser run: DROP \
             PUBLICATION {};",
            anyhow::Error::from(error),
            found.owner,
            identifier(name)
        )
        .context(format!("database {}", connect.dbname()))
    })?;
    print(&format!("dropped publication {name}\n"))?;
    Ok(true)
}

/// Whether the slot is ours, and idle.
fn droppable(slot: &SlotInfo, plugin: &str, database: &str) -> anyhow::Result<()> {
    match slot.usable(plugin, database) {
        Err(error) if *error.kind() != PgErrorKind::SlotLost => {
            return Err(Misconfigured::or_failure(error));
        }
        _ => {}
    }
    if !slot.active {
        return Ok(());
    }
    let pid = slot.active_pid.map(|pid| format!(" by pid {pid}")).unwrap_or_default();
    Err(anyhow!(
        "slot {} is in use{pid}; nothing is changed\nhint: stop the walpurge that reads it, or who \
         waits to make it, first: systemctl stop walpurge",
        slot.name
    ))
}

/// How much goes with the slot.
async fn held(slot: &SlotInfo, session: &mut ReplicationSession) -> String {
    // A standby has no end of WAL of its own.
    let end = session.current_wal_flush_lsn().await.ok();
    match (slot.restart_lsn, end) {
        (Some(restart), Some(end)) => {
            format!("{} of WAL", bytes(end.0.saturating_sub(restart.0)))
        }
        _ => "WAL".to_owned(),
    }
}

/// What became of the question.
enum Answer {
    Yes,
    No,
    NobodyThere,
}

fn ask(slot: &SlotInfo, held: &str) -> anyhow::Result<Answer> {
    if !std::io::stdin().is_terminal() {
        return Ok(Answer::NobodyThere);
    }
    let from = slot.confirmed_flush_lsn.map(|lsn| format!(" after {lsn}")).unwrap_or_default();
    say(&format!(
        "Drop slot {}, which holds {held}? What was committed{from} is then not invalidated any \
         more. [y/N] ",
        slot.name
    ));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the answer")?;
    let is_yes = matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    Ok(if is_yes { Answer::Yes } else { Answer::No })
}

/// How the command ends, unless the answer is yes.
fn refused(answer: &Answer) -> Option<Outcome> {
    match answer {
        Answer::Yes => None,
        Answer::No => {
            say("nothing is changed\n");
            Some(Outcome::Failed)
        }
        Answer::NobodyThere => {
            say(
                "error: dropping a slot gives up the WAL that it holds, and there is no terminal to \
                 ask on; nothing is changed\nhint: walpurge teardown --yes\n",
            );
            Some(Outcome::Misused)
        }
    }
}
