//! Two hours without a CDN, on a clock of the test's own.

use std::time::Duration;

use super::*;

const CACHE: usize = 0;
const EDGE: usize = 1;
/// The same sink's purges of everything, with a pace.
const EDGE_ALL: usize = 2;

/// How long the CDN is down, in seconds.
const OUTAGE: u64 = 2 * 60 * 60;

/// What is committed in a second.
const TRANSACTIONS: u64 = 10;

/// What each transaction removes from the cache and purges: all others than the ones before.
const ROWS: u64 = 10;

/// How often everything is purged at most.
const PACE: Duration = Duration::from_secs(10);

/// More than one bound of the plan and what came since, by far less than the outage brings.
const PURGES_MAX: usize = 100_000;
const BYTES_MAX: usize = 3 * super::super::CROWDED_BYTES;

fn plan() -> Plan {
    let purge = |pace| PlannedLane {
        after: vec![LaneId(CACHE)],
        purge_all: Some(SinkId(1)),
        pace,
        ..PlannedLane::new(Stage::Purge)
    };
    let pace: Pace = Box::new(|_| PACE);
    let lanes = vec![PlannedLane::new(Stage::Remove), purge(None), purge(Some(pace))];
    let route = |sink: SinkId, action: Action<'_>, _| match (sink.0, action.verb) {
        (0, _) => LaneId(CACHE),
        (_, Verb::PurgeAll) => LaneId(EDGE_ALL),
        _ => LaneId(EDGE),
    };
    Plan::new(lanes, Routes { actions: Box::new(route), lookups: HashMap::new() })
}

/// What was handed to the CDN.
#[derive(Default)]
struct Sent {
    single: usize,
    all: usize,
}

impl Sent {
    fn count(&mut self, batch: &Batch) {
        let all = batch.iter().filter(|action| action.verb == Verb::PurgeAll).count();
        self.all += all;
        self.single += batch.len() - all;
    }
}

/// Whatever the cache's lane has to do is done at once.
fn work(plan: &mut Plan, now: Instant) -> usize {
    let mut done = 0;
    while let Some(batch) = plan.take(LaneId(CACHE), || now) {
        done += batch.len();
        plan.done(LaneId(CACHE), batch);
    }
    done
}

#[test]
fn two_hours_without_a_cdn_cost_one_bound_and_delay_no_cache() {
    let (mut plan, start) = (plan(), Instant::now());
    // What the CDN's lanes try again and again.
    let mut failing: [Option<Batch>; 3] = Default::default();
    let (mut sent, mut bytes_most, mut purges_most, mut unfinished_most) =
        (Sent::default(), 0, 0, 0);
    let mut end = 0;
    for second in 0..OUTAGE {
        let now = start + Duration::from_secs(second);
        for _ in 0..TRANSACTIONS {
            end += 1;
            plan.begin(None);
            for row in 0..ROWS {
                let value = format!("product:{}", end * ROWS + row);
                for (sink, verb) in [(0, Verb::Delete), (1, Verb::PurgeKey)] {
                    let action = Action { verb, value: value.as_bytes() };
                    plan.push(&[SinkId(sink)], action, Urgency::Prompt);
                }
            }
            plan.commit(Lsn(end));
            assert_eq!(work(&mut plan, now), ROWS as usize, "the cache is not kept waiting");
            assert!(plan.has_room(), "the reader stops in second {second}");
        }
        for lane in [EDGE, EDGE_ALL] {
            if failing[lane].is_none() {
                failing[lane] = plan.take(LaneId(lane), || now);
                failing[lane].iter().for_each(|batch| sent.count(batch));
            }
        }
        let lanes = [LaneId(EDGE), LaneId(EDGE_ALL)];
        let queued = lanes.map(|lane| plan.afterwards.queue(lane).load());
        bytes_most = bytes_most.max(
            lanes.iter().map(|lane| plan.lanes[lane.0].bytes()).sum::<usize>()
                + queued.iter().map(|load| load.bytes).sum::<usize>(),
        );
        purges_most = purges_most.max(lanes.iter().map(|&lane| plan.waiting(lane)).sum());
        unfinished_most = unfinished_most.max(plan.progress.len());
    }
    assert_eq!(plan.confirmed_lsn(), Lsn(0), "the WAL is held");
    assert!(bytes_most <= BYTES_MAX, "{bytes_most} bytes");
    assert!(purges_most <= 2 * PURGES_MAX, "{purges_most} purges");
    assert!(unfinished_most <= 2 * PURGES_MAX / ROWS as usize, "{unfinished_most} transactions");
    assert_eq!(sent.all, 1, "one of everything is tried");

    // The CDN works again.
    let mut now = start + Duration::from_secs(OUTAGE);
    while plan.confirmed_lsn() < Lsn(end) {
        for lane in [EDGE, EDGE_ALL] {
            if let Some(batch) = failing[lane].take() {
                plan.done(LaneId(lane), batch);
            }
            failing[lane] = plan.take(LaneId(lane), || now);
            failing[lane].iter().for_each(|batch| sent.count(batch));
        }
        now += Duration::from_secs(1);
        assert!(now < start + Duration::from_secs(2 * OUTAGE), "it never ends");
    }
    let asked = (OUTAGE * TRANSACTIONS * ROWS) as usize;
    assert!(sent.all <= 2, "everything is purged {} times", sent.all);
    assert!(sent.single <= PURGES_MAX, "{} of {asked} one by one", sent.single);
}
