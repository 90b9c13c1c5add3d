//! `replay`: a part of the log once more.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::endpoints;
use super::lanes::{Work, lanes, lookup_pool};
use super::run::{settings, stop_signal};
use super::{Misconfigured, Outcome, block_on, load, logs, print, say};
use crate::cli::{Global, ReplayArgs};
use crate::config::{Config, Kept, Loaded, state_dir};
use crate::daemon::{Asked, Mode, Refused, Replay, ReplayEnd, ReplayFailure, Seen, Start};
use crate::lsn::Lsn;
use crate::problem::nearest;
use crate::replay::Range;
use crate::rules::{Messages, rule_names};

/// How often a line tells how far it is, where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) fn replay(global: &Global, args: &ReplayArgs) -> anyhow::Result<Outcome> {
    let loaded = load(global)?;
    if let Some(misuse) = misuse(args, &loaded.config) {
        say(&format!("error: {misuse}\n"));
        return Ok(Outcome::Misused);
    }
    let bar = bar();
    match &bar {
        Some(bar) => logs::start_above(global, bar)?,
        None => logs::start(global)?,
    }
    block_on(work(loaded, args, bar))
}

/// What is asked for in a way that it cannot be done.
fn misuse(args: &ReplayArgs, config: &Config) -> Option<String> {
    if let (Some(from), Some(to)) = (args.from_lsn, args.to_lsn)
        && to < from
    {
        return Some(format!("--to-lsn {to} lies before --from-lsn {from}"));
    }
    let sinks: Vec<_> = config.sinks().map(|(name, _)| name.to_owned()).collect();
    let names = rule_names(&config.rules);
    let enabled = names.iter().zip(&config.rules).filter(|(_, rule)| rule.enabled);
    let rules: Vec<_> = enabled.map(|(name, _)| name.clone()).collect();
    let unknown = |what, wanted: &[String], known: &[String]| {
        let name = wanted.iter().find(|name| !known.contains(name))?;
        let hint = match nearest(name, known.iter().map(String::as_str)) {
            Some(known) => format!("did you mean {known}?"),
            None => format!("there are: {}", known.join(", ")),
        };
        Some(format!("there is no enabled {what} {name}\nhint: {hint}"))
    };
    unknown("sink", &args.sinks, &sinks).or_else(|| unknown("rule", &args.rules, &rules))
}

async fn work(
    loaded: Loaded,
    args: &ReplayArgs,
    bar: Option<ProgressBar>,
) -> anyhow::Result<Outcome> {
    let stop = stop_signal()?;
    let Loaded { config, mut rules, .. } = loaded;
    let mut settings = settings(&config.postgres, Mode::Live)?;
    settings.heartbeat = None;
    if !args.rules.is_empty() {
        rules.keep(&args.rules);
        settings.messages = Messages::Off;
    }
    let state_dir = state_dir(&config);
    // Invalidations under way are the daemon's; what is charged counts for both.
    let kept = Kept::charges(state_dir.as_deref());
    let sinks = endpoints::sinks(&config, kept).into_iter().collect::<Result<Vec<_>, _>>()?;
    let rules = Arc::new(rules);
    let pool = lookup_pool(&config.postgres, &rules)?;
    let is_asked =
        |sink: &str| args.sinks.is_empty() || args.sinks.iter().any(|asked| asked == sink);
    let (lanes, routes) = lanes(&config, sinks, &rules, pool.as_ref(), |sink| match args.dry_run {
        _ if !is_asked(sink) => Work::Left,
        true => Work::Shown,
        false => Work::Done,
    });
    let from = match (args.from_lsn, args.since) {
        (Some(lsn), _) => Start::Lsn(lsn),
        (None, since) => Start::Since(since.unwrap_or_default()),
    };
    let asked = Asked { from, to_lsn: args.to_lsn };
    let mut replay = Replay::new(settings, rules, lanes, routes, state_dir);
    let shower = std::cell::RefCell::new(Shower { bar, range: None, said: Instant::now() });
    let ended = replay
        .run(
            &asked,
            stop,
            |range| shower.borrow_mut().start(range),
            |seen| shower.borrow_mut().show(seen),
        )
        .await;
    let range = shower.into_inner().finish();
    if ended.is_ok() || range.is_some() {
        print(&summary(&replay, args, is_asked))?;
    }
    match ended {
        Ok(ReplayEnd::Done) => Ok(Outcome::Done),
        Ok(ReplayEnd::Interrupted) => {
            say(&format!("interrupted{}\n", go_on(&replay, range)));
            Ok(Outcome::Failed)
        }
        Err(ReplayFailure::Refused(refused)) => {
            let keeps = config.postgres.replay.is_some();
            say(&format!("error: {refused}\nhint: {}\n", mend(&refused, keeps)));
            Ok(Outcome::Failed)
        }
        Err(ReplayFailure::Postgres(error)) => {
            let error = Misconfigured::or_failure(error);
            Err(match range {
                None => error,
                Some(_) => error.context(format!("the replay broke off{}", go_on(&replay, range))),
            })
        }
    }
}

/// What can be asked for instead.
fn mend(refused: &Refused, keeps: bool) -> String {
    let more = match keeps {
        true => "; a longer postgres.replay.window keeps more from now on",
        false => "; [postgres.replay] keeps more from now on",
    };
    format!("walpurge replay --from-lsn {}{more}", refused.oldest_lsn)
}

/// How the rest can be had.
fn go_on(replay: &Replay, range: Option<Range>) -> String {
    let Some(range) = range else { return String::new() };
    let done = replay.dispatcher().plan().confirmed_lsn().max(range.from_lsn);
    format!("; go on with: walpurge replay --from-lsn {done} --to-lsn {}", range.to_lsn)
}

/// "replayed 12 transactions, 340 changes: cache 512 actions".
fn summary(replay: &Replay, args: &ReplayArgs, is_asked: impl Fn(&str) -> bool) -> String {
    let Seen { transactions, changes, .. } = replay.seen();
    let what = if args.dry_run { "would replay" } else { "replayed" };
    let (transactions, changes) =
        (counted(transactions, "transaction"), counted(changes, "change"));
    let done = replay.dispatcher().done_by_sink();
    let sinks = done.iter().filter(|(sink, _)| is_asked(sink));
    let sinks: Vec<_> =
        sinks.map(|(sink, actions)| format!("{sink} {}", counted(*actions, "action"))).collect();
    let given_up = match replay.dispatcher().done().rejected {
        0 => String::new(),
        rejected => format!("; given up: {}", counted(rejected, "action")),
    };
    format!("{what} {transactions}, {changes}: {}{given_up}\n", sinks.join(", "))
}

fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn bar() -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template("[{bar:30}] {percent:>3} %  {msg}");
    let style = style.map(|style| style.progress_chars("=> ")).ok()?;
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
    Some(bar.with_style(style))
}

/// Shows how far it is: a bar on a terminal, else a line now and then.
struct Shower {
    bar: Option<ProgressBar>,
    range: Option<Range>,
    said: Instant,
}

impl Shower {
    fn start(&mut self, range: Range) {
        self.range = Some(range);
        if let Some(bar) = &self.bar {
            bar.set_length(bytes_of(range).max(1));
        }
    }

    fn show(&mut self, seen: Seen) {
        let Some(range) = self.range else { return };
        let done = reached(range, seen.received_lsn);
        let transactions = counted(seen.transactions, "transaction");
        let changes = counted(seen.changes, "change");
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(format!("{transactions}, {changes}"));
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            let percent = done * 100 / bytes_of(range).max(1);
            say(&format!("{percent} %: {transactions}, {changes}\n"));
        }
    }

    fn finish(self) -> Option<Range> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.range
    }
}

fn bytes_of(range: Range) -> u64 {
    range.end_lsn.0.saturating_sub(range.from_lsn.0)
}

fn reached(range: Range, received_lsn: Lsn) -> u64 {
    received_lsn.0.saturating_sub(range.from_lsn.0).min(bytes_of(range))
}
