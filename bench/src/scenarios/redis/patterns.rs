//! What do very many patterns cost that are waited for together?

use anyhow::Result;
use serde_json::{Value, json};
use testkit::redis::Redis;
use walpurge::action::{Action, Batch, Verb};

use super::contenders::seconds;
use super::single::{fill, lane};
use crate::report::{Section, Target};
use crate::stats::median;

/// How many there are.
const PATTERNS: usize = 1_000;

pub(super) fn measure(keys: u64, runs: u64, section: &mut Section) -> Result<Value> {
    let redis = Redis::builder().config("enable-debug-command", "yes").try_start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    fill(&redis, keys)?;
    let mut lane = lane(&redis, &runtime)?;
    // None of them is there, so that each run finds what the one before has found.
    let alike = |number: usize| format!("list:{number}:*");
    let mixed = |number: usize| format!("item:{number}:*");
    let cases = [batch(1, alike), batch(PATTERNS, alike), batch(1, mixed), batch(PATTERNS, mixed)];
    let mut taken = vec![Vec::new(); cases.len()];
    for run in 0..runs {
        eprintln!("  patterns, run {} of {runs}", run + 1);
        for (batch, taken) in cases.iter().zip(&mut taken) {
            taken.push(seconds(|| Ok(runtime.block_on(lane.send(batch))?))?);
        }
    }
    let [one, all, one_mixed, all_mixed] = [0, 1, 2, 3].map(|case| median(&taken[case]));
    section.row("one pattern, a pass over all keys", format!("{one:.2} s"));
    let most = Target::AtMost(1.5);
    section.judged("1,000 patterns to one, where no key starts so", all / one, "", most);
    let measure = "1,000 patterns to one, where every key starts as they do";
    section.row(measure, format!("{:.2}", all_mixed / one_mixed));
    Ok(json!({ "seconds": taken }))
}

fn batch(patterns: usize, pattern: impl Fn(usize) -> String) -> Batch {
    let mut batch = Batch::default();
    for number in 0..patterns {
        let value = pattern(number);
        batch.push(Action { verb: Verb::DeleteMatching, value: value.as_bytes() });
    }
    batch
}
