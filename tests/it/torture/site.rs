//! The servers, the daemons and the proxies between them, and what happens to them.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use testkit::postgres::Postgres;
use testkit::process::{Process, Signal};
use testkit::proxy::Proxy;
use testkit::redis::Redis;
use testkit::wait_until;

use super::plan::{Link, Step};
use super::shop;
use crate::world::{Plugin, World};

/// How long a daemon may take to stop, with a sink that does not answer and a server that does not
/// listen, and to catch up when everything works again.
const STOPS_WITHIN: Duration = Duration::from_secs(20);
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(90);

pub struct Site {
    pub world: World,
    postgres: Proxy,
    redis: Proxy,
    daemons: [Option<Process>; 2],
    redis_is_up: bool,
    partitions: u32,
    pub faults: BTreeMap<&'static str, u32>,
}

impl Site {
    pub fn new(plugin: Plugin, failpoint: Option<&'static str>) -> Self {
        // Nothing here loses what the kernel has.
        let pg = Postgres::builder().fsync(false).start();
        let redis = Redis::builder().persistent().start();
        let mut world = World::with_plugin(plugin, pg, redis, shop::TABLES, shop::RULES);
        let (postgres, redis) = (Proxy::to(world.pg.port()), Proxy::to(world.redis.port()));
        world.edit(
            &format!(":{}/postgres", world.pg.port()),
            &format!(":{}/postgres", postgres.port()),
        );
        world.edit(&format!(":{}/0", world.redis.port()), &format!(":{}/0", redis.port()));
        world.failpoint = failpoint;
        let mut site = Site {
            world,
            postgres,
            redis,
            daemons: [None, None],
            redis_is_up: true,
            partitions: 3,
            faults: BTreeMap::new(),
        };
        site.start_daemon(0);
        site
    }

    pub fn take(&mut self, step: Step) {
        self.assert_daemons_live();
        let is_down_already = match step {
            Step::KillDaemon(which) | Step::StopDaemon(which) => self.daemons[which].is_none(),
            Step::KillRedis | Step::FreezeRedis => !self.redis_is_up,
            _ => false,
        };
        if is_down_already {
            return;
        }
        if let Some(fault) = step.fault() {
            *self.faults.entry(fault).or_default() += 1;
        }
        match step {
            Step::KillDaemon(which) => {
                self.daemons[which].take().unwrap().kill_9();
            }
            Step::StopDaemon(which) => self.stop_daemon(which),
            Step::StartDaemon(which) => self.start_daemon(which),
            Step::KillRedis => {
                self.redis_is_up = false;
                self.world.redis.kill_9();
            }
            Step::StartRedis => self.start_redis(),
            Step::FreezeRedis => self.world.redis.pause(),
            Step::ThawRedis => self.world.redis.resume(),
            Step::RestartPostgres(mode) => {
                // It would wait for what is stalled.
                self.world.pg.resume();
                self.postgres.resume();
                self.world.pg.restart(mode);
            }
            Step::KillPostgres => {
                self.world.pg.kill_9();
                self.world.pg.start_again();
            }
            Step::PauseWalsenders => self.world.pg.pause_walsenders(),
            Step::ResumeWalsenders => self.world.pg.resume(),
            Step::Cut(link) => self.link(link).cut(),
            Step::CutAfter(link, bytes) => self.link(link).cut_after_bytes(bytes),
            Step::Stall(link) => self.link(link).stall(),
            Step::Mute(link) => self.link(link).mute(),
            Step::Resume(link) => self.link(link).resume(),
            Step::HideCommits => self.await_standby("nobody"),
            Step::ShowCommits => self.await_standby(""),
            Step::NewPartition => self.add_partition(),
        }
    }

    /// Ends every fault, and sees to it that one daemon runs.
    pub fn mend(&mut self) {
        self.world.redis.resume();
        self.start_redis();
        self.world.pg.resume();
        self.await_standby("");
        self.postgres.resume();
        self.redis.resume();
        if self.daemons.iter().all(Option::is_none) {
            self.start_daemon(0);
        }
    }

    /// Waits until everything that was committed is confirmed.
    pub fn wait_confirmed(&mut self) {
        let end = self.world.pg.current_lsn();
        let is_done = || self.world.pg.has_confirmed("walpurge", &end);
        if !testkit::holds_within(CATCHES_UP_WITHIN, is_done) {
            panic!("{end} is not confirmed\n{}", self.report());
        }
        self.assert_daemons_live();
    }

    /// The end of the daemons' logs.
    pub fn report(&mut self) -> String {
        self.daemons.iter_mut().flatten().map(Process::report).collect()
    }

    fn link(&self, link: Link) -> &Proxy {
        match link {
            Link::Postgres => &self.postgres,
            Link::Redis => &self.redis,
        }
    }

    fn start_redis(&mut self) {
        if !std::mem::replace(&mut self.redis_is_up, true) {
            self.world.redis.start_again();
        }
    }

    fn start_daemon(&mut self, which: usize) {
        if self.daemons[which].is_some() {
            return;
        }
        // One for both: else whoever was down while the other worked finds a gap, as it must, and
        // no fallback covers what messages alone ask for.
        let state = self.world.dir.join("state-of-both");
        std::fs::create_dir_all(&state).unwrap();
        let mut command = self.world.command(&["run"]);
        command.env("STATE_DIRECTORY", state);
        let log = self.world.dir.join(format!("walpurge-{which}.log"));
        self.daemons[which] =
            Some(Process::spawn("walpurge", command, &log, Signal::KILL).unwrap());
    }

    fn stop_daemon(&mut self, which: usize) {
        let Some(mut daemon) = self.daemons[which].take() else { return };
        daemon.signal(Signal::TERM);
        let status = daemon.wait(STOPS_WITHIN);
        // One that has hardly been started does not know the signal yet.
        let ended = status.is_some_and(|status| status.success() || status.signal() == Some(15));
        assert!(ended, "SIGTERM: {status:?}\n{}", daemon.report());
    }

    fn assert_daemons_live(&mut self) {
        for daemon in self.daemons.iter_mut().flatten() {
            assert!(daemon.is_running(), "it has ended by itself\n{}", daemon.report());
        }
    }

    /// Lets every commit wait for a standby of that name.
    fn await_standby(&self, name: &str) {
        let pg = &self.world.pg;
        pg.psql("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"));
        pg.psql("postgres", "SELECT pg_reload_conf()");
    }

    /// Rows of the new partition are written like all others.
    fn add_partition(&mut self) {
        // Commits that wait for a standby hold their locks on the table, and would for ever.
        self.await_standby("");
        let part = self.partitions;
        self.partitions += 1;
        // A server that dies may have committed what it has not answered.
        let sql = format!(
            "SET lock_timeout = '5s'; SET synchronous_commit = local;
             CREATE TABLE IF NOT EXISTS orders_{part} PARTITION OF orders FOR VALUES IN ({part});
             INSERT INTO orders VALUES ({}, {part}, 1) ON CONFLICT DO NOTHING;",
            2 * shop::KEPT + part as usize
        );
        wait_until("a partition is added", CATCHES_UP_WITHIN, || {
            self.world.pg.try_psql("postgres", "postgres", &sql).is_ok()
        });
    }
}
