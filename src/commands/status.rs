//! `status`: how is it doing? Asked of the daemon, or of Postgres where none answers.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use secrecy::SecretString;

use super::endpoints::connect_config;
use super::{Misconfigured, Outcome, block_on, load, print, say, style};
use crate::admin::SOCKET_NAME;
use crate::admin::client::{AskError, Place};
use crate::cli::{Global, StatusArgs};
use crate::config::{CdnApi, Loaded, Plugin, admin_socket, replay_slot, state_dir};
use crate::lsn::Lsn;
use crate::parked::{file_in, read};
use crate::postgres::client::simple_query;
use crate::postgres::{
    ConnectConfig, OrdinaryConnection, PgError, PgErrorKind, SlotInfo, connect_any, server_identity,
};
use crate::replay::{Origin, read_times};
use crate::sinks::cdn::cloudfront::MonthCharges;
use crate::status::{
    ChargesStatus, ErrorStatus, Look, ReplayStatus, Role, SinkStatus, Status, line, now_seconds,
    text,
};

/// How often it is looked again.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How long Postgres may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the unit's RuntimeDirectory= puts the socket.
const USUAL_SOCKET: &str = "/run/walpurge/admin.sock";

/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) fn status(global: &Global, args: &StatusArgs) -> anyhow::Result<Outcome> {
    let loaded = load(global)?;
    let places = places(&loaded)?;
    block_on(async {
        if !args.watch {
            let status = tell(&loaded, &places).await?;
            print(&shown(&status, args)?)?;
            return Ok(Outcome::Done);
        }
        loop {
            match tell(&loaded, &places).await {
                Ok(status) => print(&shown(&status, args)?)?,
                Err(error) => say(&format!("error: {error:#}\n")),
            }
            tokio::time::sleep(WATCH_EVERY).await;
        }
    })
}

fn shown(status: &Status, args: &StatusArgs) -> anyhow::Result<String> {
    let out = std::io::stdout();
    if args.json {
        let json = match args.watch {
            true => serde_json::to_string(status),
            false => serde_json::to_string_pretty(status),
        };
        return Ok(json.context("cannot write JSON")? + "\n");
    }
    let look = Look { style: style(&out), now_seconds: now_seconds() };
    Ok(match (args.watch, out.is_terminal()) {
        (true, true) => format!("{CLEAR}{}", text(status, look)),
        (true, false) => line(status, look.now_seconds),
        (false, _) => text(status, look),
    })
}

/// Where a daemon of this configuration may be found, the likeliest first.
pub(super) fn places(loaded: &Loaded) -> Result<Vec<Place>, Misconfigured> {
    let instance = instance_socket(Path::new(&loaded.source.name));
    let sockets = [admin_socket(), instance, Some(PathBuf::from(USUAL_SOCKET))];
    let mut places: Vec<Place> = sockets.into_iter().flatten().map(Place::Socket).collect();
    if let Some(address) = loaded.config.admin.listen {
        let token = loaded.config.admin.token.as_ref().map(|token| token.resolve()).transpose();
        let token: Option<SecretString> = token.map_err(Misconfigured::secret)?;
        places.push(Place::Tcp(address, token));
    }
    Ok(places)
}

/// Where walpurge@shop puts the socket, whose file is shop.toml.
fn instance_socket(file: &Path) -> Option<PathBuf> {
    let instance = file.file_stem()?.to_str()?;
    Some(format!("/run/walpurge-{instance}/{SOCKET_NAME}").into())
}

/// The first daemon that answers and works on this configuration's slot, and what it says; `None`:
/// there is none.
pub(super) async fn daemon<'p>(
    loaded: &Loaded,
    places: &'p [Place],
) -> anyhow::Result<Option<(&'p Place, Status)>> {
    for place in places {
        let answer = match place.ask("/status").await {
            Ok(answer) => answer,
            Err(AskError::Nobody) => continue,
            Err(error) => {
                say(&format!("{place}: {:#}\n", anyhow::Error::from(error)));
                continue;
            }
        };
        let status: Status = serde_json::from_slice(&answer)
            .with_context(|| format!("{place} answers with something else than a status"))?;
        // Who may not read the URL's password may ask all the same.
        let target = connect_config(&loaded.config.postgres).map(|connect| connect.target());
        let is_there = target.map_or(true, |target| target == status.postgres.target);
        if is_there && status.postgres.slot == loaded.config.postgres.slot {
            return Ok(Some((place, status)));
        }
        let (slot, target) = (&status.postgres.slot, &status.postgres.target);
        say(&format!("{place} is a daemon of another configuration: slot {slot} at {target}\n"));
    }
    Ok(None)
}

async fn tell(loaded: &Loaded, places: &[Place]) -> anyhow::Result<Status> {
    if let Some((_, status)) = daemon(loaded, places).await? {
        return Ok(status);
    }
    let connect = connect_config(&loaded.config.postgres)?;
    let asked = tokio::time::timeout(ANSWER_TIMEOUT, from_postgres(loaded, &connect)).await;
    let asked = asked.unwrap_or_else(|_| Err(PgError::timeout("ask for the slot", ANSWER_TIMEOUT)));
    let mut status = asked.map_err(|error| {
        let told = Misconfigured::or_failure(error);
        anyhow!("no daemon answers, and neither does Postgres: {told:#}")
    })?;
    status.not_ready = status.unready();
    Ok(status)
}

/// What can be told without a daemon.
async fn from_postgres(loaded: &Loaded, connect: &ConnectConfig) -> Result<Status, PgError> {
    let config = &loaded.config.postgres;
    let state_dir = state_dir(&loaded.config);
    let connection = connect_any(connect).await?;
    let server = Server::ask(&connection).await?;
    let sinks = loaded.rules.sinks().iter().map(|sink| SinkStatus {
        name: sink.name.clone(),
        kind: sink.kind.key().to_owned(),
        charges: charges(loaded, &sink.name, state_dir.as_deref()),
        ..SinkStatus::default()
    });
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role: Role::NotRunning,
        sinks: sinks.collect(),
        ..Status::default()
    };
    count_parked(&mut status, state_dir.as_deref());
    let postgres = &mut status.postgres;
    postgres.target = connect.target();
    postgres.host = Some(connection.host.to_string());
    postgres.slot.clone_from(&config.slot);
    postgres.wal_end_lsn = Some(server.end_lsn);
    let Some(slot) = server.slot(&connection, &config.slot).await? else {
        let hint = "walpurge setup, or walpurge run, which makes it and runs every rule's fallback";
        let message = format!("there is no slot {}", config.slot);
        let error = ErrorStatus::now(message, Some(hint.to_owned()));
        postgres.error = Some(error);
        return Ok(status);
    };
    if let Err(kind) = slot.usable_for(Plugin::name(config.plugin), connect.dbname()) {
        let what = match kind {
            PgErrorKind::SlotLost => "has lost its WAL",
            PgErrorKind::SlotOfOtherPlugin { .. } => "is of another plugin",
            _ => "is of another database",
        };
        let message = format!("slot {} {what}", config.slot);
        postgres.error = Some(ErrorStatus::now(message, Some("walpurge check".to_owned())));
    }
    postgres.active_pid = slot.active_pid;
    postgres.confirmed_lsn = slot.confirmed_flush_lsn;
    let behind = |lsn: Option<Lsn>| lsn.map(|lsn| server.end_lsn.0.saturating_sub(lsn.0));
    postgres.lag_bytes = behind(slot.confirmed_flush_lsn);
    postgres.wal_held_bytes = behind(slot.restart_lsn);
    postgres.wal_left_bytes = slot.safe_wal_bytes.and_then(|bytes| u64::try_from(bytes).ok());
    let identity = server_identity(&connection.client).await?;
    let (system_id, timeline) = (identity.system_id, identity.timeline);
    let times = state_dir.and_then(|directory| {
        read_times(&directory, &Origin { system_id, timeline }).ok().flatten()
    });
    let ago = |at: i64| (server.now - at) as f64 / 1e6;
    if let (Some(times), Some(confirmed)) = (&times, slot.confirmed_flush_lsn) {
        let oldest = times.first_from(Lsn(confirmed.0.saturating_add(1)));
        postgres.lag_seconds = oldest.map(|oldest| ago(oldest.at));
    }
    let replay = replay_slot(&config.slot);
    if config.replay.is_some()
        && let Some(kept) = server.slot(&connection, &replay).await?
    {
        let from = kept.confirmed_flush_lsn.and_then(|lsn| times.as_ref()?.first_from(lsn));
        status.replay = Some(ReplayStatus {
            slot: replay,
            from_lsn: from.map(|from| from.lsn).or(kept.confirmed_flush_lsn),
            from_seconds: from.map(|from| from.at as f64 / 1e6),
            horizon_seconds: from.map(|from| ago(from.at)),
        });
    }
    Ok(status)
}

/// What the files say that a CloudFront has charged.
fn charges(loaded: &Loaded, sink: &str, state_dir: Option<&Path>) -> Option<ChargesStatus> {
    let sink = loaded.config.cdn.iter().find(|known| known.name == sink)?;
    let CdnApi::CloudFront(cloudfront) = &sink.api else { return None };
    Some(MonthCharges::read(state_dir?, &sink.name, cloudfront.paths_per_month).into())
}

fn count_parked(status: &mut Status, state_dir: Option<&Path>) {
    let Some(kept) = state_dir.and_then(|directory| read(&file_in(directory)).ok()) else { return };
    status.parked = Some(kept.records.len() as u64);
    for sink in &mut status.sinks {
        let is_its = |of: &Option<String>| of.as_deref() == Some(sink.name.as_str());
        sink.parked = kept.records.iter().filter(|record| is_its(&record.sink)).count() as u64;
    }
}

/// What the server says of itself.
struct Server {
    version_num: u32,
    end_lsn: Lsn,
    /// By its clock, in microseconds since 1970.
    now: i64,
}

impl Server {
    async fn ask(connection: &OrdinaryConnection) -> Result<Self, PgError> {
        const SQL: &str = "SELECT pg_catalog.current_setting('server_version_num'), \
            CASE WHEN pg_catalog.pg_is_in_recovery() \
                 THEN pg_catalog.pg_last_wal_replay_lsn() \
                 ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
            (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint";
        let rows = simple_query(&connection.client, SQL).await?;
        let row = rows.first().and_then(|row| {
            let [Some(version), Some(end), Some(now)] = row.as_slice() else { return None };
            let (version_num, end_lsn) = (version.parse().ok()?, end.parse().ok()?);
            Some(Server { version_num, end_lsn, now: now.parse().ok()? })
        });
        row.ok_or_else(|| PgError::new(PgErrorKind::Protocol, "ask where the log ends"))
    }

    async fn slot(
        &self,
        connection: &OrdinaryConnection,
        name: &str,
    ) -> Result<Option<SlotInfo>, PgError> {
        let sql = SlotInfo::query(self.version_num, name);
        Ok(SlotInfo::from_rows(simple_query(&connection.client, &sql).await?))
    }
}
