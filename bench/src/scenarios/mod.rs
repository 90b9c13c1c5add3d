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
    pub(crate) run: fn() -> Result<Section>,
}

/// All of them, in the order in which they run.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "drain",
        title: "Draining a backlog",
        about: "small transactions that wait in the slot, beside pg_recvlogical",
        run: drain::run,
    },
    Scenario {
        name: "shapes",
        title: "Backlogs of other shapes",
        about: "wide rows, many tables, many rules, beside pg_recvlogical",
        run: shapes::run,
    },
    Scenario {
        name: "growth",
        title: "Backlogs that grow",
        about: "the cost of a change in ever longer backlogs",
        run: growth::run,
    },
    Scenario {
        name: "script",
        title: "Beside a script",
        about: "a backlog beside a loop of psycopg2 and redis-py",
        run: script::run,
    },
    Scenario {
        name: "redelete",
        title: "Draining a backlog that is deleted again",
        about: "the same backlog with and without redelete_after",
        run: redelete::run,
    },
    Scenario {
        name: "huge",
        title: "One huge transaction",
        about: "memory with a healthy and with a stalled Redis",
        run: huge::run,
    },
    Scenario {
        name: "streaming",
        title: "One huge transaction, before its commit",
        about: "what pgoutput's streaming would save",
        run: streaming::run,
    },
    Scenario {
        name: "latency",
        title: "From the commit's reply to the key's end",
        about: "one commit at a time, beside the application's own UNLINK",
        run: latency::run,
    },
    Scenario {
        name: "busy",
        title: "From the commit's reply to the key's end, on a busy server",
        about: "one commit at a time beside 5,000 others a second",
        run: busy::run,
    },
    Scenario {
        name: "idle",
        title: "Nothing to do",
        about: "processor and memory of an idle daemon",
        run: idle::run,
    },
    Scenario {
        name: "rules",
        title: "Decoding, matching and rendering",
        about: "one update against few and many rules, without any server",
        run: rules::run,
    },
    Scenario {
        name: "cdn",
        title: "One transaction that changes very many pages",
        about: "requests, what is charged, memory, and who waits meanwhile",
        run: cdn::run,
    },
    Scenario {
        name: "redis",
        title: "The Redis sink by itself",
        about: "its rate beside redis-benchmark and raw commands, and what is huge",
        run: redis::run,
    },
];
