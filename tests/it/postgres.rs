//! Connections, slots and streams on real servers.

mod auth;
mod hosts;
mod slots;
mod stream;
mod tls;

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use walpurge::postgres::{ConnectConfig, PgError, PgErrorKind, ReplicationSession};

/// How long anything may take that a server does at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

#[track_caller]
pub(crate) fn config(url: &str) -> ConnectConfig {
    ConnectConfig::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// Runs a test's future on a runtime of its own, and fails if it hangs.
#[track_caller]
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(90), test).await }).unwrap()
}

/// Opens a session and asks for its identity, as the daemon does first.
pub(crate) async fn connect(url: &str) -> Result<ReplicationSession, PgError> {
    let mut session = ReplicationSession::connect(&config(url)).await?;
    session.identify_system().await?;
    Ok(session)
}

pub(crate) async fn connected(url: &str) -> ReplicationSession {
    match connect(url).await {
        Ok(session) => session,
        Err(error) => panic!("{url}: {}", told(&error)),
    }
}

pub(crate) async fn refused(url: &str) -> PgError {
    match connect(url).await {
        Ok(session) => panic!("{url} was let in: {session:?}"),
        Err(error) => error,
    }
}

/// An error with its causes, as people get it.
pub(crate) fn told(error: &PgError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[track_caller]
pub(crate) fn assert_kind(error: &PgError, kind: &PgErrorKind, configuration: bool) {
    assert_eq!(error.kind(), kind, "{}", told(error));
    assert_eq!(error.is_configuration(), configuration, "{}", told(error));
}
