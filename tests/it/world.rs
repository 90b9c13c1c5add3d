//! A private Postgres, a private Redis, and the daemon between them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use testkit::TestDir;
use testkit::postgres::{Postgres, Session};
use testkit::process::{Process, Signal};
use testkit::redis::Redis;
use testkit::wait_until;

/// How long anything may take that should be a matter of milliseconds, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The output plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    Wal2json,
    Pgoutput,
}

impl Plugin {
    /// The one that `PLUGIN` in the environment names: any test can be tried with either.
    pub fn asked() -> Self {
        match std::env::var("PLUGIN").as_deref() {
            Err(_) | Ok("" | "wal2json") => Plugin::Wal2json,
            Ok("pgoutput") => Plugin::Pgoutput,
            Ok(other) => panic!("PLUGIN={other}: wal2json and pgoutput are known"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Plugin::Wal2json => "wal2json",
            Plugin::Pgoutput => "pgoutput",
        }
    }
}

pub struct World {
    pub pg: Postgres,
    pub redis: Redis,
    pub dir: TestDir,
    pub daemon: Option<Process>,
    /// What the daemon is to do wrong.
    pub failpoint: Option<&'static str>,
    /// Its state directory, unless the configuration names one.
    pub state: Option<PathBuf>,
    /// Variables of the daemon's environment.
    pub env: Vec<(&'static str, &'static str)>,
    /// Where its admin socket is, if anywhere.
    pub runtime: Option<PathBuf>,
    config: String,
}

/// Rows to be counted, and a key for each.
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int);
    INSERT INTO t SELECT generate_series(1, 100)";

const RULE: &str = r#"
[[rule]]
name = "t"
table = "public.t"
delete = ["key:{id}"]
"#;

impl World {
    /// A table `t` of a hundred rows, and a rule that deletes `key:1` and so on.
    pub fn plain() -> Self {
        World::new(TABLE, RULE)
    }

    /// Servers, the tables that `sql` makes, and a slot at the end of it. The daemon's role may
    /// log in and replicate, nothing else.
    pub fn new(sql: &str, rules: &str) -> Self {
        Self::with(Postgres::start(), persistent_redis(), sql, rules)
    }

    /// The same with a plugin; pgoutput gets a publication of all tables.
    pub fn of(plugin: Plugin, sql: &str, rules: &str) -> Self {
        Self::with_plugin(plugin, Postgres::start(), persistent_redis(), sql, rules)
    }

    pub fn with(pg: Postgres, redis: Redis, sql: &str, rules: &str) -> Self {
        Self::with_plugin(Plugin::asked(), pg, redis, sql, rules)
    }

    pub fn with_plugin(plugin: Plugin, pg: Postgres, redis: Redis, sql: &str, rules: &str) -> Self {
        pg.create_role_replication("walpurge");
        if !sql.is_empty() {
            pg.psql("postgres", sql);
        }
        let section = match plugin {
            Plugin::Wal2json => "",
            Plugin::Pgoutput => {
                pg.psql("postgres", "CREATE PUBLICATION walpurge FOR ALL TABLES");
                "plugin = \"pgoutput\"\n"
            }
        };
        let name = plugin.name();
        let slot = format!("SELECT pg_create_logical_replication_slot('walpurge', '{name}')");
        pg.psql("postgres", &slot);
        let config = format!(
            "[postgres]\nurl = \"{}\"\n{section}[redis.cache]\nurl = \"{}\"\n{rules}",
            pg.url("walpurge", "postgres"),
            redis.url()
        );
        let dir = TestDir::new("world");
        let state = Some(dir.join("state"));
        let (daemon, failpoint, env, runtime) = (None, None, Vec::new(), None);
        World { pg, redis, dir, daemon, failpoint, state, env, runtime, config }
    }

    /// Changes the configuration before the daemon is started.
    pub fn edit(&mut self, from: &str, to: &str) {
        assert!(self.config.contains(from), "nothing to edit");
        self.config = self.config.replace(from, to);
    }

    pub fn config_file(&self) -> PathBuf {
        let path = self.dir.join("config.toml");
        // At once, since another daemon may be reading it, and another thread writing it.
        let thread = std::thread::current().id();
        let unfinished = self.dir.join(format!("config.toml.{thread:?}"));
        std::fs::write(&unfinished, &self.config).unwrap();
        std::fs::rename(unfinished, &path).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walpurge"));
        command.args(args).arg("--config").arg(self.config_file());
        command.env_remove("WALPURGE_LOG").env("RUST_BACKTRACE", "1");
        command.env_remove("STATE_DIRECTORY").env_remove("RUNTIME_DIRECTORY");
        if let Some(runtime) = &self.runtime {
            command.env("RUNTIME_DIRECTORY", runtime);
        }
        if let Some(state) = &self.state {
            command.env("STATE_DIRECTORY", state);
        }
        command.envs(self.env.iter().copied());
        if let Some(failpoint) = self.failpoint {
            command.env("WALPURGE_FAILPOINT", failpoint);
        }
        command
    }

    /// Starts the daemon and waits until it streams.
    pub fn start(&mut self) {
        self.spawn(&["run", "--log", "debug"]);
        self.wait_for_log("following the write-ahead log");
    }

    pub fn spawn(&mut self, args: &[&str]) {
        let log = self.dir.join("walpurge.log");
        let command = self.command(args);
        self.daemon = Some(Process::spawn("walpurge", command, &log, Signal::KILL).unwrap());
    }

    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) {
        let daemon = self.daemon.as_mut().expect("a daemon");
        let found = testkit::holds_within(PATIENCE, || daemon.log().contains(text));
        assert!(found, "never logged {text:?}\n{}", daemon.log());
    }

    pub fn log(&self) -> String {
        self.daemon.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The log without each single invalidation.
    pub fn news(&self) -> String {
        let log = self.log();
        let lines = log.lines().filter(|line| !line.contains("DEBUG"));
        lines.collect::<Vec<_>>().join("\n")
    }

    pub fn kill_9(&mut self) {
        self.daemon.take().expect("a daemon").kill_9();
    }

    /// Stops the daemon as systemd does.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon");
        daemon.signal(Signal::TERM);
        let status = daemon.wait(PATIENCE).expect("the daemon stops");
        assert!(status.success(), "{status}\n{}", daemon.log());
    }

    pub fn sql(&self, sql: &str) -> String {
        self.pg.psql("postgres", sql)
    }

    /// Fills keys as an application does.
    pub fn fill(&self, keys: &[&str]) {
        for key in keys {
            self.redis.set(key, "cached");
        }
    }

    #[track_caller]
    pub fn wait_gone(&self, keys: &[&str]) {
        for key in keys {
            let gone = testkit::holds_within(PATIENCE, || !self.redis.exists(key));
            assert!(gone, "{key:?} is still cached\n{}", self.log());
        }
    }

    /// From now on a commit is streamed and not visible, if its session asks for that.
    pub fn hide_commits(&self) -> Session {
        self.sql("ALTER DATABASE postgres SET synchronous_commit = local");
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'ghost'");
        self.sql("SELECT pg_reload_conf()");
        let mut session = self.pg.session("postgres", "postgres");
        session.run("SET synchronous_commit = on");
        session
    }

    /// What was hidden is visible.
    pub fn show_commits(&self, mut hidden: Session) {
        self.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
        self.sql("SELECT pg_reload_conf()");
        hidden.finish(PATIENCE).expect("the commit ends").unwrap();
    }

    /// Everything that was committed until now is confirmed.
    #[track_caller]
    pub fn wait_confirmed(&self) {
        let end = self.pg.current_lsn();
        wait_until("everything is confirmed", PATIENCE, || self.pg.has_confirmed("walpurge", &end));
    }

    #[track_caller]
    pub fn assert_cached(&self, keys: &[&str]) {
        for key in keys {
            assert!(self.redis.exists(key), "{key:?} is gone\n{}", self.log());
        }
    }
}

fn persistent_redis() -> Redis {
    Redis::builder().persistent().start()
}
