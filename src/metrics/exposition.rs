//! What Prometheus reads: OpenMetrics as text, with units in the names and totals that only grow.
//!
//! Labels hold names from the configuration and words of our own, never a table, a key or a
//! transaction, so that their number is bounded.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::counter::Histogram;
use super::counts::{Counts, SinkCounts, Target};
use crate::action::SinkKind;
use crate::status::{Published, Role, SinkState, Status};

/// The media type of [`exposition`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that there is to be measured, as OpenMetrics.
///
/// # Errors
/// None that is known: it writes to memory.
pub fn exposition(published: Arc<Published>) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("walpurge");
    registry.register_collector(Box::new(Snapshot(published)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot(Arc<Published>);

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = Families(encoder);
        let Published { status, counts } = &*self.0;
        of_the_daemon(&mut families, status, counts)?;
        of_the_log(&mut families, status)?;
        of_rules(&mut families, counts)?;
        of_sinks(&mut families, status, counts)
    }
}

fn of_the_daemon(
    families: &mut Families<'_>,
    status: &Status,
    counts: &Counts,
) -> Result<(), Error> {
    families.info("build", "The program", &[("version", status.version.as_str())])?;
    let role = match status.role {
        Role::Streaming | Role::ClosingGap => 2,
        Role::Standby => 1,
        Role::Connecting | Role::NotRunning => 0,
    };
    let help = "2: follows the stream, 1: stands by while another has the slot, 0: neither";
    families.gauge("role", help, None, [(NO_LABELS, f64::from(role))])?;
    let help = "Parts of the log that could not be read, in whose place fallbacks ran";
    families.counter("gaps", help, [(NO_LABELS, counts.gaps.get())])?;
    let waits = Target::ALL.into_iter().zip(&counts.barrier_wait);
    let waits = waits.map(|(target, wait)| ([("target", target.name())], wait));
    let help = "How long transactions waited until others could see them";
    families.histogram("barrier_wait", help, Some(Unit::Seconds), waits)
}

fn of_the_log(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    let postgres = &status.postgres;
    let bytes = |value: Option<u64>| value.map(|value| (NO_LABELS, value as f64));
    let seconds = |value: Option<f64>| value.map(|value| (NO_LABELS, value));
    let help = "The end of the log less what is done";
    families.gauge("lag", help, Some(Unit::Bytes), bytes(postgres.lag_bytes))?;
    let help = "The age of the oldest part of the log that is not done, since it was first seen";
    families.gauge("lag", help, Some(Unit::Seconds), seconds(postgres.lag_seconds))?;
    let help = "The WAL that the slot holds";
    families.gauge("wal_held", help, Some(Unit::Bytes), bytes(postgres.wal_held_bytes))?;
    let help = "The time until the slot is lost at the present rate; absent without a bound";
    let left = match (postgres.wal_left_bytes, postgres.wal_left_seconds) {
        (Some(_), None) => Some(f64::INFINITY),
        (_, left) => left,
    };
    families.gauge("wal_left", help, Some(Unit::Seconds), seconds(left))?;
    let help = "How long ago the oldest commit was that can be replayed";
    let horizon = status.replay.as_ref().and_then(|replay| replay.horizon_seconds);
    families.gauge("replay_horizon", help, Some(Unit::Seconds), seconds(horizon))
}

fn of_rules(families: &mut Families<'_>, counts: &Counts) -> Result<(), Error> {
    let heartbeat = counts.heartbeat.get();
    let beat = (heartbeat > 0).then_some((NO_LABELS, heartbeat as f64));
    let help = "When the last heartbeat came through the stream, since 1970";
    families.gauge("last_heartbeat_timestamp", help, Some(Unit::Seconds), beat)?;
    let changes = counts.rules.iter().flat_map(|rule| {
        let name = rule.name.as_str();
        rule.changes().map(move |(op, count)| ([("rule", name), ("op", op.name())], count))
    });
    families.counter("changes", "Changes from which a rule made actions", changes)?;
    let fallbacks = counts.rules.iter().flat_map(|rule| {
        let name = rule.name.as_str();
        rule.fallbacks().map(move |(why, count)| ([("rule", name), ("cause", why.name())], count))
    });
    families.counter("fallbacks", "Runs of a rule's fallback", fallbacks)
}

fn of_sinks(families: &mut Families<'_>, status: &Status, counts: &Counts) -> Result<(), Error> {
    let sinks = || counts.sinks.iter();
    let actions = sinks().flat_map(|sink| {
        let name = sink.name.as_str();
        sink.actions().map(move |(verb, ended, count)| {
            ([("sink", name), ("verb", verb), ("outcome", ended.name())], count)
        })
    });
    families.counter("actions", "Actions that ended", actions)?;
    let sizes = sinks().map(|sink| (label(sink), &sink.batch_actions));
    families.histogram("batch_actions", "The actions of a batch", None, sizes)?;
    let times = sinks().map(|sink| (label(sink), &sink.commit_to_done));
    let help = "For each batch, the time since its oldest transaction came through the stream";
    families.histogram("commit_to_done", help, Some(Unit::Seconds), times)?;
    let retries = sinks().map(|sink| (label(sink), sink.retries.get()));
    families.counter("retries", "Batches that had to be sent again", retries)?;
    let redis = || sinks().filter(|sink| sink.kind == SinkKind::Redis);
    let keys = redis().map(|sink| (label(sink), sink.keys_requested.get()));
    families.counter("redis_keys_requested", "Keys that Redis was asked to remove", keys)?;
    let keys = redis().map(|sink| (label(sink), sink.keys_removed.get()));
    families.counter("redis_keys_removed", "Keys that existed and were removed", keys)?;
    let charged = sinks().filter(|sink| sink.kind == SinkKind::CloudFront);
    let charged = charged.map(|sink| (label(sink), sink.items_charged.get()));
    let help = "Paths, tags and wildcards that the provider charges for";
    families.counter("cdn_items_charged", help, charged)?;
    let gauge = |value: fn(&crate::status::SinkStatus) -> f64| {
        status.sinks.iter().map(move |sink| ([("sink", sink.name.as_str())], value(sink)))
    };
    let waiting = gauge(|sink| sink.waiting as f64);
    families.gauge("waiting_actions", "Actions that wait or are being sent", None, waiting)?;
    let up = gauge(|sink| f64::from(u8::from(matches!(sink.state, SinkState::Up))));
    families.gauge("sink_up", "1: its last attempt went well", None, up)?;
    let parked = gauge(|sink| sink.parked as f64);
    families.gauge("parked", "Records of actions that were given up on", None, parked)
}

fn label(sink: &SinkCounts) -> [(&'static str, &str); 1] {
    [("sink", sink.name.as_str())]
}

/// Of what there is only one of.
const NO_LABELS: [(&str, &str); 0] = [];

/// Writes one family after another. A family without a single metric is left out.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn info(&mut self, name: &str, help: &str, labels: &impl EncodeLabelSet) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(labels)
    }

    fn counter<'m, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        metrics: impl IntoIterator<Item = ([(&'m str, &'m str); N], u64)>,
    ) -> Result<(), Error> {
        let metrics = metrics.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, help, None, MetricType::Counter, metrics)
    }

    fn gauge<'m, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        metrics: impl IntoIterator<Item = ([(&'m str, &'m str); N], f64)>,
    ) -> Result<(), Error> {
        let metrics = metrics.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family(name, help, unit, MetricType::Gauge, metrics)
    }

    fn family<'m, const N: usize, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        metrics: impl Iterator<Item = ([(&'m str, &'m str); N], M)>,
    ) -> Result<(), Error> {
        let mut metrics = metrics.peekable();
        if metrics.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, metric) in metrics {
            if labels.is_empty() {
                // There is only one.
                return metric.encode(family);
            }
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn histogram<'m, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        metrics: impl Iterator<Item = ([(&'m str, &'m str); N], &'m Histogram)>,
    ) -> Result<(), Error> {
        let mut metrics = metrics.peekable();
        if metrics.peek().is_none() {
            return Ok(());
        }
        let mut family =
            self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?;
        for (labels, histogram) in metrics {
            let buckets = histogram.buckets();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(histogram.sum(), count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::action::{Action, Verb};
    use crate::change::Op;
    use crate::lsn::Lsn;
    use crate::metrics::{Ended, Why};
    use crate::rules::RuleId;
    use crate::status::{PostgresStatus, ReplayStatus, SinkStatus};

    fn published() -> Published {
        let text = "[postgres]\nurl = 'postgres://h/d'\n[redis.cache]\nurl = 'redis://h'\n\
            [[rule]]\ntable = 's.t'\ndelete = ['key:{id}']\n";
        let counts = Counts::new(&crate::config::parse("t", text).unwrap().rules);
        counts.change(RuleId(0), Op::Update);
        counts.fallback(RuleId(0), Why::Outage);
        counts.heartbeat.set(1_700_000_000);
        counts.waited(Target::Primary, 0.002);
        let sink = &counts.sinks[0];
        let action = Action { verb: Verb::Delete, value: b"k" };
        sink.ended([action; 3].into_iter(), Ended::Done);
        sink.batch_actions.observe(3.0);
        let postgres = PostgresStatus {
            confirmed_lsn: Some(Lsn(5)),
            lag_bytes: Some(4096),
            lag_seconds: Some(1.5),
            wal_held_bytes: Some(1 << 20),
            wal_left_bytes: Some(1 << 30),
            ..PostgresStatus::default()
        };
        let replay = ReplayStatus { horizon_seconds: Some(60.0), ..ReplayStatus::default() };
        let (name, state, waiting) = ("cache".to_owned(), SinkState::Up, 2);
        let sinks = vec![SinkStatus { name, state, waiting, ..SinkStatus::default() }];
        let (role, replay) = (Role::Streaming, Some(replay));
        let status = Status { role, postgres, replay, sinks, ..Status::default() };
        Published { status, counts: Arc::new(counts) }
    }

    /// Names, types and units are a promise: dashboards and alerts are made of them.
    #[test]
    fn names_types_and_units_stay() {
        let text = exposition(Arc::new(published())).unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE walpurge_"));
        assert_eq!(
            types.collect::<Vec<_>>(),
            [
                "build info",
                "role gauge",
                "gaps counter",
                "barrier_wait_seconds histogram",
                "lag_bytes gauge",
                "lag_seconds gauge",
                "wal_held_bytes gauge",
                "wal_left_seconds gauge",
                "replay_horizon_seconds gauge",
                "last_heartbeat_timestamp_seconds gauge",
                "changes counter",
                "fallbacks counter",
                "actions counter",
                "batch_actions histogram",
                "commit_to_done_seconds histogram",
                "retries counter",
                "redis_keys_requested counter",
                "redis_keys_removed counter",
                "waiting_actions gauge",
                "sink_up gauge",
                "parked gauge",
            ]
        );
        let units = text.lines().filter(|line| line.starts_with("# UNIT")).count();
        assert_eq!(units, 8, "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn values_stand_behind_names_with_their_labels() {
        let text = exposition(Arc::new(published())).unwrap();
        for line in [
            "walpurge_build_info{version=\"\"} 1",
            "walpurge_role 2.0",
            "walpurge_gaps_total 0",
            "walpurge_barrier_wait_seconds_count{target=\"primary\"} 1",
            "walpurge_barrier_wait_seconds_bucket{le=\"0.0025\",target=\"primary\"} 1",
            "walpurge_lag_bytes 4096.0",
            "walpurge_lag_seconds 1.5",
            "walpurge_wal_left_seconds inf",
            "walpurge_last_heartbeat_timestamp_seconds 1700000000.0",
            "walpurge_changes_total{rule=\"s.t\",op=\"update\"} 1",
            "walpurge_fallbacks_total{rule=\"s.t\",cause=\"outage\"} 1",
            "walpurge_actions_total{sink=\"cache\",verb=\"delete\",outcome=\"done\"} 3",
            "walpurge_actions_total{sink=\"cache\",verb=\"delete\",outcome=\"parked\"} 0",
            "walpurge_batch_actions_bucket{le=\"4.0\",sink=\"cache\"} 1",
            "walpurge_waiting_actions{sink=\"cache\"} 2.0",
            "walpurge_sink_up{sink=\"cache\"} 1.0",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\n{text}");
        }
        assert!(!text.contains("purge_keys"), "a Redis purges no CDN");
    }

    #[test]
    fn names_from_the_configuration_cannot_break_out_of_their_label() {
        let mut published = published();
        published.status.sinks[0].name = "a\"} 1\nb".to_owned();
        let text = exposition(Arc::new(published)).unwrap();
        assert!(text.contains("walpurge_sink_up{sink=\"a\\\"} 1\\nb\"} 1.0"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let counts = Arc::new(Counts::new(&crate::rules::RuleSet::default()));
        let text = exposition(Arc::new(Published { status: Status::default(), counts })).unwrap();
        assert!(!text.contains("walpurge_lag") && !text.contains("walpurge_sink_up"), "{text}");
        assert!(text.contains("walpurge_role 0.0"), "{text}");
    }
}
