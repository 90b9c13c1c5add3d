//! The demo: a shop, its cache, and what walpurge removes from it as rows change.
//!
//! Everything is real: a private Postgres and Redis, the program itself as a daemon, and
//! transactions of an application that deletes no keys. It ends with failure if a key that should
//! have gone is still there, or one went that should not.

mod attribution;
mod cache;
mod interrupt;
mod screen;
mod shop;
mod story;
mod summary;
mod watch;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::attribution::attribute;
use crate::interrupt::Interrupt;
use crate::screen::Screen;
use crate::story::Step;
use crate::summary::Summary;
use crate::world::World;

fn main() -> ExitCode {
    let screen = Screen::new();
    let interrupt = match Interrupt::watch() {
        Ok(interrupt) => interrupt,
        Err(error) => return fail(&error),
    };
    // Whatever happens, the servers are stopped when this returns.
    let shown = show(&screen, &interrupt);
    match shown {
        _ if interrupt.has_come() => {
            screen.warning("\ninterrupted; everything that was started is stopped");
            ExitCode::from(130)
        }
        Ok(summary) if summary.is_right() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

fn show(screen: &Screen, interrupt: &Interrupt) -> Result<Summary> {
    screen.title("walpurge: stale cache keys go when the transaction commits");
    screen.quiet("starting a private Postgres and a private Redis …");
    let mut world = World::start()?;
    interrupt.check()?;

    screen.heading("The rules");
    screen.toml(world.rules());
    screen.heading("walpurge check");
    world.check(screen)?;
    screen.heading("The shop's changes");
    screen.quiet("The shop only reads through its cache. No line of it deletes a key.");
    world.run_daemon(interrupt)?;

    let mut summary = Summary::default();
    for (number, step) in story::steps().into_iter().enumerate() {
        screen.pause(interrupt);
        play(number + 1, &step, &mut world, screen, interrupt, &mut summary)?;
    }
    summary.survey(&mut world.cache)?;
    world.stop_daemon()?;
    summary.show(screen);
    Ok(summary)
}

/// Commits one step's transaction, and shows what goes.
fn play(
    number: usize,
    step: &Step,
    world: &mut World,
    screen: &Screen,
    interrupt: &Interrupt,
    summary: &mut Summary,
) -> Result<()> {
    world.cache.read_through(&step.gone)?;
    let versions = world.cache.values(&step.bumped)?;
    let log_from = world.daemon_log_length();
    screen.step(number, step.title);
    screen.sql(step.sql);
    screen.pause(interrupt);

    let committed: Instant = world.transact(step.sql)?;
    // First what is waited for, so that it appears at once; then whatever else the transaction
    // does, which is over when the daemon has confirmed it.
    let mut events = world.wait_for_events(step, interrupt)?;
    world.wait_confirmed(interrupt)?;
    events.extend(world.events());

    let effects = attribute(&events, &world.invalidations(log_from), committed);
    let versions = versions.into_iter().zip(world.cache.values(&step.bumped)?);
    let versions: Vec<_> = step.bumped.iter().cloned().zip(versions).collect();
    screen.effects(&effects, &versions);
    for fault in summary.take(step, &effects) {
        screen.fault(&fault);
    }
    Ok(())
}
