//! What does a daemon cost that has nothing to do?
//!
//! One of each plugin, both at once, each with a sink of every kind that has been used once, so that
//! every connection is open, and with an admin listener that nobody asks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::cdn::{CloudFront, Fastly, HttpServer, Request, Response, exchange};
use testkit::free_port;
use testkit::redis::{RedisCluster, Sentinels};

use crate::bed::{Bed, Plugin, Visibility};
use crate::daemon::Daemon;
use crate::report::{Section, Target};
use crate::size;

/// Longer than any stall of a busy machine: nobody fails over here.
const DOWN_AFTER: Duration = Duration::from_secs(600);

/// The fewest masters of which Redis makes a cluster.
const MASTERS: usize = 3;

/// One of each kind, but for the single Redis, which the bed has.
struct Sinks {
    sentinels: Sentinels,
    cluster: RedisCluster,
    fastly: Fastly,
    cloudfront: CloudFront,
    http: HttpServer,
}

/// A daemon that has nothing to do any more.
struct Idle {
    plugin: Plugin,
    daemon: Daemon,
    begun: Instant,
    cpu_seconds: f64,
    wakeups: u64,
}

pub(super) fn run() -> Result<Section> {
    let seconds = size::IDLE.get()?;
    let bed = Bed::start(1)?;
    eprintln!("  starting a sink of each kind");
    let sinks = Sinks::start();
    let mut daemons = Vec::new();
    for plugin in Plugin::BOTH {
        daemons.push((plugin, start(&bed, plugin, &sinks)?));
    }
    // Each goes to every sink once. Starting and connecting is not idleness.
    bed.sql.run("UPDATE items SET price = price + 1 WHERE id = 0")?;
    let end_lsn = bed.end_lsn()?;
    for plugin in Plugin::BOTH {
        bed.wait_confirmed(&slot(plugin), &end_lsn)?;
    }
    sinks.check_used_by(daemons.len())?;

    eprintln!("  idle for {seconds} s");
    let idle = daemons.into_iter().map(|(plugin, daemon)| Idle::begin(plugin, daemon));
    let idle = idle.collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let mut section = Section::new(
        format!(
            "A single Redis, one behind Sentinels, a cluster of {MASTERS}, Fastly, CloudFront and \
             an HTTP endpoint, all of them local and used once before; the admin listener is on, \
             and nobody asks it. A daemon of each plugin, both at once, so that each hears the \
             other's heartbeat beside its own, every 30 s; {seconds} s; CPU by the 10 ms. A \
             wake-up is a voluntary context switch of any thread."
        ),
        Value::Null,
    );
    let raw = idle.into_iter().map(|idle| idle.end(&mut section));
    let raw = raw.collect::<Result<Vec<_>>>()?;
    section.raw = json!({ "seconds": seconds, "daemons": raw });
    Ok(section)
}

fn slot(plugin: Plugin) -> String {
    format!("bench_idle_{}", plugin.name())
}

/// Starts a daemon whose only rule asks something of each sink.
fn start(bed: &Bed, plugin: Plugin, sinks: &Sinks) -> Result<Daemon> {
    let (slot, admin) = (slot(plugin), free_port());
    bed.create_slot_for(plugin, &slot)?;
    // The rule of the items is the last in the bed's configuration.
    let config = format!(
        "{}purge_keys = [\"item-{{id}}\"]\n{}[admin]\nlisten = \"127.0.0.1:{admin}\"\n",
        bed.config_of(plugin, &slot, Visibility::Wait),
        sinks.config(),
    );
    let mut daemon = Daemon::start(&config)?;
    let ready = Request { method: "GET".into(), target: "/readyz".into(), ..Request::default() };
    let is_ready = || Ok(exchange(admin, &ready).is_ok_and(|answer| answer.status == 200));
    bed.wait("the admin listener says that it is ready", is_ready)
        .with_context(|| daemon.report())?;
    Ok(daemon)
}

impl Sinks {
    fn start() -> Self {
        Sinks {
            sentinels: Sentinels::start(DOWN_AFTER),
            cluster: RedisCluster::start(MASTERS, false, DOWN_AFTER),
            fastly: Fastly::start(),
            cloudfront: CloudFront::start(),
            http: HttpServer::start(|_| Response::new(200, "")),
        }
    }

    fn config(&self) -> String {
        format!(
            "[redis.watched]\nsentinel = {}\n[redis.cluster]\ncluster = {:?}\n\
             [fastly.edge]\n{}[cloudfront.site]\n{}[http.proxy]\nurl = {:?}\n\
             headers = {{ \"xkey-purge\" = \"{{keys}}\" }}\n\
             purge_all = {{ headers = {{ \"xkey-purge\" = \"all\" }} }}\n",
            self.sentinels.toml(),
            self.cluster.urls(),
            self.fastly.settings(),
            self.cloudfront.settings(),
            self.http.url(),
        )
    }

    /// Each CDN has heard of so many daemons; of the others their commands are confirmed.
    fn check_used_by(&self, daemons: usize) -> Result<()> {
        for server in [self.fastly.server(), self.cloudfront.server(), &self.http] {
            ensure!(server.count() >= daemons, "{} was not asked by every daemon", server.url());
        }
        Ok(())
    }
}

impl Idle {
    fn begin(plugin: Plugin, daemon: Daemon) -> Result<Self> {
        let (cpu_seconds, wakeups) = (daemon.cpu_seconds()?, daemon.wakeups()?);
        Ok(Idle { plugin, daemon, begun: Instant::now(), cpu_seconds, wakeups })
    }

    fn end(self, section: &mut Section) -> Result<Value> {
        let Idle { plugin, daemon, begun, cpu_seconds, wakeups } = self;
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = daemon.cpu_seconds()? - cpu_seconds;
        let wakeups = daemon.wakeups()?.saturating_sub(wakeups) as f64 / seconds;
        let (rss, peak_rss) = (daemon.rss_mib()?, daemon.peak_rss_mib()?);
        daemon.stop()?;
        let name = plugin.name();
        let percent = 100.0 * cpu / seconds;
        section.judged(format!("{name}: CPU"), percent, " %", Target::AtMost(0.1));
        section.judged(format!("{name}: peak memory"), peak_rss, " MiB", Target::AtMost(20.0));
        section.row(format!("{name}: wake-ups a second"), format!("{wakeups:.1}"));
        Ok(json!({
            "plugin": name, "cpu_seconds": cpu, "wakeups_per_second": wakeups, "rss_mib": rss,
            "peak_rss_mib": peak_rss,
        }))
    }
}
