//! Which lanes a configuration makes, and what leads where.

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use super::super::endpoints;
use super::*;
use crate::config::{Kept, parse};
use crate::pipeline::RedeletedBy;

/// The lanes of a configuration.
fn made(text: &str) -> (Vec<LaneSpec>, Routes) {
    let loaded = parse("t", text).unwrap();
    let sinks = endpoints::sinks(&loaded.config, Kept::Nothing);
    let sinks = sinks.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    let rules = Arc::new(loaded.rules);
    lanes(&loaded.config, sinks, &rules, None, |_| Work::Done)
}

#[test]
fn a_clusters_lanes_stand_where_its_actions_are_routed() {
    let text = "[postgres]\nurl = \"postgres://h/d\"\n\
        [redis.a]\nurl = \"redis://h\"\n\
        [redis.b]\ncluster = [\"redis://h\"]\n\
        [redis.c]\nurl = \"redis://h\"\n\
        [[rule]]\ntable = \"public.t\"\ndelete = [\"key:{id}\"]\n\
        publish = { channel = \"c\", message = \"m\" }\n";
    let (lanes, routes) = made(text);
    let at = |sink, verb, urgency| {
        let action = Action { verb, value: b"c\0x" };
        (routes.actions)(SinkId(sink), action, urgency).0
    };
    let classes = |sink| {
        use Urgency::{Paced, Prompt};
        let verbs = [Verb::Delete, Verb::Tag, Verb::DeleteMatching];
        let prompt = verbs.map(|verb| at(sink, verb, Prompt));
        let rest = [at(sink, Verb::DeleteMatching, Paced), at(sink, Verb::Publish, Prompt)];
        [&prompt[..], &rest].concat()
    };
    let tags = 6 + SHARDS;
    let scans = tags + SHARDS;
    assert_eq!(classes(0), [0, 1, 2, 3, 5]);
    assert_eq!(classes(1), [6, tags, scans, scans + 1, scans + 3]);
    let first = scans + 4;
    assert_eq!(classes(2), [first, first + 1, first + 2, first + 3, first + 5]);
    assert_eq!(lanes.len(), first + 6);
    let pooled = |lane: &LaneSpec| lane.joins_pool;
    assert_eq!(lanes.iter().filter(|lane| pooled(lane)).count(), 2 * (SHARDS - 1));
    assert!(!pooled(&lanes[6]) && pooled(&lanes[7]) && !pooled(&lanes[tags]));
    assert!(lanes[scans].stage == Stage::Remove && lanes[scans + 1].pace.is_some());
    assert_eq!(lanes[scans + 3].stage, Stage::Tell);
}

#[test]
fn every_shard_of_a_cluster_leads_to_the_lanes_that_delete_again() {
    let text = "[postgres]\nurl = \"postgres://h/d\"\n\
        [redis.a]\nurl = \"redis://h\"\n\
        [redis.b]\ncluster = [\"redis://h\"]\n\
        [[rule]]\ntable = \"public.t\"\ndelete = [\"key:{id}\"]\n\
        redelete_after = [\"1s\"]\n";
    let (lanes, _) = made(text);
    for (sink, shards) in [("a", 1), ("b", SHARDS)] {
        let leads = lanes.iter().filter(|lane| lane.sink == sink).flat_map(|lane| {
            lane.redeleted_by.iter().filter(|by| by.verb == Verb::Delete).map(|by| by.lane)
        });
        let leads: Vec<LaneId> = leads.collect();
        assert_eq!(leads, vec![leads[0]; shards], "{sink}");
        let again = &lanes[leads[0].0];
        let to = again.again.as_ref().map(|repeats| &lanes[repeats.to.0]);
        assert!(again.sink == sink && to.is_some_and(|to| to.sink == sink), "{sink}");
    }
}

#[test]
fn what_lookups_find_has_a_lane_of_its_own_where_it_is_paced() {
    let text = "[postgres]\nurl = \"postgres://h/d\"\n\
        [redis.a]\nurl = \"redis://h\"\n\
        [redis.b]\nurl = \"redis://h\"\nmax_keys_per_second = 10\n\
        [redis.c]\ncluster = [\"redis://h\"]\nmax_keys_per_second = 10\n\
        [[rule]]\ntable = \"public.t\"\nlookup = \"SELECT 1 AS x WHERE 1 = {id}\"\n\
        delete = [\"key:{x}\"]\nredelete_after = [\"1s\"]\n";
    let (lanes, routes) = made(text);
    for (sink, name, is_paced) in [(0, "a", false), (1, "b", true), (2, "c", true)] {
        let to = |verb, urgency| {
            let lane = (routes.actions)(SinkId(sink), Action { verb, value: b"v" }, urgency);
            assert_eq!(lanes[lane.0].sink, name);
            lane
        };
        for verb in [Verb::Delete, Verb::Expire] {
            let found = to(verb, Urgency::Found);
            assert_eq!(found != to(verb, Urgency::Prompt), is_paced);
            let by = |by: &&RedeletedBy| by.verb == verb;
            let again = lanes[found.0].redeleted_by.iter().find(by).unwrap().lane;
            assert!(lanes[again.0].sink == name && lanes[again.0].again.is_some());
            let pattern = match verb {
                Verb::Delete => Verb::DeleteMatching,
                _ => Verb::ExpireMatching,
            };
            let patterns = to(pattern, Urgency::Prompt);
            let by = |by: &&RedeletedBy| by.verb == pattern;
            let of_patterns = lanes[patterns.0].redeleted_by.iter().find(by).unwrap().lane;
            assert_eq!(again == of_patterns, is_paced, "they are paced then, too");
        }
        for verb in [Verb::Tag, Verb::Bump, Verb::DeleteMatching] {
            assert_eq!(to(verb, Urgency::Found), to(verb, Urgency::Prompt));
        }
    }
}
