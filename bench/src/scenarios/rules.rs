//! What do decoding a line, finding its table's rules and filling in their templates cost?
//!
//! Without any server: the daemon's own decoder and matcher, on one update again and again.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use walpurge::config;
use walpurge::decode::{DecodeError, Event, wal2json::Decoder};
use walpurge::lsn::Lsn;
use walpurge::rules::{Facts, Matcher, RuleSet};

use crate::report::Section;
use crate::size;
use crate::stats::{largest, median, smallest, thousands};

/// An update of a table of nine columns with REPLICA IDENTITY FULL, as wal2json writes it.
const LINE: &str = r#"{"action":"U","xid":123456,"timestamp":"2026-11-21 03:04:05.678901+00","lsn":"16/B374D848","nextlsn":"16/B374D878","schema":"public","table":"products","columns":[{"name":"id","value":4711},{"name":"sku","value":"LAMP-4711-B"},{"name":"slug","value":"desk-lamp-brushed-steel"},{"name":"title","value":"Desk lamp, brushed \"steel\""},{"name":"price","value":129.90},{"name":"stock","value":17},{"name":"category_id","value":42},{"name":"status","value":"published"},{"name":"updated_at","value":"2026-11-21 03:04:05.678901+00"}],"identity":[{"name":"id","value":4711},{"name":"sku","value":"LAMP-4711-B"},{"name":"slug","value":"desk-lamp-brushed-steel"},{"name":"title","value":"Desk lamp, brushed \"steel\""},{"name":"price","value":119.90},{"name":"stock","value":18},{"name":"category_id","value":42},{"name":"status","value":"published"},{"name":"updated_at","value":"2026-11-20 22:15:00.000001+00"}]}"#;

/// How long one figure is measured in one run.
const MEASURED: Duration = Duration::from_millis(100);

/// Changes between two looks at the clock, and those over which allocations are counted.
const ROUND: u32 = 1_000;

const COUNTS: [u32; 3] = [1, 10, 100];

/// Which tables the rules are on.
const TABLES: [(&str, &str); 2] =
    [("on other tables", "public.other_{n}"), ("on the same table", "public.products")];

/// What each rule holds.
const KINDS: [(&str, &str); 5] = [
    ("one key", r#"delete = ["product:{n}:{id}"]"#),
    (
        "one key, `changed` and `where` that hold",
        "delete = [\"product:{n}:{id}\"]\nchanged = [\"price\"]\n\
         where = { status = [\"published\", \"archived\"] }",
    ),
    (
        "one key, `changed` that does not hold",
        "delete = [\"product:{n}:{id}\"]\nchanged = [\"title\"]",
    ),
    ("one key of `lower`", r#"delete = ["product:{n}:{slug|lower}"]"#),
    ("one key of `lower` and `sha256`", r#"delete = ["product:{n}:{slug|lower|sha256}"]"#),
];

/// One figure.
struct Case {
    name: String,
    work: Work,
    /// Of each run.
    nanoseconds: Vec<f64>,
    allocations: f64,
}

enum Work {
    Decode(Decoder, Vec<u8>),
    Match(Box<Matcher>),
}

pub(super) fn run() -> Result<Section> {
    let runs = size::RUNS.get()?;
    let mut cases = cases(&COUNTS)?;
    for run in 0..runs {
        eprintln!("  run {} of {runs}", run + 1);
        for case in &mut cases {
            case.measure()?;
        }
    }

    let raw: Vec<_> = cases.iter().map(Case::raw).collect();
    let mut section = Section::new(
        format!(
            "One update of a table of nine columns, both rows in full ({} bytes), over and over \
             in warm caches; each rule renders for both rows, which come out the same. Decoding \
             includes a copy of the line. Time and allocations of one change; {runs} runs, medians \
             (and range).",
            LINE.len()
        ),
        json!(raw),
    );
    for case in &cases {
        section.row(&case.name, case.result());
    }
    Ok(section)
}

/// Every kind of rule, so many of each.
fn cases(counts: &[u32]) -> Result<Vec<Case>> {
    let mut cases = vec![
        Case::new("decode", Work::Decode(Decoder::default(), Vec::new()))?,
        Case::new("match: no rules", matching(RuleSet::default()))?,
    ];
    for (place, table) in TABLES {
        for (what, body) in KINDS {
            for &count in counts {
                let rules = if count == 1 { "rule" } else { "rules" };
                let work = matching(compiled(table, body, count)?);
                let name = format!("match and render: {count} {rules} {place}, {what}");
                cases.push(Case::new(&name, work)?);
            }
        }
    }
    Ok(cases)
}

fn matching(rules: RuleSet) -> Work {
    Work::Match(Box::new(Matcher::new(Arc::new(rules))))
}

/// So many rules, each on its own table if `{n}` is in its name.
fn compiled(table: &str, body: &str, count: u32) -> Result<RuleSet> {
    let mut text =
        "[postgres]\nurl = \"postgres://h/d\"\n[redis.cache]\nurl = \"redis://h\"\n".to_owned();
    for n in 0..count {
        let rule = format!("[[rule]]\ntable = \"{table}\"\n{body}\n");
        text += &rule.replace("{n}", &n.to_string());
    }
    let loaded = config::parse("bench", &text);
    let loaded = loaded.map_err(|problems| anyhow!("{problems:?}")).context(text)?;
    Ok(loaded.rules)
}

impl Case {
    /// A case whose memory is warm.
    fn new(name: &str, mut work: Work) -> Result<Self> {
        work.repeat(ROUND)?;
        let mut outcome = Ok(());
        let counted = allocation_counter::measure(|| outcome = work.repeat(ROUND));
        outcome?;
        let allocations = counted.count_total as f64 / f64::from(ROUND);
        Ok(Case { name: name.to_owned(), work, nanoseconds: Vec::new(), allocations })
    }

    fn measure(&mut self) -> Result<()> {
        let (begin, mut changes) = (Instant::now(), 0);
        while begin.elapsed() < MEASURED {
            self.work.repeat(ROUND)?;
            changes += ROUND;
        }
        self.nanoseconds.push(begin.elapsed().as_nanos() as f64 / f64::from(changes));
        Ok(())
    }

    fn result(&self) -> String {
        let times = [median, smallest, largest].map(|of| thousands(of(&self.nanoseconds)));
        let [median, low, high] = times;
        format!("{median} ns ({low}–{high}), {} allocations", self.allocations)
    }

    fn raw(&self) -> serde_json::Value {
        json!({ "case": self.name, "nanoseconds": self.nanoseconds, "allocations": self.allocations })
    }
}

impl Work {
    /// Does it so many times.
    fn repeat(&mut self, times: u32) -> Result<()> {
        match self {
            Work::Decode(decoder, buffer) => {
                for _ in 0..times {
                    buffer.clear();
                    buffer.extend_from_slice(black_box(LINE.as_bytes()));
                    black_box(decoder.decode(buffer)?);
                }
            }
            Work::Match(matcher) => {
                let mut line = Vec::new();
                let mut decoder = Decoder::default();
                let mut event = Err(DecodeError { at: 0, what: "nothing decoded" });
                allocation_counter::opt_out(|| {
                    line.extend_from_slice(LINE.as_bytes());
                    event = decoder.decode(&mut line);
                });
                let Event::Change(change) = event? else { bail!("not a change") };
                let facts = Facts { xid: Some(123_456), commit_lsn: Some(Lsn(0x16_B374_D848)) };
                for _ in 0..times {
                    matcher.apply(black_box(&change), facts, |emission| {
                        black_box(emission);
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_matching_and_rendering_allocate_nothing() {
        for case in cases(&[1, 3]).unwrap() {
            assert_eq!(case.allocations, 0.0, "{}", case.name);
        }
    }
}
