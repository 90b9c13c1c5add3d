//! The dispatcher, with lanes that do nothing.

use super::*;
use crate::action::{Action, Verb};
use crate::lsn::Lsn;
use crate::pipeline::Urgency;
use crate::rules::SinkId;
use crate::sinks::DryRunLane;

/// A lane of lookups, and one that removes.
fn dispatcher() -> Dispatcher {
    let lane = |stage| {
        let lane = Lane::DryRun(DryRunLane::new("cache"));
        LaneSpec::new("cache", lane, stage)
    };
    let routes = Routes {
        actions: Box::new(|_, _, _| LaneId(1)),
        lookups: HashMap::from([(crate::rules::RuleId(0), LaneId(0))]),
    };
    let lanes = vec![lane(Stage::Lookup), lane(Stage::Remove)];
    Dispatcher::new(lanes, routes, Arc::default(), Parked::default())
}

#[tokio::test]
async fn lookups_wait_for_room_for_their_answers() {
    let mut dispatcher = dispatcher();
    let plan = dispatcher.plan_mut();
    plan.begin(None);
    plan.look_up(crate::rules::RuleId(0), Action { verb: Verb::Lookup, value: b"q" });
    for key in 0..20u8 {
        let value = vec![key; 1 << 20];
        let action = Action { verb: Verb::Delete, value: &value };
        plan.push(&[SinkId(0)], action, Urgency::Prompt);
    }
    plan.commit(Lsn(1));
    dispatcher.dispatch();
    assert_eq!(dispatcher.plan().waiting(LaneId(0)), 1);
    while dispatcher.plan().waiting(LaneId(1)) > 10 {
        dispatcher.turn().await;
    }
    assert_eq!(dispatcher.plan().waiting(LaneId(0)), 0);
}

#[tokio::test]
async fn what_was_counted_of_a_finished_transaction_is_forgotten() {
    let mut dispatcher = dispatcher();
    dispatcher.bulks.insert(0, Bulk::default());
    let plan = dispatcher.plan_mut();
    plan.begin(None);
    plan.push(&[SinkId(0)], Action { verb: Verb::Delete, value: b"k" }, Urgency::Prompt);
    plan.commit(Lsn(1));
    dispatcher.turn().await;
    assert!(dispatcher.bulks.is_empty());
}

#[tokio::test]
async fn what_the_stream_left_behind_goes_out_when_it_is_gone() {
    let lane = Lane::DryRun(DryRunLane::new("cache"));
    let stage = Stage::Remove;
    let lane = LaneSpec::new("cache", lane, stage);
    let routes = Routes { actions: Box::new(|_, _, _| LaneId(0)), lookups: HashMap::new() };
    let mut dispatcher = Dispatcher::new(vec![lane], routes, Arc::default(), Parked::default());
    let plan = dispatcher.plan_mut();
    plan.begin(None);
    plan.push(&[SinkId(0)], Action { verb: Verb::Delete, value: b"k" }, Urgency::Prompt);
    plan.commit(Lsn(1));
    plan.disconnect();
    let turned = tokio::time::timeout(std::time::Duration::from_secs(20), dispatcher.turn());
    assert!(turned.await.is_ok(), "nothing was sent");
    assert_eq!(dispatcher.done().actions, 1);
}
