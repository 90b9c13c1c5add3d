//! What every scenario stands on: the servers, a table of items, and the daemon's configuration.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::postgres::Postgres;
use testkit::redis::{Redis, Reply};

use crate::daemon::Daemon;
use crate::sql::Sql;

/// The beginning of the names of the slots at the beginning of what is loaded, one for each plugin;
/// contenders get copies of them.
const BASE_SLOT: &str = "bench_base";

/// The output plugin of a slot and a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugin {
    Wal2json,
    Pgoutput,
}

impl Plugin {
    pub(crate) const BOTH: [Plugin; 2] = [Plugin::Wal2json, Plugin::Pgoutput];

    /// The one that `PLUGIN` names.
    pub(crate) fn asked() -> Result<Self> {
        match std::env::var("PLUGIN").as_deref() {
            Err(_) | Ok("" | "wal2json") => Ok(Plugin::Wal2json),
            Ok("pgoutput") => Ok(Plugin::Pgoutput),
            Ok(other) => bail!("PLUGIN={other}: there are wal2json and pgoutput"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Plugin::Wal2json => "wal2json",
            Plugin::Pgoutput => "pgoutput",
        }
    }
}

/// How long a drain, or anything else, may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(900);

/// Private servers with `items` rows, and as many keys to remove.
pub(crate) struct Bed {
    pub(crate) sql: Sql,
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    pub(crate) items: u64,
    pub(crate) plugin: Plugin,
    /// Behind a table in a publication: the columns that rules need, which are all called `id` here.
    pub(crate) columns: &'static str,
}

/// How the daemon waits for its transactions to be visible.
#[derive(Clone, Copy)]
pub(crate) enum Visibility {
    Wait,
    Skip,
}

impl Visibility {
    /// As the configuration has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Visibility::Wait => "wait",
            Visibility::Skip => "skip",
        }
    }
}

impl Bed {
    /// Starts the servers and makes the items 0 to `items` - 1.
    ///
    /// Nothing is fsynced, because loading would take most of the time; nobody measures a disk.
    pub(crate) fn start(items: u64) -> Result<Self> {
        let plugin = Plugin::asked()?;
        eprintln!("  starting servers with {items} items");
        let postgres = Postgres::builder()
            .fsync(false)
            .setting("autovacuum", "off")
            .setting("max_wal_size", "64GB")
            .setting("checkpoint_timeout", "1d")
            .setting("shared_buffers", "256MB")
            .setting("log_replication_commands", "on")
            .try_start()?;
        let redis = Redis::builder().config("enable-debug-command", "yes").try_start()?;
        postgres.create_role_replication("walpurge");
        let sql = Sql::connect(&postgres.url("postgres", "postgres"))?;
        sql.run(&format!(
            "CREATE TABLE items (id bigint PRIMARY KEY, slug text NOT NULL, price numeric(10, 2)
                 NOT NULL, stock int NOT NULL, updated_at timestamptz NOT NULL);
             INSERT INTO items SELECT n, 'item-number-' || n, 9.99, 5, now()
                 FROM generate_series(0, {items} - 1) n"
        ))?;
        sql.run("VACUUM (FREEZE, ANALYZE) items")?;
        sql.run("CHECKPOINT")?;
        let columns = keys_alone(&sql)?;
        sql.run(&format!("CREATE PUBLICATION walpurge FOR TABLE items{columns}"))?;
        for plugin in Plugin::BOTH {
            let name = plugin.name();
            sql.run(&format!(
                "SELECT pg_create_logical_replication_slot('{BASE_SLOT}_{name}', '{name}')"
            ))?;
        }
        Ok(Bed { sql, redis, postgres, items, plugin, columns })
    }

    /// The configuration of a daemon that follows `slot`.
    pub(crate) fn config(&self, slot: &str, visibility: Visibility) -> String {
        self.config_of(self.plugin, slot, visibility)
    }

    /// The same with a slot of that plugin.
    pub(crate) fn config_of(&self, plugin: Plugin, slot: &str, visibility: Visibility) -> String {
        let visibility = visibility.name();
        format!(
            "[postgres]\nurl = {:?}\nslot = {slot:?}\nvisibility = {visibility:?}\n\
             plugin = {:?}\n\
             [redis.cache]\nurl = {:?}\n\
             [[rule]]\ntable = \"public.items\"\ndelete = [\"item:{{id}}\"]\n",
            self.postgres.url("walpurge", "postgres"),
            plugin.name(),
            self.redis.url(),
        )
    }

    /// Makes a slot that stands where the base slot stands.
    pub(crate) fn copy_slot(&self, name: &str) -> Result<()> {
        self.copy_slot_for(self.plugin, name)
    }

    /// The same for that plugin.
    pub(crate) fn copy_slot_for(&self, plugin: Plugin, name: &str) -> Result<()> {
        self.copy_slot_of(&format!("{BASE_SLOT}_{}", plugin.name()), name)
    }

    /// Makes a slot that stands where another one stands.
    pub(crate) fn copy_slot_of(&self, slot: &str, name: &str) -> Result<()> {
        let copy = format!("SELECT pg_copy_logical_replication_slot('{slot}', '{name}')");
        self.sql.run(&copy).map(drop)
    }

    /// Makes a slot at the end of WAL.
    pub(crate) fn create_slot(&self, name: &str) -> Result<()> {
        self.create_slot_for(self.plugin, name)
    }

    /// The same for that plugin.
    pub(crate) fn create_slot_for(&self, plugin: Plugin, name: &str) -> Result<()> {
        let plugin = plugin.name();
        let create = format!("SELECT pg_create_logical_replication_slot('{name}', '{plugin}')");
        self.sql.run(&create).map(drop)
    }

    /// Drops a slot, as soon as its walsender has noticed that its client has gone.
    pub(crate) fn drop_slot(&self, name: &str) -> Result<()> {
        let is_free = format!(
            "SELECT 1 FROM pg_replication_slots
             WHERE slot_name = '{name}' AND NOT active"
        );
        self.wait("the slot is free", || Ok(self.sql.run(&is_free)?.is_some()))?;
        self.sql.run(&format!("SELECT pg_drop_replication_slot('{name}')")).map(drop)
    }

    /// The end of WAL, all of it flushed.
    pub(crate) fn end_lsn(&self) -> Result<String> {
        // A transaction of its own, so that the end is behind everything that was measured.
        self.sql.run("SELECT pg_logical_emit_message(true, 'bench', '')")?;
        self.sql.run("CHECKPOINT")?;
        self.sql.run("SELECT pg_current_wal_flush_lsn()")?.context("no LSN")
    }

    /// Puts the keys of all items into Redis, and nothing else.
    pub(crate) fn fill_keys(&self) -> Result<()> {
        let count = self.items.to_string();
        for command in [&["FLUSHALL", "SYNC"][..], &["DEBUG", "POPULATE", &count, "item"]] {
            let reply = self.redis.try_cmd(command)?;
            ensure!(!reply.is_error(), "{command:?}: {reply}");
        }
        ensure!(self.keys_left()? == self.items, "Redis has not made its keys");
        Ok(())
    }

    /// How many keys Redis holds.
    pub(crate) fn keys_left(&self) -> Result<u64> {
        match self.redis.try_cmd(&["DBSIZE"])? {
            Reply::Int(keys) => Ok(u64::try_from(keys)?),
            reply => bail!("DBSIZE: {reply}"),
        }
    }

    /// Waits until Redis holds no key.
    pub(crate) fn wait_drained(&self, daemon: &mut Daemon) -> Result<()> {
        let drained = self.wait("every key is gone", || Ok(self.keys_left()? == 0));
        drained.with_context(|| daemon.report())
    }

    /// Waits until a slot's client has confirmed everything up to `lsn`.
    pub(crate) fn wait_confirmed(&self, slot: &str, lsn: &str) -> Result<()> {
        let ask = format!(
            "SELECT 1 FROM pg_replication_slots
             WHERE slot_name = '{slot}' AND confirmed_flush_lsn >= '{lsn}'"
        );
        self.wait("everything is confirmed", || Ok(self.sql.run(&ask)?.is_some()))
    }

    /// The process that serves a slot's client.
    pub(crate) fn walsender(&self, slot: &str) -> Result<u32> {
        let ask = format!(
            "SELECT active_pid FROM pg_replication_slots
             WHERE slot_name = '{slot}' AND active_pid IS NOT NULL"
        );
        let mut pid = None;
        self.wait("the slot is in use", || {
            pid = self.sql.run(&ask)?;
            Ok(pid.is_some())
        })?;
        Ok(pid.context("no walsender")?.parse()?)
    }

    /// Waits, looking every 2 ms: seldom enough to leave the processors to the contenders.
    pub(crate) fn wait(
        &self,
        what: &str,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while !condition()? {
            ensure!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// The columns that `setup` would publish of a table whose keys are made of its `id`; Postgres has
/// such lists since 15.
fn keys_alone(sql: &Sql) -> Result<&'static str> {
    let has_lists =
        sql.run("SELECT 1 WHERE current_setting('server_version_num')::int >= 150000")?;
    Ok(if has_lists.is_some() { " (id)" } else { "" })
}
