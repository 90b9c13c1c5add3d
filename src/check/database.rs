//! Everything about Postgres, in the order in which one depends on the other.
//!
//! What depends on something that failed is not looked at, and says so as a warning: the failure
//! itself stands above it.

use tokio::time::timeout;

use super::failover::failover;
use super::finding::{Finding, Findings, Group};
use super::plugins::{Trial, plugins};
use super::publication::publication;
use super::replay::replay;
use super::replicas::replicas;
use super::server::{Server, server};
use super::slot::{Presence, not_tried, room, slot, try_other_plugin, try_plugin};
use super::{ANSWER_TIMEOUT, Targets, ddl, lookups, tables};
use crate::config::{Plugin, Visibility};
use crate::postgres::client::simple_query;
use crate::postgres::quote::identifier;
use crate::postgres::relations;
use crate::postgres::{
    ConnectConfig, Encryption, OrdinaryConnection, PgError, PgErrorKind, ReplicationSession,
    SystemIdentity, connect_any, connect_client, server_identity,
};
use crate::snapshot::Snapshot;

/// Looks at the server, the slot, the barrier and the tables.
pub(super) async fn database(targets: Targets<'_>) -> Vec<Finding> {
    let mut findings = Findings::new(Group::Postgres);
    let (mut session, identity) = replication(targets.connect, &mut findings).await;
    let connection = match &session {
        Replication::Works(session) => Some(connect_client(targets.connect, session.host()).await),
        Replication::Refused => Some(connect_any(targets.connect).await),
        Replication::NoServer => None,
    };
    let connection = ordinary(connection, targets.connect, &mut findings);
    if matches!(session, Replication::Works(_)) {
        findings.ok("replication", format!("role {} may replicate", targets.connect.user()));
    }
    let Some(OrdinaryConnection { client, task: _task, .. }) = connection else {
        findings.warning("server, slot and plugin", NOT_CONNECTED, None);
        let mut skipped = Findings::new(Group::Tables);
        skipped.warning("tables", NOT_CONNECTED, None);
        return [findings.into_list(), skipped.into_list()].concat();
    };
    match bounded("ask for the server's settings", server(&client)).await {
        Ok(Some(server)) => {
            server.findings(targets.connect.application_name(), &mut findings);
            decoding(targets, &server, &client, &mut session, &mut findings).await;
        }
        Ok(None) => findings.failed("server", "its settings cannot be understood", None),
        Err(error) => findings.failed("server", told(&error), error.hint()),
    }
    barrier(targets, &client, &mut session, &mut findings).await;
    replicas(targets, identity.as_ref(), &mut findings).await;
    heartbeat(targets, &client, &mut findings).await;
    ddl::ddl(&client, targets.connect.dbname(), &mut findings).await;
    let mut found = findings.into_list();
    found.extend(of_rules(targets, &client).await);
    found
}

const NOT_CONNECTED: &str = "not looked at: there is no connection";

/// What became of the replication connection.
enum Replication {
    Works(Box<ReplicationSession>),
    /// The server answers, but this kind of connection it refuses.
    Refused,
    NoServer,
}

/// The replication connection, and who it leads to.
async fn replication(
    connect: &ConnectConfig,
    findings: &mut Findings,
) -> (Replication, Option<SystemIdentity>) {
    let opened = match ReplicationSession::connect(connect).await {
        Ok(mut session) => {
            let identity = bounded("identify the system", session.identify_system()).await;
            identity.map(|identity| (Box::new(session), identity))
        }
        Err(error) => Err(error),
    };
    match opened {
        Ok((session, identity)) => (Replication::Works(session), Some(identity)),
        Err(error) => {
            use PgErrorKind::{NoFreeWalSender, NoReplicationRight, Other, Pooler};
            let refused = matches!(
                error.kind(),
                NoReplicationRight | NoFreeWalSender | Pooler | Other { .. }
            );
            let subject = if refused { "replication" } else { "connection" };
            findings.failed(subject, told(&error), mend(&error));
            (if refused { Replication::Refused } else { Replication::NoServer }, None)
        }
    }
}

fn ordinary(
    opened: Option<Result<OrdinaryConnection, PgError>>,
    connect: &ConnectConfig,
    findings: &mut Findings,
) -> Option<OrdinaryConnection> {
    match opened? {
        Ok(connection) => {
            let encryption = match connection.host.encryption() {
                Encryption::Tls => "TLS",
                Encryption::Plain => "not encrypted",
            };
            let (user, dbname) = (connect.user(), connect.dbname());
            let message = format!("{user}@{}/{dbname}, {encryption}", connection.host);
            findings.ok("connection", message);
            Some(connection)
        }
        Err(error) => {
            findings.failed("connection", told(&error), mend(&error));
            None
        }
    }
}

/// What mends a connection that cannot be opened.
fn mend(error: &PgError) -> Option<String> {
    let unreachable = || {
        "start the server, or correct host and port in postgres.url; the server listens where \
         listen_addresses and port say"
            .to_owned()
    };
    error.hint().or_else(|| (*error.kind() == PgErrorKind::ConnectionLost).then(unreachable))
}

/// The slot, and whether one can be made and read.
async fn decoding(
    targets: Targets<'_>,
    server: &Server,
    client: &tokio_postgres::Client,
    session: &mut Replication,
    findings: &mut Findings,
) {
    let (config, dbname) = (targets.postgres, targets.connect.dbname());
    let presence: Presence = slot(client, config, dbname, server, findings).await;
    failover(client, &config.slot, server, findings).await;
    replay(client, targets, server, findings).await;
    room(server, presence, findings);
    let plugin = config.plugin;
    let tried = match session {
        _ if !server.can_decode() => {
            not_tried(plugin.name(), "the server does not decode", findings);
            Trial::Unknown
        }
        _ if server.slots.is_full() => {
            not_tried(plugin.name(), "no slot is free for it", findings);
            Trial::Unknown
        }
        Replication::Works(session) => {
            let tried = try_plugin(session, client, plugin.name(), findings).await;
            match plugin {
                Plugin::Wal2json => tried,
                Plugin::Pgoutput => {
                    try_other_plugin(session, client, Plugin::Wal2json.name()).await
                }
            }
        }
        _ => {
            not_tried(plugin.name(), "there is no replication connection", findings);
            Trial::Unknown
        }
    };
    if plugin == Plugin::Pgoutput {
        publication(client, targets, server, findings).await;
    }
    plugins(client, targets, server, &tried, findings).await;
}

/// Can an ordinary connection say what is visible on the server that streams?
async fn barrier(
    targets: Targets<'_>,
    client: &tokio_postgres::Client,
    session: &mut Replication,
    findings: &mut Findings,
) {
    const SUBJECT: &str = "barrier";
    match bounded("ask for a snapshot", snapshot(client)).await {
        Err(error) => findings.failed(SUBJECT, told(&error), error.hint()),
        Ok(false) => findings.failed(SUBJECT, "its snapshot cannot be understood", None),
        Ok(true) => match session {
            Replication::Works(session) => {
                let asking = async {
                    Ok(server_identity(client).await? == session.server_identity().await?)
                };
                match bounded("ask for the server's identity", asking).await {
                    Ok(true) => {
                        findings.ok(SUBJECT, "an ordinary connection sees the same server");
                    }
                    Ok(false) => findings.failed(
                        SUBJECT,
                        "an ordinary connection reaches another server than the replication \
                         connection",
                        "let postgres.url lead to one server, without a balancer in between"
                            .to_owned(),
                    ),
                    Err(error) => findings.failed(SUBJECT, told(&error), error.hint()),
                }
            }
            _ => {
                findings.warning(SUBJECT, "not compared: there is no replication connection", None)
            }
        },
    }
    if targets.postgres.visibility == Visibility::Skip {
        findings.warning(
            "visibility",
            "skip: a key may be removed before readers see the change, and a reader may then \
             put the old row back for good",
            "visibility = \"wait\"".to_owned(),
        );
    }
}

/// The function that writes a heartbeat, if it may be called and the server may write.
const HEARTBEAT: &str = "SELECT p.oid::pg_catalog.regprocedure, \
       pg_catalog.has_function_privilege(p.oid, 'EXECUTE') OR pg_catalog.pg_is_in_recovery() \
     FROM pg_catalog.pg_proc p \
     WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace \
       AND p.proname = 'pg_logical_emit_message' \
       AND p.proargtypes[2] = 'pg_catalog.text'::pg_catalog.regtype";

/// May our role write heartbeats? Messages of other roles need no right of ours.
async fn heartbeat(targets: Targets<'_>, client: &tokio_postgres::Client, findings: &mut Findings) {
    if targets.postgres.heartbeat.is_none() {
        return;
    }
    // A question that fails here failed above as well.
    let asked = bounded("ask for the heartbeat's right", simple_query(client, HEARTBEAT)).await;
    for row in asked.unwrap_or_default() {
        let [Some(function), Some(may)] = row.as_slice() else { continue };
        if may != "t" {
            let user = targets.connect.user();
            findings.warning(
                "heartbeat",
                format!(
                    "role {user} may not call {function}: while no table changes, nothing shows \
                     that changes would arrive"
                ),
                format!(
                    "GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {};\n\
                     or leave it out: heartbeat = \"0s\"",
                    identifier(user)
                ),
            );
        }
    }
}

/// Asks for what is visible; whether the answer is understood.
async fn snapshot(client: &tokio_postgres::Client) -> Result<bool, PgError> {
    let rows = simple_query(client, "SELECT pg_catalog.pg_current_snapshot()").await?;
    let text = rows.into_iter().flatten().flatten().next();
    Ok(text.is_some_and(|text| text.parse::<Snapshot>().is_ok()))
}

async fn of_rules(targets: Targets<'_>, client: &tokio_postgres::Client) -> Vec<Finding> {
    let rules = targets.rules;
    // A partition counts with the table that it is a part of.
    let wanted = |relation: &relations::Relation| {
        relation.parent.is_some() || tables::is_wanted(rules, relation)
    };
    let asking = async {
        let mut relations = relations::relations(client).await?;
        relations::read_columns(client, &mut relations, wanted).await?;
        Ok(relations)
    };
    match bounded("read the catalog", asking).await {
        Ok(relations) => {
            let mut findings = Findings::new(Group::Tables);
            let shapes = lookups::lookups(rules, targets.lookups, &mut findings).await;
            let mut found = tables::tables(rules, targets.postgres.plugin, &relations, &shapes);
            found.extend(findings.into_list());
            found
        }
        Err(error) => {
            let mut findings = Findings::new(Group::Tables);
            findings.failed("tables", told(&error), error.hint());
            findings.into_list()
        }
    }
}

/// An answer of the server, or the error that there is none in time.
pub(super) async fn bounded<T>(
    operation: &str,
    asking: impl Future<Output = Result<T, PgError>>,
) -> Result<T, PgError> {
    let answer = timeout(ANSWER_TIMEOUT, asking).await;
    answer.unwrap_or_else(|_| Err(PgError::timeout(operation, ANSWER_TIMEOUT)))
}

/// An error and its causes in one line.
pub(super) fn told(error: &PgError) -> String {
    let mut told = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        told.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    told
}
