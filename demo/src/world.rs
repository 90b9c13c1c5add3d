//! The servers, the daemon between them, and what one can ask of them.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::TestDir;
use testkit::postgres::Postgres;
use testkit::process::{Process, Signal};
use testkit::redis::Redis;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use crate::attribution::Invalidation;
use crate::cache::Cache;
use crate::interrupt::Interrupt;
use crate::screen::Screen;
use crate::shop;
use crate::story::Step;
use crate::watch::{Event, Kind, REDIS_SETTING, Watch};

/// What should take milliseconds has gone wrong when it takes longer than this.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often an interrupt is looked for.
const GLANCE: Duration = Duration::from_millis(20);

/// Everything that runs, in the order in which it is to be stopped.
pub(crate) struct World {
    daemon: Option<Process>,
    watch: Watch,
    pub(crate) cache: Cache,
    sql: Sql,
    walpurge: PathBuf,
    dir: TestDir,
    _redis: Redis,
    _postgres: Postgres,
}

impl World {
    /// Starts the servers, makes the shop's tables and fills its cache.
    pub(crate) fn start() -> Result<Self> {
        let walpurge = program()?;
        // The bound that `check` asks for, with what a temporary directory can spare.
        let postgres = Postgres::builder().setting("max_slot_wal_keep_size", "1GB").try_start()?;
        let redis = Redis::builder().config(REDIS_SETTING.0, REDIS_SETTING.1).try_start()?;
        // All that the daemon's role may do is log in and replicate.
        postgres.create_role_replication("walpurge");
        postgres.psql("postgres", "CREATE DATABASE shop");
        postgres.psql("shop", shop::SCHEMA);
        postgres.psql("shop", "SELECT pg_create_logical_replication_slot('walpurge', 'wal2json')");

        let dir = TestDir::new("demo");
        let config = format!(
            "state_dir = {:?}\n\n[postgres]\nurl = \"{}\"\n\n[redis.cache]\nurl = \"{}\"\n\n{}",
            dir.path().display().to_string(),
            postgres.url("walpurge", "shop"),
            redis.url(),
            shop::RULES,
        );
        std::fs::write(dir.join("config.toml"), config)?;
        Ok(World {
            daemon: None,
            watch: Watch::start(&redis)?,
            cache: Cache::fill(&redis)?,
            sql: Sql::connect(&postgres.url("postgres", "shop"))?,
            walpurge,
            dir,
            _redis: redis,
            _postgres: postgres,
        })
    }

    /// The configuration's rules.
    pub(crate) fn rules(&self) -> &'static str {
        shop::RULES
    }

    /// Shows what `walpurge check` says, which must be that all is well.
    pub(crate) fn check(&self, screen: &Screen) -> Result<()> {
        let output = self.command(&["check"]).output().context("cannot start walpurge")?;
        screen.output(&String::from_utf8_lossy(&output.stdout));
        screen.output(&String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "walpurge check failed ({})", output.status);
        if output.stdout.is_empty() && output.stderr.is_empty() {
            screen.output("no complaints");
        }
        Ok(())
    }

    /// Starts the daemon and waits until it streams.
    pub(crate) fn run_daemon(&mut self, interrupt: &Interrupt) -> Result<()> {
        let command = self.command(&["run", "--log", "debug", "--log-format", "json"]);
        let log = self.dir.join("walpurge.log");
        let daemon = self.daemon.insert(Process::spawn("walpurge", command, &log, Signal::TERM)?);
        let end = Instant::now() + DEADLINE;
        while !daemon.log().contains("following the write-ahead log") {
            interrupt.check()?;
            if Instant::now() > end || !daemon.is_running() {
                bail!("{}", daemon.report());
            }
            std::thread::sleep(GLANCE);
        }
        // `check` tries every verb on keys of its own; they are no part of the story.
        drop(self.events());
        Ok(())
    }

    /// Stops the daemon as systemd does.
    pub(crate) fn stop_daemon(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        daemon.signal(Signal::TERM);
        let status = daemon.wait(DEADLINE);
        ensure!(status.is_some_and(|status| status.success()), "{}", daemon.report());
        Ok(())
    }

    /// Runs a transaction's statements; the moment when the last one's reply was here.
    pub(crate) fn transact(&self, sql: &[&str]) -> Result<Instant> {
        sql.iter().try_for_each(|statement| self.sql.run(statement).map(drop))?;
        Ok(Instant::now())
    }

    /// The events until everything that the step must do is done, or the deadline has passed.
    pub(crate) fn wait_for_events(
        &mut self,
        step: &Step,
        interrupt: &Interrupt,
    ) -> Result<Vec<Event>> {
        let gone = step.gone.iter().map(|key| (Kind::Gone, key.as_str()));
        let bumped = step.bumped.iter().map(|key| (Kind::Bumped, key.as_str()));
        let mut missing: Vec<_> = gone.chain(bumped).collect();
        let mut events = Vec::new();
        let end = Instant::now() + DEADLINE;
        while !missing.is_empty() && Instant::now() < end {
            interrupt.check()?;
            let Some(event) = self.watch.next(GLANCE) else { continue };
            missing.retain(|&(kind, key)| (kind, key) != (event.kind, event.key.as_str()));
            events.push(event);
        }
        Ok(events)
    }

    /// Waits until the daemon is through with everything that has happened in Postgres.
    pub(crate) fn wait_confirmed(&mut self, interrupt: &Interrupt) -> Result<()> {
        // What was rolled back would reach the disk only with the next commit.
        let mark = "SELECT pg_logical_emit_message(true, 'demo', '')";
        self.sql.run(mark)?;
        let lsn = self.sql.value("SELECT pg_current_wal_lsn()")?;
        let ask = format!(
            "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots \
             WHERE slot_name = 'walpurge'"
        );
        let end = Instant::now() + DEADLINE;
        while self.sql.value(&ask)? != "t" {
            interrupt.check()?;
            if Instant::now() > end {
                let report = self.daemon.as_mut().map(Process::report).unwrap_or_default();
                bail!("the daemon has not confirmed the transaction; {report}");
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// The events that have come meanwhile.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.watch.next(Duration::ZERO)).collect()
    }

    /// How much the daemon has logged.
    pub(crate) fn daemon_log_length(&self) -> usize {
        self.daemon.as_ref().map_or(0, |daemon| daemon.log().len())
    }

    /// What the daemon has logged since its log was `from` bytes long.
    pub(crate) fn invalidations(&self, from: usize) -> Vec<Invalidation> {
        let log = self.daemon.as_ref().map(Process::log).unwrap_or_default();
        let new = log.get(from..).unwrap_or_default();
        new.lines().filter_map(Invalidation::parse).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.walpurge);
        command.args(args).arg("--config").arg(self.dir.join("config.toml"));
        command.env_remove("WALPURGE_LOG").env_remove("WALPURGE_LOG_FORMAT");
        command
    }
}

/// `WALPURGE_BIN`, else the program that was built beside this one.
fn program() -> Result<PathBuf> {
    let path = match std::env::var_os("WALPURGE_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("walpurge"),
    };
    ensure!(path.exists(), "{} is not there: run `make build` first", path.display());
    Ok(path)
}

/// The shop's connection to its database.
struct Sql {
    runtime: Runtime,
    client: Client,
}

impl Sql {
    fn connect(url: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls))?;
        // Its error is the next statement's as well.
        runtime.spawn(async { drop(connection.await) });
        Ok(Sql { runtime, client })
    }

    fn run(&self, sql: &str) -> Result<Vec<tokio_postgres::SimpleQueryMessage>> {
        self.runtime.block_on(self.client.simple_query(sql)).with_context(|| sql.to_owned())
    }

    /// The first column of the first row.
    fn value(&self, sql: &str) -> Result<String> {
        let rows = self.run(sql)?;
        let value = rows.iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(value.unwrap_or_default().to_owned())
    }
}
