//! Connections of writers and readers, which outlive the servers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::redis::{Client, Reply};
use tokio::runtime::Runtime;
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// How long a server may be away.
const AWAY_MAX: Duration = Duration::from_secs(90);

/// A connection to Postgres.
pub struct Sql {
    runtime: Runtime,
    url: String,
    client: Option<tokio_postgres::Client>,
}

impl Sql {
    pub fn new(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Sql { runtime, url: url.to_owned(), client: None }
    }

    /// Runs statements; `None`: the connection is gone, or they have failed.
    pub fn try_rows(&mut self, sql: &str) -> Option<Vec<(String, String)>> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.connect(),
        };
        let messages = self.runtime.block_on(client.simple_query(sql)).ok()?;
        self.client = Some(client);
        let text = |row: &tokio_postgres::SimpleQueryRow, at| {
            (at < row.len()).then(|| row.get(at)).flatten().unwrap_or_default().to_owned()
        };
        let pairs = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((text(row, 0), text(row, 1))),
            _ => None,
        });
        Some(pairs.collect())
    }

    /// Runs a query until it succeeds.
    pub fn rows(&mut self, sql: &str) -> Vec<(String, String)> {
        let mut rows = None;
        testkit::wait_until("a query succeeds", AWAY_MAX, || {
            rows = self.try_rows(sql);
            rows.is_some()
        });
        rows.unwrap()
    }

    fn connect(&mut self) -> tokio_postgres::Client {
        let mut connected = None;
        testkit::wait_until("postgres is back", AWAY_MAX, || {
            connected = self.runtime.block_on(tokio_postgres::connect(&self.url, NoTls)).ok();
            connected.is_some()
        });
        let (client, connection) = connected.unwrap();
        self.runtime.spawn(connection);
        client
    }
}

/// A connection to Redis, past the proxy: what failed is over, and never happens later.
pub struct Cache {
    socket: PathBuf,
    client: Option<Client>,
}

impl Cache {
    pub fn new(socket: &Path) -> Self {
        Cache { socket: socket.to_owned(), client: None }
    }

    /// Runs commands; `None`: the server is gone.
    pub fn pipeline(&mut self, commands: &[Vec<String>]) -> Option<Vec<Reply>> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.socket).ok()?,
        };
        let replies = client.pipeline(commands).ok()?;
        self.client = Some(client);
        // While it loads its data it answers, and does nothing.
        (!replies.iter().any(Reply::is_error)).then_some(replies)
    }
}

impl Cache {
    /// Runs commands while no fault lasts.
    pub fn must(&mut self, commands: &[Vec<String>]) -> Vec<Reply> {
        // The server has been another one since.
        self.client = None;
        self.pipeline(commands).expect("redis answers")
    }
}

/// The text that a key holds.
pub fn text(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Bulk(Some(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

/// A command from its words.
pub fn command(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
