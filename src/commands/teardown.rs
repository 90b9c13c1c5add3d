//! `teardown`: drops the slot and the one for replays, with the WAL that it holds, and the event triggers for DDL.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, anyhow};

use super::endpoints::connect_config;
use super::{Misconfigured, Outcome, block_on, load, print, say};
use crate::check::bytes;
use crate::cli::{Global, TeardownArgs};
use crate::config::{PostgresConfig, replay_slot};
use crate::postgres::client::simple_query;
use crate::postgres::quote::literal;
use crate::postgres::{
    ConnectConfig, DdlTriggers, PgErrorKind, REMOVE_DDL, ReplicationSession, SlotInfo,
    connect_client, ddl_triggers,
};

pub(super) fn teardown(global: &Global, args: &TeardownArgs) -> anyhow::Result<Outcome> {
    let config = load(global)?.config.postgres;
    if args.print {
        print(&sql(&config))?;
        return Ok(Outcome::Done);
    }
    let connect = connect_config(&config)?;
    block_on(remove(&config, &connect, args.yes))
}

/// The same as SQL: each part may be run again.
fn sql(config: &PostgresConfig) -> String {
    let (slot, plugin) = (literal(&config.slot), literal(config.plugin.name()));
    let replay = literal(&replay_slot(&config.slot));
    format!(
        "-- Removes what walpurge setup made, in the database that postgres.url names. Stop walpurge\n\
         -- first; it makes the slot anew at its next start.\n\n\
         -- The WAL that the slot, and the one for replays, hold goes with them.\n\
         SELECT slot_name, pg_catalog.pg_drop_replication_slot(slot_name)\n\
         FROM pg_catalog.pg_replication_slots\n\
         WHERE slot_name IN ({slot}, {replay}) AND plugin = {plugin}\n    \
             AND database = current_database();\n\n\
         -- The event triggers, for a superuser; other walpurges of this database lose them too.\n\
         {REMOVE_DDL}"
    )
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
        droppable(slot, config, connect.dbname())?;
    }
    if let Some(slot) = &slot {
        let held = held(slot, &mut session).await;
        if !is_sure && let Some(outcome) = refused(&ask(slot, &held)?) {
            return Ok(outcome);
        }
        session.drop_slot(&slot.name).await.map_err(fail)?;
        print(&format!("dropped slot {}, which held {held}\n", slot.name))?;
    }
    if let Some(slot) = &replay {
        let held = held(slot, &mut session).await;
        session.drop_slot(&slot.name).await.map_err(fail)?;
        print(&format!("dropped slot {}, which held {held} for replays\n", slot.name))?;
    }
    if triggers == DdlTriggers::Missing {
        if slot.is_none() && replay.is_none() {
            print(&format!(
                "nothing to remove: there is neither a slot {} nor an event trigger of walpurge\n",
                config.slot
            ))?;
        }
        return Ok(Outcome::Done);
    }
    match simple_query(&asking.client, REMOVE_DDL).await {
        Ok(_) => {
            print("removed the event triggers for DDL\n")?;
            Ok(Outcome::Done)
        }
        Err(error) => Err(anyhow!(
            "the event triggers for DDL stay: {:#}\nhint: let a superuser run the SQL: walpurge \
             teardown --print | psql -v ON_ERROR_STOP=1 -U postgres -d {}",
            anyhow::Error::from(error),
            connect.dbname()
        )),
    }
}

/// Whether the slot is ours, and idle.
fn droppable(slot: &SlotInfo, config: &PostgresConfig, database: &str) -> anyhow::Result<()> {
    match slot.usable(config.plugin.name(), database) {
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
