//! `explain`: wal2json lines in, actions out, without any network.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;

use super::{Outcome, load};
use crate::action::{Address, Verb};
use crate::cli::{ExplainArgs, Global};
use crate::decode::{Event, wal2json};
use crate::key_type::KeyType;
use crate::rules::{
    Bulk, Cause, DDL_PREFIX, Ddl, Emission, Facts, MESSAGE_PREFIX, Matcher, Messages, RuleSet,
};

/// One line of output. Others build on its keys and their order.
#[derive(Serialize)]
struct Line<'a> {
    commit_lsn: Option<String>,
    xid: Option<u32>,
    rule: Option<&'a str>,
    table: Option<&'a str>,
    op: &'a str,
    /// `None` for a lookup.
    sink: Option<&'a str>,
    action: &'a str,
    value: &'a str,
    /// Of which type keys have to be that match.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_type: Option<&'a str>,
    /// How long keys are left instead of being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_in_ms: Option<u64>,
    /// Of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    /// The same, where it goes to a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<&'a str>,
}

pub(super) fn explain(global: &Global, args: &ExplainArgs) -> anyhow::Result<Outcome> {
    let loaded = load(global)?;
    let mut explainer = Explainer {
        matcher: Matcher::new(Arc::new(loaded.rules)),
        decoder: wal2json::Decoder::default(),
        messages: loaded.config.postgres.messages,
        facts: Facts::default(),
        bulk: Bulk::default(),
        out: BufWriter::new(io::stdout().lock()),
    };
    let result = match args.file.as_deref().filter(|file| *file != Path::new("-")) {
        None => explainer.lines(io::stdin().lock()),
        Some(file) => File::open(file)
            .with_context(|| format!("cannot open {}", file.display()))
            .and_then(|file| explainer.lines(BufReader::new(file))),
    };
    // What was explained before a bad line is shown too.
    let flushed = explainer.out.flush();
    result?;
    flushed.context("cannot write to standard output")?;
    Ok(Outcome::Done)
}

struct Explainer<W: Write> {
    matcher: Matcher,
    decoder: wal2json::Decoder,
    messages: Messages,
    /// Of the transaction that began last.
    facts: Facts,
    bulk: Bulk,
    out: BufWriter<W>,
}

impl<W: Write> Explainer<W> {
    fn lines(&mut self, mut input: impl BufRead) -> anyhow::Result<()> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if input.read_until(b'\n', &mut line).context("cannot read the input")? == 0 {
                return Ok(());
            }
            if !line.trim_ascii().is_empty() {
                self.line(&mut line).with_context(|| format!("line {number}"))?;
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &mut [u8]) -> anyhow::Result<()> {
        match self.decoder.decode(line)? {
            Event::Begin(begin) => {
                self.facts = Facts { xid: begin.xid, commit_lsn: begin.commit_lsn };
            }
            Event::Commit(_) => {
                self.facts = Facts::default();
                self.bulk.reset();
            }
            Event::Message(message) if message.prefix == MESSAGE_PREFIX.as_bytes() => {
                let rules = Arc::clone(self.matcher.rules());
                // One that is not part of a transaction is one of its own, at its position.
                let facts = match message.transactional {
                    true => self.facts,
                    false => Facts { xid: None, commit_lsn: message.lsn },
                };
                let mut lines = Lines::new(&rules, facts, &mut self.out);
                rules.message(message.content, self.messages, |emission| {
                    lines.write("message", None, &emission);
                })?;
                lines.end()?;
            }
            Event::Message(message) if message.prefix == DDL_PREFIX.as_bytes() => {
                let rules = Arc::clone(self.matcher.rules());
                let mut lines = Lines::new(&rules, self.facts, &mut self.out);
                match Ddl::parse(message.content) {
                    Ok(ddl) => self.matcher.ddl(&ddl, self.facts.commit_lsn, |table, emission| {
                        lines.write("message", Some(&table.to_string()), &emission);
                    }),
                    Err(_) => rules.all_fallbacks(Cause::Absent, |emission| {
                        lines.write("message", None, &emission);
                    }),
                }
                lines.end()?;
            }
            // wal2json has no more to say of a table, and a line for each that is emptied.
            Event::Message(_) | Event::Aside | Event::Truncate(_) => {}
            Event::Change(change) => {
                let rules = Arc::clone(self.matcher.rules());
                let schema = String::from_utf8_lossy(change.schema);
                let table = format!("{schema}.{}", String::from_utf8_lossy(change.table));
                let mut lines = Lines::new(&rules, self.facts, &mut self.out);
                let bulk = &mut self.bulk;
                self.matcher.apply(&change, self.facts, |emission| {
                    bulk.asked(&rules, &emission, false, |emission| {
                        lines.write(change.op.name(), Some(&table), emission);
                    });
                });
                lines.end()?;
            }
        }
        Ok(())
    }
}

/// Writes what one input line asks for.
struct Lines<'a, W> {
    rules: &'a RuleSet,
    facts: Facts,
    out: &'a mut W,
    written: io::Result<()>,
}

impl<'a, W: Write> Lines<'a, W> {
    fn new(rules: &'a RuleSet, facts: Facts, out: &'a mut W) -> Self {
        Lines { rules, facts, out, written: Ok(()) }
    }

    /// Writes a line for each of the emission's sinks, unless writing has failed before.
    fn write(&mut self, op: &str, table: Option<&str>, emission: &Emission<'_>) {
        if emission.action.verb == Verb::Lookup {
            let query = emission.rule.and_then(|rule| self.rules.rule(rule).lookup.as_ref());
            let query = query.map(|lookup| lookup.shown(emission.action.value));
            return self.line(op, table, emission, None, &query.unwrap_or_default());
        }
        let value = String::from_utf8_lossy(emission.action.shown());
        for &sink in emission.sinks {
            self.line(op, table, emission, Some(&self.rules.sink(sink).name), &value);
        }
    }

    fn line(
        &mut self,
        op: &str,
        table: Option<&str>,
        emission: &Emission<'_>,
        sink: Option<&str>,
        value: &str,
    ) {
        let address = (emission.action.verb == Verb::Publish)
            .then(|| Address::read(emission.action.message().0));
        let (channel, stream) = match address {
            Some(Address::Channel(channel)) => (Some(String::from_utf8_lossy(channel)), None),
            Some(Address::Stream { key, .. }) => (None, Some(String::from_utf8_lossy(key))),
            None => (None, None),
        };
        let line = Line {
            commit_lsn: self.facts.commit_lsn.map(|lsn| lsn.to_string()),
            xid: self.facts.xid,
            rule: emission.rule.map(|rule| self.rules.rule(rule).name.as_str()),
            table,
            op,
            sink,
            action: emission.action.verb.key(),
            value,
            key_type: emission.action.verb.key_type().map(KeyType::name),
            expire_in_ms: emission.action.expire_in_ms(),
            channel: channel.as_deref(),
            stream: stream.as_deref(),
            fallback: emission.fallback.map(|cause| cause.name()),
        };
        if self.written.is_ok() {
            self.written = write_line(self.out, &line);
        }
    }

    fn end(self) -> anyhow::Result<()> {
        self.written.context("cannot write to standard output")
    }
}

fn write_line(out: &mut impl Write, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
