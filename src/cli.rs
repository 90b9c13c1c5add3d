//! The command line: what can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::lsn::Lsn;

/// Removes from Redis and the CDN what a committed Postgres transaction made stale.
#[derive(Debug, Parser)]
#[command(name = "walpurge", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// The configuration file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "WALPURGE_CONFIG",
        default_value = "/etc/walpurge/config.toml"
    )]
    pub config: PathBuf,
    /// What to log: error, warn, info, debug, or a filter like walpurge::postgres=debug
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "WALPURGE_LOG",
        default_value = "info"
    )]
    pub log: String,
    /// How to log
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "WALPURGE_LOG_FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text
    Text,
    /// One JSON object a line
    Json,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow the write-ahead log and invalidate: the daemon
    Run(RunArgs),
    /// Find mistakes in the configuration and in what it points to
    Check(CheckArgs),
    /// Print the actions that wal2json lines would cause, without any network
    Explain(ExplainArgs),
    /// Invalidate once more what was committed since a time or position, while `run` runs on
    Replay(ReplayArgs),
    /// Show how it is doing: the slot, the lag, each sink; asks the daemon, or Postgres without one
    Status(StatusArgs),
    /// Follow single invalidations of the running daemon
    Tail(TailArgs),
    /// Make the publication for pgoutput, the replication slot and, with --ddl, event triggers for
    /// DDL that changes rows
    Setup(SetupArgs),
    /// Drop the replication slot, the WAL that it holds, the publication and the event triggers
    Teardown(TeardownArgs),
    /// Look at what was given up on: messages and actions that can never succeed
    Parked(ParkedArgs),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Work on a temporary copy of the slot, log actions instead of sending them, confirm nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take what was committed until now for lost, once: run every rule's fallback and make the slot
    /// anew, even with on_gap = "halt"
    #[arg(long, conflicts_with = "dry_run")]
    pub assume_gap: bool,
}

/// Options of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The first commit record, like 16/B374D848
    #[arg(long, value_name = "LSN", required_unless_present = "since", conflicts_with = "since")]
    pub from_lsn: Option<Lsn>,
    /// What was committed so long ago or later, like 30m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// The last commit record [default: the end of the log when the replay starts]
    #[arg(long, value_name = "LSN")]
    pub to_lsn: Option<Lsn>,
    /// Only this sink; may be given again [default: every sink]
    #[arg(long = "sink", value_name = "NAME")]
    pub sinks: Vec<String>,
    /// Only this rule, and no messages; may be given again [default: every rule, and messages]
    #[arg(long = "rule", value_name = "NAME")]
    pub rules: Vec<String>,
    /// Log actions instead of sending them
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Only the configuration: no network, no secrets
    #[arg(long)]
    pub offline: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Fail on warnings too
    #[arg(long)]
    pub strict: bool,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Look again every second, until Ctrl-C; a line each where it is piped
    #[arg(long)]
    pub watch: bool,
}

/// Options of `tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// Only this rule's; may be given again [default: every rule's, and messages']
    #[arg(long = "rule", value_name = "NAME")]
    pub rules: Vec<String>,
    /// Only for this sink; may be given again [default: every sink]
    #[arg(long = "sink", value_name = "NAME")]
    pub sinks: Vec<String>,
    /// Only from changes of this table, as in public.products; may be given again
    #[arg(long = "table", value_name = "NAME")]
    pub tables: Vec<String>,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Options of `setup`.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// Install event triggers too, so that DROP TABLE, ALTER TABLE and partitions that come and
    /// go run the fallbacks of their tables' rules (needs a superuser, once in each database)
    #[arg(long)]
    pub ddl: bool,
    /// Make the slot so that it loses nothing of what this one brings, which a running walpurge
    /// reads with its old configuration: to change plugin or slot
    #[arg(long, value_name = "SLOT", conflicts_with = "print")]
    pub from_slot: Option<String>,
    /// Take out of the publication what the rules do not need, though a daemon reads the slot
    #[arg(long)]
    pub prune: bool,
    /// Print the SQL instead, for psql and a role with more rights; change nothing (with pgoutput
    /// it reads the catalog, else it connects to nothing)
    #[arg(long)]
    pub print: bool,
}

/// Options of `teardown`.
#[derive(Debug, Args)]
pub struct TeardownArgs {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Drop only this slot, and the one for replays beside it: what `setup --from-slot` left
    #[arg(long, value_name = "SLOT")]
    pub slot: Option<String>,
    /// Print the SQL instead, for psql and a role with more rights; connect to nothing
    #[arg(long)]
    pub print: bool,
}

/// Options of `parked`.
#[derive(Debug, Args)]
pub struct ParkedArgs {
    /// What to do with it
    #[command(subcommand)]
    pub command: ParkedCommand,
}

/// What to do with what was given up on.
#[derive(Debug, Subcommand)]
pub enum ParkedCommand {
    /// Show it, with its values
    List {
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Send the actions among it once more, while `run` may run on; messages are only listed
    Retry {
        /// Only to this sink; may be given again [default: every sink]
        #[arg(long = "sink", value_name = "NAME")]
        sinks: Vec<String>,
    },
    /// Forget it
    Clear,
}

/// Options of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// wal2json format 2, one object a line; `-` or none: standard input
    pub file: Option<PathBuf>,
}
