//! The scenarios. Another one is another file, and a line in [`SCENARIOS`].

mod busy;
mod cdn;
mod drain;
mod growth;
mod huge;
mod idle;
mod latency;
mod redelete;
mod redis;
mod rules;
mod script;
mod shapes;
mod streaming;

use anyhow::Result;

use crate::report::Section;

/// Something that is measured.
pub(crate) struct Scenario {
    /// Its name on the command line and of its file.
    pub(crate) name: &'static str,
    /// Its heading.
    pub(crate) title: &'static str,
    /// For the progress.
    pub(crate) about: &'static str,
    /// With which plugin it runs.
    pub(crate) plugins: Plugins,
    pub(crate) run: fn() -> Result<Section>,
}

/// The plugins of a scenario.
#[derive(Clone, Copy)]
pub(crate) enum Plugins {
    /// The one that `PLUGIN` names.
    Asked,
    /// Always the same: both in each call, or wal2json, or none.
    Fixed,
}

/// All of them, in the order in which they run.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "drain",
        title: "Draining a backlog",
        about: "small transactions that wait in the slot, beside pg_recvlogical",
        plugins: Plugins::Asked,
        run: drain::run,
    },
    Scenario {
        name: "shapes",
        title: "Backlogs of other shapes",
        about: "wide rows, many tables, many rules, beside pg_recvlogical",
        plugins: Plugins::Asked,
        run: shapes::run,
    },
    Scenario {
        name: "growth",
        title: "Backlogs that grow",
        about: "the cost of a change in ever longer backlogs",
        plugins: Plugins::Asked,
        run: growth::run,
    },
    Scenario {
        name: "script",
        title: "Beside a script",
        about: "a backlog beside a loop of psycopg2 and redis-py",
        plugins: Plugins::Fixed,
        run: script::run,
    },
    Scenario {
        name: "redelete",
        title: "Draining a backlog that is deleted again",
        about: "the same backlog with and without redelete_after",
        plugins: Plugins::Asked,
        run: redelete::run,
    },
    Scenario {
        name: "huge",
        title: "One huge transaction",
        about: "memory with a healthy and with a stalled Redis, with both plugins",
        plugins: Plugins::Fixed,
        run: huge::run,
    },
    Scenario {
        name: "streaming",
        title: "One huge transaction, before its commit",
        about: "what pgoutput's streaming would save",
        plugins: Plugins::Fixed,
        run: streaming::run,
    },
    Scenario {
        name: "latency",
        title: "From the commit's reply to the key's end",
        about: "one commit at a time, beside the application's own UNLINK",
        plugins: Plugins::Asked,
        run: latency::run,
    },
    Scenario {
        name: "busy",
        title: "From the commit's reply to the key's end, on a busy server",
        about: "one commit at a time beside 5,000 others a second, with both plugins",
        plugins: Plugins::Fixed,
        run: busy::run,
    },
    Scenario {
        name: "idle",
        title: "Nothing to do",
        about: "processor and memory of idle daemons of both plugins, with a sink of each kind",
        plugins: Plugins::Fixed,
        run: idle::run,
    },
    Scenario {
        name: "rules",
        title: "Decoding, matching and rendering",
        about: "one update against few and many rules, without any server",
        plugins: Plugins::Fixed,
        run: rules::run,
    },
    Scenario {
        name: "cdn",
        title: "One transaction that changes very many pages",
        about: "requests, what is charged, memory, and who waits meanwhile",
        plugins: Plugins::Asked,
        run: cdn::run,
    },
    Scenario {
        name: "redis",
        title: "The Redis sink by itself",
        about: "its rate beside redis-benchmark and raw commands, and what is huge",
        plugins: Plugins::Asked,
        run: redis::run,
    },
];
