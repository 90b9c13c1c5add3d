//! How fast is the Redis sink by itself, and who waits while it does something huge?

mod cluster;
mod contenders;
mod huge;
mod patterns;
mod single;

use anyhow::Result;
use serde_json::json;

use crate::report::Section;
use crate::size;
use crate::stats::thousands;

pub(super) fn run() -> Result<Section> {
    let (keys, runs) = (size::KEYS.get()?, size::RUNS.get()?);
    let about = format!(
        "{} keys, medians of {runs} runs in turn. The sink is walpurge's own, fed from memory with \
         batches of 4,096 keys over TCP, as the daemon does, in one thread. Raw: requests made \
         beforehand, of which only the replies are counted, 16 commands of 512 keys in flight; in a \
         cluster one thread for each node and 1,024 commands of one key, since keys of many slots \
         share no command. redis-benchmark: one connection, 512 commands of one key in flight; its \
         keys are not there, which is quicker to answer.",
        thousands(keys as f64)
    );
    let mut section = Section::new(about, json!(null));
    let single = single::measure(keys, runs, &mut section)?;
    let cluster = cluster::measure(keys, runs, &mut section)?;
    let patterns = patterns::measure(keys, runs, &mut section)?;
    let huge = huge::measure(keys, &mut section)?;
    section.raw = json!({
        "keys": keys, "runs": runs, "single": single, "cluster": cluster, "patterns": patterns,
        "huge": huge,
    });
    Ok(section)
}
