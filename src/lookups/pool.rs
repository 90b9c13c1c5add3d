//! A few ordinary connections, opened when they are needed and kept while they work.

use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::query::{QueryError, STATEMENT_TIMEOUT};
use crate::postgres::{ConnectConfig, OrdinaryConnection, connect_any};

/// How many connections there are at most, however many rules look something up.
pub const CONNECTIONS_MAX: usize = 4;

/// Connections that rules share. A clone is the same pool.
#[derive(Clone)]
pub struct Pool {
    config: Arc<ConnectConfig>,
    permits: Arc<Semaphore>,
    idle: Idle,
}

type Idle = Arc<Mutex<Vec<OrdinaryConnection>>>;

/// Why there is no connection.
#[derive(Debug)]
pub enum PoolError {
    /// It mends itself.
    Outage(String),
    /// A person must act.
    Refused {
        /// What happened, where.
        message: String,
        /// What mends it.
        hint: String,
    },
}

impl Pool {
    /// A pool of connections to where `config` leads.
    pub fn new(config: ConnectConfig) -> Self {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Pool { config: Arc::new(config), permits, idle: Idle::default() }
    }

    /// A connection that works, as far as is known.
    ///
    /// # Errors
    /// If none can be opened.
    pub async fn get(&self) -> Result<Connection, PoolError> {
        // Never closed.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let kept = loop {
            match self.idle().pop() {
                Some(kept) if kept.client.is_closed() => {}
                kept => break kept,
            }
        };
        let open = match kept {
            Some(kept) => kept,
            None => self.open().await?,
        };
        Ok(Connection { open: Some(open), idle: Arc::clone(&self.idle), _permit: permit })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<OrdinaryConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self) -> Result<OrdinaryConnection, PoolError> {
        let open = connect_any(&self.config).await.map_err(|error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            let message = format!("{error}{cause}");
            match (error.is_configuration(), error.hint()) {
                (true, Some(hint)) => PoolError::Refused { message, hint },
                _ => PoolError::Outage(message),
            }
        })?;
        let asked = open.client.simple_query("SELECT pg_catalog.pg_is_in_recovery()");
        let told = timeout(STATEMENT_TIMEOUT, asked).await;
        let Ok(Ok(messages)) = told else {
            return Err(PoolError::Outage(format!("no answer from {}", open.host)));
        };
        let is_standby = messages.iter().any(|message| {
            matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))
        });
        if is_standby {
            return Err(PoolError::Refused {
                message: format!("lookups reach a standby at {}, which may be behind", open.host),
                hint: "let postgres.lookup_url lead to the primary; with several hosts: \
                       target_session_attrs=read-write"
                    .to_owned(),
            });
        }
        Ok(open)
    }
}

/// A connection of a pool. It is closed when it is dropped, unless it is [kept](Self::keep).
pub struct Connection {
    open: Option<OrdinaryConnection>,
    idle: Idle,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Gives it back: everything that it was asked is answered.
    pub fn keep(mut self) {
        if let Some(open) = self.open.take() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(open);
        }
    }

    /// What runs SQL. It is there until the connection is given back, which ends it.
    pub(super) fn client(&self) -> Result<&Client, QueryError> {
        let gone = || QueryError::Lost("the connection was given back".to_owned());
        self.open.as_ref().map(|open| &open.client).ok_or_else(gone)
    }
}
