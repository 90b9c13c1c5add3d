//! CDN sinks against servers that keep to what providers document.

mod bulk;
mod cloudfront;
mod crashes;
mod daemon;
mod fastly;
mod http;
mod moto;
mod order;
mod repurge;
mod varnish;

use std::sync::Arc;

use walpurge::action::{Action, Batch, Verb};
use walpurge::config::{CdnParts, Kept, parse};
use walpurge::sinks::Report;
use walpurge::sinks::cdn::{CdnLane, CdnSink};

use crate::outcome::{outage, refused};

/// A lane of the one CDN sink that `section` configures.
#[track_caller]
fn lane(section: &str) -> CdnLane {
    let text = format!(
        "[postgres]\nurl = 'postgres://h/d'\n{section}\n[[rule]]\ntable = 's.t'\n\
         {}\nfallback = 'none'\n",
        if section.contains("{path") || section.contains("{{paths") {
            "purge_paths = ['/x']"
        } else {
            "purge_keys = ['x']"
        }
    );
    let loaded = parse("t", &text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let CdnParts::Http(options) = loaded.config.cdn[0].parts(Kept::Nothing).unwrap() else {
        panic!()
    };
    CdnLane::new(Arc::new(CdnSink::new(options).unwrap()))
}

fn batch<'a>(actions: impl IntoIterator<Item = (Verb, &'a str)>) -> Batch {
    let mut batch = Batch::default();
    for (verb, value) in actions {
        batch.push(Action { verb, value: value.as_bytes() });
    }
    batch
}

fn keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> Batch {
    batch(keys.into_iter().map(|key| (Verb::PurgeKey, key)))
}

fn paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Batch {
    batch(paths.into_iter().map(|path| (Verb::PurgePath, path)))
}

fn everything() -> Batch {
    batch([(Verb::PurgeAll, "*")])
}

#[track_caller]
fn rejected(report: &Report) -> Vec<usize> {
    report.rejected.iter().map(|rejected| rejected.index).collect()
}

fn sorted(mut items: Vec<String>) -> Vec<String> {
    items.sort();
    items
}
