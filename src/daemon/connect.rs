//! From nothing to a running stream: connection, identity, slot, barrier.

use std::time::Instant;

use tracing::info;

use super::Settings;
use super::history::{Found, History};
use crate::config::Plugin;
use crate::decode::{Decoder, Nulls, pgoutput, wal2json};
use crate::failpoint::Failpoint;
use crate::lsn::Lsn;
use crate::postgres::{
    AskCatalog, Asking, Barrier, ChosenHost, Format, HEARTBEAT_PREFIX, NumericFormat, Persistence,
    PgError, PgErrorKind, PgoutputOptions, PluginOptions, PublicationQuery, ReplicationSession,
    ReplicationStream, ServerIdentity, StartFailure, StartedStream, SystemIdentity, TablesQuery,
    Wal2jsonOptions, connect_client, is_too_new, known_tables, partitions, refuse_lacks,
    server_identity,
};
use crate::rules::{
    DDL_PREFIX, KnownTables, MESSAGE_PREFIX, Messages, Partitions, RuleSet, TablePattern,
    to_wal2json,
};
use crate::state::GapCause;

/// Whether the daemon works for real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Live,
    /// It reads a copy of the slot and confirms nothing.
    DryRun,
}

/// A running stream.
pub(super) struct Connected {
    pub(super) stream: ReplicationStream,
    pub(super) host: ChosenHost,
    pub(super) server: ServerIdentity,
    pub(super) barrier: Barrier,
    /// Who streams.
    pub(super) identity: SystemIdentity,
    /// Where the slot stood when it started.
    pub(super) slot_lsn: Lsn,
    /// What reads it.
    pub(super) decoder: Decoder,
    /// The rules' tables at its start.
    pub(super) tables: KnownTables,
    /// `None`: no rule names a partitioned table.
    pub(super) partitions: Option<Partitions>,
    /// What was committed before this is in both of them.
    pub(super) catalog_lsn: Lsn,
    /// The log up to there was written by then, where that matters.
    pub(super) written: Option<(Lsn, Instant)>,
}

/// What came of connecting.
pub(super) enum Attempt {
    /// The stream goes on where it stopped.
    Following(Box<Connected>),
    /// Something is missing.
    Gap(Box<Prepared>, GapCause),
}

/// A session, and what is known before its stream starts.
pub(super) struct Prepared {
    pub(super) session: ReplicationSession,
    pub(super) options: PluginOptions,
    pub(super) about: About,
}

/// What is known of a stream's server before it starts.
pub(super) struct About {
    pub(super) identity: SystemIdentity,
    pub(super) server: ServerIdentity,
    host: ChosenHost,
    tables: KnownTables,
    tables_query: TablesQuery,
    partitions: Option<Partitions>,
    written: Option<(Lsn, Instant)>,
}

/// What a publication that does not carry what the rules need means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacks {
    /// Nothing is to be started with it.
    Refused,
    /// News, which the stream takes as such.
    Taken,
}

/// Connects, and asks what the stream's options depend on.
pub(super) async fn prepare(
    settings: &Settings,
    rules: &RuleSet,
    lacks: Lacks,
) -> Result<Prepared, PgError> {
    let mut session = ReplicationSession::connect(&settings.connect).await?;
    let identity = session.identify_system().await?;
    session.refuse_to_be_waited_for(&settings.connect).await?;
    let server = session.server_identity().await?;
    let host = session.host().clone();
    let tables: Vec<_> = rules.tables().collect();
    let mut tables_query = TablesQuery::new(rules);
    if settings.plugin == Plugin::Pgoutput {
        let version_num = session.server_version_num();
        let publication = PublicationQuery::new(&settings.publication, rules, version_num);
        tables_query = tables_query.with(publication);
    }
    let (known_tables, partitions) = match settings.plugin {
        Plugin::Wal2json => read_catalog(&mut session, &mut tables_query, &tables).await?,
        Plugin::Pgoutput => {
            // Beside the stream's session: see `PublicationQuery::ask`.
            let mut beside = connect_client(&settings.connect, &host).await?;
            if server_identity(&beside.client).await? != server {
                let operation = "read the catalog of the server that streams: another one answers";
                return Err(PgError::new(PgErrorKind::ConnectionLost, operation));
            }
            read_catalog(&mut beside, &mut tables_query, &tables).await?
        }
    };
    if let Some(publication) = &known_tables.publication
        && lacks == Lacks::Refused
    {
        refuse_lacks(publication, rules)?;
    }
    // Only what is done again asks how old the log is.
    let written = match rules.redeletes().is_empty() {
        true => None,
        false => session.last_checkpoint().await?,
    };
    let options = match settings.plugin {
        Plugin::Wal2json => PluginOptions::Wal2json(Wal2jsonOptions {
            // The names of future partitions are unknown, and the list is fixed while it streams.
            tables: match partitions {
                Some(_) => String::new(),
                None => to_wal2json(&tables.into_iter().cloned().collect::<Vec<_>>()),
            },
            message_prefixes: message_prefixes(settings.messages),
            actions: Vec::new(),
            has_nulls: known_tables.may_hold_null(rules),
        }),
        Plugin::Pgoutput => {
            PluginOptions::Pgoutput(PgoutputOptions { publication: settings.publication.clone() })
        }
    };
    let tables = known_tables;
    let about = About { identity, server, host, tables, tables_query, partitions, written };
    Ok(Prepared { session, options, about })
}

async fn read_catalog(
    asked: &mut impl AskCatalog,
    query: &mut TablesQuery,
    tables: &[&TablePattern],
) -> Result<(KnownTables, Option<Partitions>), PgError> {
    Ok((known_tables(asked, query).await?, partitions(asked, tables).await?))
}

impl About {
    /// A stream that has started where its slot stands, with the barrier that belongs to it.
    pub(super) fn connected(
        self,
        settings: &Settings,
        started: StartedStream,
        slot_lsn: Lsn,
    ) -> Connected {
        let About { identity, server, host, tables, tables_query, partitions, written } = self;
        let heartbeat = settings.heartbeat.filter(|_| settings.mode == Mode::Live);
        let barrier = Barrier::start(
            settings.connect.clone(),
            host.clone(),
            server.clone(),
            heartbeat,
            tables_query,
            &settings.slot,
        );
        Connected {
            stream: started.stream,
            host,
            server,
            barrier,
            catalog_lsn: identity.flushed_lsn,
            identity,
            slot_lsn,
            decoder: decoder(started.format, settings.messages),
            tables,
            partitions,
            written,
        }
    }

    /// Says what is followed.
    pub(super) fn announce(&self, slot: &str) {
        info!(
            host = %self.host,
            database = self.identity.dbname,
            slot,
            timeline = self.identity.timeline,
            system_id = self.identity.system_id,
            "following the write-ahead log"
        );
    }
}

/// Connects, looks at the slot, and starts the stream if nothing is missing.
pub(super) async fn connect(
    settings: &Settings,
    rules: &RuleSet,
    history: &mut History,
) -> Result<Attempt, PgError> {
    // What was refused at the start is news later: the daemon is not to end for it.
    let lacks = if history.has_started { Lacks::Taken } else { Lacks::Refused };
    let Prepared { mut session, options, about } = prepare(settings, rules, lacks).await?;
    let (slot_lsn, started) = match settings.mode {
        Mode::Live => {
            match history.look(&mut session, &about.identity, &about.server, settings).await? {
                Found::Gap(cause) => {
                    return Ok(Attempt::Gap(Box::new(Prepared { session, options, about }), cause));
                }
                Found::Ours(slot_lsn) if Failpoint::OwnPosition.is_set() => {
                    let (slot, own_lsn) = (&settings.slot, history.own_lsn());
                    let started =
                        session.start_stream_from(slot, own_lsn, &options, Asking::Certain).await?;
                    (slot_lsn, started)
                }
                Found::Ours(slot_lsn) => {
                    (slot_lsn, session.start_stream(&settings.slot, &options).await?)
                }
            }
        }
        Mode::DryRun => (Lsn::ZERO, start_on_copy(session, settings, &options).await?),
    };
    history.started(&about.identity, settings, slot_lsn).await;
    about.announce(&settings.slot);
    Ok(Attempt::Following(Box::new(about.connected(settings, started, slot_lsn))))
}

fn message_prefixes(messages: Messages) -> Vec<String> {
    // Our own event triggers' are no requests.
    let mut prefixes = vec![HEARTBEAT_PREFIX.to_owned(), DDL_PREFIX.to_owned()];
    if messages != Messages::Off {
        prefixes.push(MESSAGE_PREFIX.to_owned());
    }
    prefixes
}

/// What reads a stream of that format.
fn decoder(format: Format, messages: Messages) -> Decoder {
    let nulls = match format {
        Format::Pgoutput => {
            return Decoder::Pgoutput(pgoutput::Decoder::new(message_prefixes(messages)));
        }
        Format::Wal2json(NumericFormat::Strings) => Nulls::Certain,
        Format::Wal2json(NumericFormat::Numbers) => Nulls::ByType,
    };
    Decoder::Wal2json(wal2json::Decoder::new(nulls))
}

/// Starts from a copy of the slot. A refused option costs the server a temporary slot, and us
/// another copy.
async fn start_on_copy(
    mut session: ReplicationSession,
    settings: &Settings,
    options: &PluginOptions,
) -> Result<StartedStream, PgError> {
    let slot = copy_slot(&mut session, settings).await?;
    match session.start_stream_from(&slot, Lsn::ZERO, options, Asking::Everything).await {
        Err(StartFailure { session: Some(mut session), error }) if is_too_new(&error) => {
            let slot = copy_slot(&mut session, settings).await?;
            Ok(session.start_stream_from(&slot, Lsn::ZERO, options, Asking::Certain).await?)
        }
        started => Ok(started?),
    }
}

/// A copy of the slot that ends with the session; a fresh one if there is no slot.
async fn copy_slot(
    session: &mut ReplicationSession,
    settings: &Settings,
) -> Result<String, PgError> {
    let copy = format!("{:.40}_dry_run_{}", settings.slot, std::process::id());
    match session.usable_slot(&settings.slot, settings.plugin.name()).await {
        Ok(_) => {
            session.copy_slot_temporary(&settings.slot, &copy).await?;
        }
        Err(error) if *error.kind() == PgErrorKind::SlotMissing => {
            create_slot(session, settings, &copy).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(copy)
}

async fn create_slot(
    session: &mut ReplicationSession,
    settings: &Settings,
    name: &str,
) -> Result<(), PgError> {
    let (plugin, temporary) = (settings.plugin.name(), Persistence::Temporary);
    // Only to say whom the creation waits for; it does not fail for want of that.
    match connect_client(&settings.connect, session.host()).await {
        Ok(asking) => {
            session.create_slot_reporting(name, plugin, temporary, &asking.client).await?
        }
        Err(_) => session.create_slot(name, plugin, temporary).await?,
    };
    Ok(())
}
