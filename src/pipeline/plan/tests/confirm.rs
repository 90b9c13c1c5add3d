//! What is confirmed, with every kind of lane, both kinds of messages, retries and reconnects.
//!
//! The model is a ledger of what each streamed transaction has asked for, and of what a lane has
//! done since it could: what comes afterwards counts only if its batch began when all that comes
//! before it was done. So whatever is told or purged too early, is taken for done by something
//! else's purge, or is forgotten when purges become one of everything, shows as a position that is
//! confirmed too early.

mod ledger;
mod server;

use std::time::Duration;

use proptest::test_runner::{Config, TestRunner};
use server::Model;

use super::*;

const LOOKUP: usize = 0;
const PACED: usize = 3;
const TELL: usize = 4;
/// Fills from one cache, and purges everything through a lane with a pace.
const PURGE: usize = 5;
const PURGE_ALL: usize = 6;
/// Fills from both caches, and purges everything through the same lane.
const EDGE: usize = 7;
const COUNT: usize = 8;
/// What purges everything in the last one.
const ALL_KEY: u8 = 4;
/// What stands for keys that waited for a cache that is down.
const COARSE_KEY: u8 = 5;
/// Lookups of these keys are asked for each transaction by itself: only such ones bring what runs
/// afterwards.
const OWN_KEYS: u8 = 3;
const RULE: RuleId = RuleId(0);

/// Which lanes come before one.
fn before(lane: usize) -> &'static [usize] {
    match lane {
        TELL | EDGE => &[LOOKUP, 1, 2, PACED],
        PURGE | PURGE_ALL => &[LOOKUP, 1, PACED],
        _ => &[],
    }
}

/// `few`: so many wait apart, before they are joined or become one.
fn plan(few: usize) -> Plan {
    let purge = |sink, after: &[usize]| PlannedLane {
        after: after.iter().map(|&lane| LaneId(lane)).collect(),
        purge_all: Some(SinkId(sink)),
        ..PlannedLane::new(Stage::Purge)
    };
    let rests: Pace = Box::new(|_| Duration::from_secs(7));
    let lane = PlannedLane::new;
    let pace: Pace = Box::new(|_| Duration::from_secs(5));
    let lanes = vec![
        lane(Stage::Lookup),
        lane(Stage::Remove),
        lane(Stage::Remove),
        PlannedLane { pace: Some(pace), ..PlannedLane::new(Stage::Remove) },
        lane(Stage::Tell),
        purge(5, before(PURGE)),
        PlannedLane { pace: Some(rests), ..purge(5, before(PURGE_ALL)) },
        purge(7, before(EDGE)),
    ];
    let route = |sink: SinkId, action: Action<'_>, urgency| match (action.verb, urgency) {
        (Verb::Publish, _) => LaneId(TELL),
        (Verb::PurgeAll, _) if sink == SinkId(5) => LaneId(PURGE_ALL),
        (Verb::PurgeKey | Verb::PurgeAll, _) => LaneId(sink.0 as usize),
        (_, Urgency::Paced) => LaneId(PACED),
        _ => LaneId(sink.0 as usize),
    };
    let lookups = HashMap::from([(RULE, LaneId(LOOKUP))]);
    let mut plan = Plan::new(lanes, Routes { actions: Box::new(route), lookups });
    plan.purges.actions_max = few;
    plan.afterwards.keep_bundles(few);
    plan
}

/// What is asked for in a lane: the sink, and the verb. `None`: a lookup.
fn asked(lane: usize, key: u8) -> Option<(SinkId, Verb, Urgency)> {
    let prompt = |sink, verb| Some((SinkId(sink), verb, Urgency::Prompt));
    match lane {
        LOOKUP => None,
        PACED => Some((SinkId(1), Verb::DeleteMatching, Urgency::Paced)),
        TELL => prompt(1, Verb::Publish),
        PURGE_ALL => prompt(5, Verb::PurgeAll),
        EDGE if key == ALL_KEY => prompt(7, Verb::PurgeAll),
        PURGE | EDGE => prompt(lane as u32, Verb::PurgeKey),
        _ => prompt(lane as u32, Verb::Delete),
    }
}

/// The key, and where it counts whose it is.
fn value(verb: Verb, key: u8, whose: [u8; 2]) -> Vec<u8> {
    match verb {
        Verb::PurgeAll => b"*".to_vec(),
        Verb::Lookup if key >= OWN_KEYS => [&[b'0' + key], &whose[..]].concat(),
        _ => vec![b'0' + key],
    }
}

fn ask(plan: &mut Plan, lane: usize, key: u8, whose: [u8; 2]) {
    match asked(lane, key) {
        None => {
            let value = value(Verb::Lookup, key, whose);
            plan.look_up(RULE, Action { verb: Verb::Lookup, value: &value });
        }
        Some((sink, verb, urgency)) => {
            let value = value(verb, key, whose);
            plan.push(&[sink], Action { verb, value: &value }, urgency);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Begin,
    /// In a lane, for a key.
    Ask(usize, u8),
    Commit,
    /// A message that is no part of a transaction.
    Message(usize, u8),
    /// Something that has no position: a look at the catalog brings it.
    Unplaced(u8),
    Keepalive,
    Show(Vec<prop::sample::Index>),
    Take(usize),
    /// A batch fails, and its lane goes on trying.
    Fail(usize),
    /// A lane's batch is done; a lookup finds a key, for a lane.
    Done(usize, u8, usize),
    /// A cache is down: what waits for it becomes coarser.
    Collapse,
    Disconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let hidden = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    let answers = prop::sample::select(vec![1, 2, PACED, TELL, PURGE, PURGE_ALL, EDGE]);
    prop_oneof![
        3 => Just(Step::Begin),
        8 => (0..COUNT, 0..5u8).prop_map(|(lane, key)| Step::Ask(lane, key)),
        3 => Just(Step::Commit),
        2 => (0..COUNT, 0..5u8).prop_map(|(lane, key)| Step::Message(lane, key)),
        1 => (0..5u8).prop_map(Step::Unplaced),
        1 => Just(Step::Keepalive),
        3 => hidden.prop_map(Step::Show),
        6 => (0..COUNT).prop_map(Step::Take),
        1 => (0..COUNT).prop_map(Step::Fail),
        6 => (0..COUNT, 0..5u8, answers).prop_map(|(lane, key, to)| Step::Done(lane, key, to)),
        1 => Just(Step::Collapse),
        1 => Just(Step::Disconnect),
    ]
}

fn run(broken: Option<Failpoint>, few: usize, steps: Vec<Step>) {
    let mut model = Model::new(broken, few);
    steps.into_iter().for_each(|step| model.step(step));
    model.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_confirmed_never_goes_back_nor_past_what_is_unfinished(
        few in 1..8usize,
        steps in prop::collection::vec(step(), 0..150),
    ) {
        run(None, few, steps);
    }
}

#[test]
fn a_plan_that_is_broken_is_caught() {
    for broken in [Failpoint::MergeNewest, Failpoint::MergeInFlight] {
        let config = Config { failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let caught = TestRunner::new(config).run(&prop::collection::vec(step(), 0..150), |steps| {
            run(Some(broken), 100, steps);
            Ok(())
        });
        let caught = caught.expect_err("nobody has noticed").to_string();
        assert!(caught.contains("is too early for"), "{broken:?}: {caught}");
    }
}
