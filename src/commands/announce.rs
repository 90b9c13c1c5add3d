//! The configuration as it takes effect, for the log: a line for each thing that is configured,
//! defaults included, and no secret.

use std::time::Duration;

use tracing::info;

use super::run::Parts;
use crate::action::{Address, Verb};
use crate::amount::bytes;
use crate::cli::Global;
use crate::config::{
    CdnSinkConfig, OnGap, Plugin, PostgresConfig, RedisSinkConfig, Secret, Visibility,
};
use crate::postgres::ConnectConfig;
use crate::rules::{Messages, Rule, RuleSpec, rule_names};
use crate::sinks::Endpoint;
use crate::sinks::redis::TagMode;

/// How many rules have a line each; more are named together.
const RULE_LINES_MAX: usize = 20;

/// How much of a list is shown, in bytes.
const LIST_BYTES_MAX: usize = 400;

/// Says what the daemon works with.
pub(super) fn announce(global: &Global, parts: &Parts) {
    let Parts { config, settings, rules, sinks, .. } = parts;
    postgres(global, parts);
    let caches = config.redis.iter().map(Section::Redis);
    let sections = caches.chain(config.cdn.iter().map(Section::Cdn));
    for ((sink, (_, mode)), section) in sinks.iter().zip(config.sinks()).zip(sections) {
        sink_line(sink, mode.name(), &section);
    }
    if let Some(replicas) = &settings.replicas {
        let urls = list(replicas.connects.iter().map(ConnectConfig::target));
        info!(urls, max_wait = time(replicas.max_wait), "replicas are waited for");
    }
    if let Some(replay) = &config.postgres.replay {
        let (window, max_wal) = (time(replay.window), bytes(replay.max_wal));
        info!(window, max_wal, "WAL is kept for replays");
    }
    let names = rule_names(&config.rules);
    if config.rules.len() > RULE_LINES_MAX {
        let named = list(names.into_iter());
        return info!(count = config.rules.len(), names = named, "rules");
    }
    for (name, spec) in names.iter().zip(&config.rules) {
        rule_line(name, spec, rules.rules().iter().find(|rule| rule.name == *name));
    }
}

fn postgres(global: &Global, Parts { config, settings, rules, .. }: &Parts) {
    let PostgresConfig { plugin, publication, create_slot, visibility, heartbeat, .. } =
        &config.postgres;
    let PostgresConfig { on_gap, messages, .. } = &config.postgres;
    let looks_up = rules.rules().iter().any(|rule| rule.lookup.is_some());
    let lookups = config.postgres.lookup_url.as_ref().filter(|_| looks_up).map(Secret::key);
    info!(
        file = %global.config.display(),
        state_dir = settings.state_dir.as_ref().map(|dir| dir.display().to_string()),
        postgres = settings.connect.target(),
        slot = settings.slot,
        plugin = plugin.name(),
        publication = (*plugin == Plugin::Pgoutput).then_some(publication),
        create_slot,
        visibility = match visibility {
            Visibility::Wait => "wait",
            Visibility::Skip => "skip",
        },
        heartbeat = heartbeat.map_or_else(|| "off".to_owned(), time),
        on_gap = match on_gap {
            OnGap::Fallback => "fallback",
            OnGap::Halt => "halt",
        },
        messages = match messages {
            Messages::Off => "off",
            Messages::Keys => "keys",
            Messages::All => "all",
        },
        lookups,
        rules = rules.rules().len(),
        "configured"
    );
}

/// Where a sink is configured.
enum Section<'c> {
    Redis(&'c RedisSinkConfig),
    Cdn(&'c CdnSinkConfig),
}

fn sink_line(sink: &Endpoint, mode: &str, section: &Section<'_>) {
    let (name, target) = (sink.name(), sink.target());
    match section {
        Section::Redis(redis) => {
            let redis = &redis.settings;
            let (prefix, tag_key) = (&redis.prefix, &redis.tag_key);
            let tag_mode = match redis.tag_mode {
                TagMode::Members => "members",
                TagMode::Version => "version",
            };
            let wait_replicas = Some(redis.wait_replicas).filter(|&count| count > 0);
            let window = Some(redis.failover_window).filter(|window| !window.is_zero());
            let failover_window = window.map(time);
            let max_keys_per_second = redis.max_keys_per_second;
            info!(
                sink = name,
                kind = "redis",
                target,
                mode,
                prefix,
                tag_key,
                tag_mode,
                wait_replicas,
                failover_window,
                max_keys_per_second,
                "sink"
            );
        }
        Section::Cdn(cdn) => {
            let (kind, after) = (cdn.kind().key(), list(cdn.after.iter()));
            let max_requests_per_second = cdn.max_requests_per_second;
            let repeats = Some(&cdn.repurge_after).filter(|delays| !delays.is_empty());
            let repurge_after = repeats.map(|delays| list(delays.iter().map(|&delay| time(delay))));
            info!(
                sink = name,
                kind, target, mode, after, max_requests_per_second, repurge_after, "sink"
            );
        }
    }
}

/// `compiled` is `None` where the rule is not enabled.
fn rule_line(name: &str, spec: &RuleSpec, compiled: Option<&Rule>) {
    let tables = list(spec.tables.iter().map(|table| &table.value));
    let mut actions: Vec<(Verb, Vec<&str>)> = Vec::new();
    for (verb, template) in &spec.templates {
        match actions.last_mut().filter(|(last, _)| last == verb) {
            Some((_, templates)) => templates.push(&template.value),
            None => actions.push((*verb, vec![&template.value])),
        }
    }
    let mut told: Vec<_> =
        actions.iter().map(|(verb, of)| format!("{} {}", verb.key(), list(of.iter()))).collect();
    if let Some(publish) = &spec.publish {
        told.push(match Address::read(publish.address.value.as_bytes()) {
            Address::Channel(channel) => format!("publish to {}", channel.escape_ascii()),
            Address::Stream { key, .. } => format!("publish to stream {}", key.escape_ascii()),
        });
    }
    let (actions, lookup) = (told.join("; "), spec.lookup.is_some().then_some(true));
    let Some(rule) = compiled else {
        return info!(rule = name, tables, actions, enabled = false, "rule");
    };
    let sinks = spec.sinks.as_ref().map(|sinks| list(sinks.iter().map(|sink| &sink.value)));
    let (fallback, fallback_every) = (rule.fallback.len(), time(rule.fallback_every));
    let expire_in = spec.expire_in.as_ref().map(|spec| time(Duration::from_millis(spec.ms)));
    info!(rule = name, tables, actions, expire_in, lookup, sinks, fallback, fallback_every, "rule");
}

/// As many as there is room for.
fn list<T: AsRef<str>>(items: impl ExactSizeIterator<Item = T>) -> String {
    let (count, mut out) = (items.len(), String::new());
    for (at, item) in items.enumerate() {
        let item = item.as_ref();
        if at > 0 && out.len() + item.len() > LIST_BYTES_MAX {
            out.push_str(&format!(" and {} more", count - at));
            break;
        }
        out.push_str(if at > 0 { ", " } else { "" });
        out.push_str(item);
    }
    out
}

fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_an_end() {
        assert_eq!(list(["a", "b"].iter()), "a, b");
        let long: Vec<String> = (0..1000).map(|number| format!("rule{number}")).collect();
        let shown = list(long.iter());
        assert!(shown.len() < LIST_BYTES_MAX * 2 && shown.ends_with(" more"), "{shown}");
    }
}
