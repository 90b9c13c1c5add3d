//! What one change costs that does not depend on the machine, so that a test can hold it: what it
//! allocates and how many instructions it takes, on its way from the bytes that the walsender sent
//! to a batch for a sink and to the position that may be confirmed. Of a debug build, as tests are.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use walpurge::action::Action;
use walpurge::config;
use walpurge::decode::{Decoder, Event, pgoutput, wal2json};
use walpurge::lsn::Lsn;
use walpurge::pipeline::{LaneId, Manner, Plan, PlannedLane, Routes, Stage};
use walpurge::postgres::{Frame, FrameReader};
use walpurge::rules::{Facts, Matcher};

use crate::bed::Plugin;

/// Changes of one transaction, and transactions of one round.
const CHANGES: usize = 3;
const TRANSACTIONS: usize = 1_000;

/// Changes of a round, each with a key of its own.
const ROUND: usize = CHANGES * TRANSACTIONS;

/// An update of a table of four columns, of which the rule names one.
const COLUMNS: [(&str, &str); 4] =
    [("id", ""), ("slug", "desk-lamp"), ("price", "129.90"), ("status", "published")];

/// The number of the table in what pgoutput writes.
const TABLE: u32 = 16_384;

/// The most instructions of a change from wal2json: a third more than there were when this was
/// written (68,100 of a debug build), for other compilers and libraries. One more pass over the
/// message or one more copy of it is beyond that.
const WAL2JSON_MAX: u64 = 90_000;

/// The same of a change from pgoutput, which takes 27,100.
const PGOUTPUT_MAX: u64 = 36_000;

/// How many rounds there are. The first one makes buffers grow.
const ROUNDS_MAX: usize = 3;

/// How many of them `some_rounds` makes, and of which plugin.
const ROUNDS: &str = "GUARD_ROUNDS";
const PLUGIN: &str = "GUARD_PLUGIN";

/// All that a change goes through.
struct Way {
    plugin: Plugin,
    frames: FrameReader,
    decoder: Decoder,
    matcher: Matcher,
    plan: Plan,
    lsn: u64,
}

impl Way {
    fn new(plugin: Plugin) -> Result<Self> {
        let text = "[postgres]\nurl = \"postgres://h/d\"\n[redis.cache]\nurl = \"redis://h\"\n\
                    [[rule]]\ntable = \"public.products\"\ndelete = [\"product:{id}\"]\n";
        let loaded = config::parse("guard", text).map_err(|problems| anyhow!("{problems:?}"))?;
        let actions = Box::new(|_, _: Action<'_>, _| LaneId(0));
        let routes = Routes { actions, lookups: HashMap::new() };
        let mut decoder = match plugin {
            Plugin::Wal2json => Decoder::Wal2json(wal2json::Decoder::default()),
            Plugin::Pgoutput => Decoder::Pgoutput(pgoutput::Decoder::default()),
        };
        if plugin == Plugin::Pgoutput {
            decoder.decode(&mut relation())?;
        }
        let (frames, matcher) = (FrameReader::default(), Matcher::new(Arc::new(loaded.rules)));
        let plan = Plan::new(vec![PlannedLane::new(Stage::Remove)], routes);
        Ok(Way { plugin, frames, decoder, matcher, plan, lsn: 0 })
    }

    /// The bytes of a round, whose rows no other one has.
    fn bytes(&self, round: usize) -> Vec<u8> {
        let first = round * ROUND;
        let change = |id: usize| match self.plugin {
            Plugin::Wal2json => line(id),
            Plugin::Pgoutput => update(id),
        };
        (first..first + ROUND).flat_map(|id| framed(&change(id))).collect()
    }

    /// Lets a round's bytes go all the way.
    fn go(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Way { frames, decoder, matcher, plan, lsn, .. } = self;
        let rules = Arc::clone(matcher.rules());
        let mut changes = 0;
        while !bytes.is_empty() {
            let spare = frames.spare_mut();
            let count = spare.len().min(bytes.len());
            spare[..count].copy_from_slice(&bytes[..count]);
            frames.advance(count);
            bytes = &bytes[count..];
            while let Some(frame) = frames.next()? {
                let Frame::XLogData { data, .. } = frame else { continue };
                if changes % CHANGES == 0 {
                    plan.begin(None);
                }
                let event = decoder.decode(data)?;
                let Event::Change(change) = event else { continue };
                matcher.apply(&change, Facts::default(), |emission| {
                    plan.push(emission.sinks, emission.action, Manner::of(&rules, &emission));
                });
                changes += 1;
                if changes % CHANGES == 0 {
                    *lsn += 1;
                    plan.commit(Lsn(*lsn));
                }
            }
        }
        let mut keys = 0;
        while let Some(batch) = plan.take(LaneId(0), Instant::now) {
            keys += batch.len();
            plan.done(LaneId(0), batch);
        }
        ensure!(keys == ROUND, "{keys} keys of {ROUND}");
        ensure!(plan.confirmed_lsn() == Lsn(*lsn), "not everything may be confirmed");
        Ok(())
    }
}

/// A row of it, as wal2json writes it with the key as its identity.
fn line(id: usize) -> Vec<u8> {
    let column = |(name, value): (&str, &str)| match name {
        "id" => format!(r#"{{"name":"id","value":{id}}}"#),
        _ => format!(r#"{{"name":"{name}","value":"{value}"}}"#),
    };
    let columns = COLUMNS.map(column).join(",");
    format!(
        r#"{{"action":"U","schema":"public","table":"products","columns":[{columns}],"identity":[{{"name":"id","value":{id}}}]}}"#
    )
    .into_bytes()
}

/// The same from pgoutput.
fn update(id: usize) -> Vec<u8> {
    let mut bytes = vec![b'U'];
    bytes.extend(TABLE.to_be_bytes());
    bytes.push(b'N');
    bytes.extend((COLUMNS.len() as u16).to_be_bytes());
    for (name, value) in COLUMNS {
        let value = if name == "id" { id.to_string() } else { value.to_owned() };
        bytes.push(b't');
        bytes.extend((value.len() as u32).to_be_bytes());
        bytes.extend(value.as_bytes());
    }
    bytes
}

/// What pgoutput says of the table, whose key is its first column.
fn relation() -> Vec<u8> {
    let mut bytes = vec![b'R'];
    bytes.extend(TABLE.to_be_bytes());
    bytes.extend(b"public\0products\0d");
    bytes.extend((COLUMNS.len() as u16).to_be_bytes());
    for (at, (name, _)) in COLUMNS.iter().enumerate() {
        bytes.push(u8::from(at == 0));
        bytes.extend(name.as_bytes());
        // Its end; then the type text, and no modifier.
        bytes.push(0);
        bytes.extend(25_u32.to_be_bytes());
        bytes.extend([0xFF; 4]);
    }
    bytes
}

/// A CopyData message with XLogData.
fn framed(data: &[u8]) -> Vec<u8> {
    const HEAD: usize = 1 + 3 * 8;
    let mut bytes = vec![b'd'];
    bytes.extend((4 + HEAD as u32 + data.len() as u32).to_be_bytes());
    bytes.push(b'w');
    bytes.extend([0; HEAD - 1]);
    bytes.extend(data);
    bytes
}

#[test]
fn a_change_allocates_nothing() -> Result<()> {
    for plugin in Plugin::BOTH {
        let mut way = Way::new(plugin)?;
        way.go(&way.bytes(0))?;
        let (bytes, mut went) = (way.bytes(1), Ok(()));
        let counted = allocation_counter::measure(|| went = way.go(&bytes));
        went?;
        // What a batch gives back serves the next one.
        assert_eq!(counted.count_total, 0, "{}: {} bytes", plugin.name(), counted.bytes_total);
    }
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8])));
    assert_eq!(counted.count_total, 1, "nothing is counted");
    Ok(())
}

#[test]
fn a_change_takes_few_instructions() -> Result<()> {
    for (plugin, most) in [(Plugin::Wal2json, WAL2JSON_MAX), (Plugin::Pgoutput, PGOUTPUT_MAX)] {
        let (few, more) = (instructions(plugin, 1)?, instructions(plugin, ROUNDS_MAX)?);
        let each = (more - few) / ((ROUNDS_MAX - 1) * ROUND) as u64;
        eprintln!("{}: {each} instructions", plugin.name());
        assert!(each <= most, "{}: {each} instructions, at most {most}", plugin.name());
        assert!(each >= most / 4, "{}: {each} are fewer than can be", plugin.name());
    }
    Ok(())
}

/// The instructions of this program while it makes so many rounds, as Valgrind counts them.
fn instructions(plugin: Plugin, rounds: usize) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    command.arg("--read-inline-info=no");
    command.arg(std::env::current_exe()?).args(["--exact", "guard::some_rounds", "--ignored"]);
    command.env(ROUNDS, rounds.to_string()).env(PLUGIN, plugin.name());
    let output = command.output().context("valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    let line = said.lines().find(|line| line.contains("refs:")).with_context(|| said.clone())?;
    let number = line.rsplit(' ').next().context("no number")?;
    Ok(number.replace(',', "").parse()?)
}

/// What is counted.
#[test]
#[ignore = "`a_change_takes_few_instructions` runs it under Valgrind"]
fn some_rounds() -> Result<()> {
    let rounds: usize = std::env::var(ROUNDS).context(ROUNDS)?.parse()?;
    let is_asked = |plugin: &Plugin| std::env::var(PLUGIN).is_ok_and(|name| name == plugin.name());
    let plugin = Plugin::BOTH.into_iter().find(is_asked).context(PLUGIN)?;
    let mut way = Way::new(plugin)?;
    // All are made, whatever is counted, so that making them is not.
    let all: Vec<_> = (0..ROUNDS_MAX).map(|round| way.bytes(round)).collect();
    all.iter().take(rounds).try_for_each(|bytes| way.go(bytes))
}
