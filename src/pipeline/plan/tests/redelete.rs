//! Deletes that are done again, later: each after every delay from when its transaction was visible,
//! unless the first time was late enough; messages and purges once more after the last of them.

use std::time::Duration;

use super::*;
use crate::rules::RedeleteId;

const PLAIN: usize = 0;
const FIRST_TIME: usize = 1;
const AGAIN: usize = 2;
const COARSE: usize = 3;
const TELL: usize = 4;
const TELL_MORE: usize = 5;
const COUNT: usize = 6;

const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(5);
const REDELETE: Manner = Manner { urgency: Urgency::Prompt, redelete: Some(RedeleteId(0)) };

fn plan() -> Plan {
    let new = PlannedLane::new;
    let again = Repeats { to: LaneId(AGAIN), after: [SOON, LATE].into(), from: Since::Visible };
    let by = |verb, lane| RedeletedBy { redelete: RedeleteId(0), verb, lane: LaneId(lane) };
    let redeleted_by = vec![by(Verb::Delete, FIRST_TIME), by(Verb::DeleteMatching, COARSE)];
    let lanes = vec![
        PlannedLane { redeleted_by, ..new(Stage::Remove) },
        PlannedLane { again: Some(again.clone()), ..new(Stage::Remove) },
        new(Stage::Remove),
        PlannedLane { again: Some(again), ..new(Stage::Remove) },
        PlannedLane { once_more: Some(LaneId(TELL_MORE)), ..new(Stage::Tell) },
        new(Stage::Tell),
    ];
    let route =
        |_, action: Action<'_>, _| LaneId(if action.verb == Verb::Publish { TELL } else { PLAIN });
    Plan::new(lanes, Routes { actions: Box::new(route), lookups: HashMap::new() })
}

fn delete(plan: &mut Plan, key: &str) {
    let action = Action { verb: Verb::Delete, value: key.as_bytes() };
    plan.push(&[SinkId(0)], action, REDELETE);
}

fn tell(plan: &mut Plan, key: &str) {
    let action = Action { verb: Verb::Publish, value: key.as_bytes() };
    plan.push(&[SinkId(0)], action, REDELETE);
}

/// A transaction that is visible at `now`.
fn transact(plan: &mut Plan, end_lsn: u64, key: &str, now: Instant) {
    plan.tick(now);
    plan.begin(None);
    delete(plan, key);
    plan.commit(Lsn(end_lsn));
}

#[test]
fn a_delete_is_done_again_after_each_delay_from_when_it_was_visible() {
    let (mut plan, start) = (plan(), Instant::now());
    transact(&mut plan, 1, "k", start);
    assert!(plan.take(LaneId(PLAIN), || start).is_none());
    assert_eq!(run_at(&mut plan, FIRST_TIME, start + SOON / 2), ["k"]);
    for delay in [SOON, LATE] {
        assert_eq!(plan.next_repeat(), Some(start + delay));
        let early = start + delay - Duration::from_nanos(1);
        assert!(run_at(&mut plan, AGAIN, early).is_empty());
        assert_eq!(plan.confirmed_lsn(), Lsn(0));
        assert_eq!(run_at(&mut plan, AGAIN, start + delay), ["k"]);
    }
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    assert!(plan.is_idle() && plan.next_repeat().is_none());
}

#[test]
fn what_is_sent_late_enough_is_not_repeated() {
    let (mut plan, start) = (plan(), Instant::now());
    transact(&mut plan, 1, "k", start);
    run_at(&mut plan, FIRST_TIME, start + SOON);
    assert_eq!(plan.next_repeat(), Some(start + LATE), "the first delay has passed");
    run_at(&mut plan, AGAIN, start + LATE);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    transact(&mut plan, 2, "k", start + LATE);
    run_at(&mut plan, FIRST_TIME, start + 2 * LATE);
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
    assert!(plan.is_idle());
}

#[test]
fn an_action_that_merged_with_a_younger_one_counts_from_that() {
    let (mut plan, start) = (plan(), Instant::now());
    transact(&mut plan, 1, "k", start);
    transact(&mut plan, 2, "k", start + LATE);
    run_at(&mut plan, FIRST_TIME, start + LATE);
    assert_eq!(run_at(&mut plan, AGAIN, start + LATE + SOON), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    assert_eq!(run_at(&mut plan, AGAIN, start + 2 * LATE), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
}

#[test]
fn a_backlog_older_than_the_delays_is_not_repeated_and_what_was_hidden_is() {
    let (mut plan, start) = (plan(), Instant::now() + 2 * LATE);
    plan.written_by(Lsn(10), start - 2 * LATE);
    let begin = |plan: &mut Plan, xid, end_lsn, key| {
        plan.tick(start);
        plan.begin_until(Some((xid, Hidden::All)), Lsn(end_lsn));
        delete(plan, key);
        plan.commit(Lsn(end_lsn));
    };
    begin(&mut plan, 1, 1, "old");
    begin(&mut plan, 2, 2, "hidden");
    plan.show(snapshot(100, &[2]));
    begin(&mut plan, 3, 3, "old too");
    assert_eq!(run_at(&mut plan, FIRST_TIME, start), ["old", "old too"]);
    assert!(plan.next_repeat().is_none());
    begin(&mut plan, 4, 11, "young");
    run_at(&mut plan, FIRST_TIME, start);
    assert_eq!(run_at(&mut plan, AGAIN, start + LATE), ["young"]);
    plan.tick(start + LATE);
    plan.show(snapshot(100, &[]));
    assert_eq!(run_at(&mut plan, FIRST_TIME, start + LATE), ["hidden"]);
    assert_eq!(run_at(&mut plan, AGAIN, start + 2 * LATE), ["hidden"]);
    assert!(plan.is_idle());
}

#[test]
fn what_is_told_is_told_once_more_after_the_last_repeat() {
    let (mut plan, start) = (plan(), Instant::now());
    plan.tick(start);
    plan.begin(None);
    tell(&mut plan, "k is gone");
    delete(&mut plan, "k");
    plan.commit(Lsn(1));
    assert!(run_at(&mut plan, TELL, start).is_empty());
    run_at(&mut plan, FIRST_TIME, start);
    assert_eq!(run_at(&mut plan, TELL, start), ["k is gone"]);
    run_at(&mut plan, AGAIN, start + SOON);
    assert!(run_at(&mut plan, TELL_MORE, start + LATE).is_empty(), "one is still owed");
    // It is under way, and not done.
    let batch = plan.take(LaneId(AGAIN), || start + LATE).unwrap();
    assert!(run_at(&mut plan, TELL_MORE, start + 2 * LATE).is_empty());
    plan.done(LaneId(AGAIN), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    assert_eq!(run_at(&mut plan, TELL_MORE, start + LATE), ["k is gone"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    assert!(plan.is_idle());
}

#[test]
fn what_is_told_when_nothing_is_owed_is_told_once() {
    let (mut plan, start) = (plan(), Instant::now());
    plan.tick(start);
    plan.begin(None);
    tell(&mut plan, "k is gone");
    delete(&mut plan, "k");
    plan.commit(Lsn(1));
    run_at(&mut plan, FIRST_TIME, start + LATE);
    assert_eq!(run_at(&mut plan, TELL, start + LATE), ["k is gone"]);
    assert!(plan.is_idle());
}

#[test]
fn repeats_that_are_too_many_become_one_coarse_one_at_the_last_delay() {
    let (mut plan, start) = (plan(), Instant::now());
    for number in 0..1000u32 {
        let now = start + Duration::from_micros(number.into());
        transact(&mut plan, u64::from(number) + 1, &format!("k{number}"), now);
        run_at(&mut plan, FIRST_TIME, now);
    }
    assert_eq!(plan.crowded_repeats(1000), Some(LaneId(AGAIN)));
    let coarse = Action { verb: Verb::DeleteMatching, value: b"k*" };
    let is_reached = |action: Action<'_>| action.value != b"k7";
    let count = plan.collapse_repeats(LaneId(AGAIN), is_reached, SinkId(0), coarse);
    assert_eq!(count, 999);
    assert_eq!(plan.unfinished(LaneId(AGAIN)), 2);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    let youngest = start + Duration::from_micros(999);
    let before = run_at(&mut plan, AGAIN, youngest + LATE - Duration::from_nanos(1));
    assert_eq!(before, ["k7"], "the exact one has missed its first delay");
    assert_eq!(run_at(&mut plan, AGAIN, youngest + LATE), ["k*"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(1000));
}

#[test]
fn a_stream_that_breaks_off_leaves_what_it_owes_and_confirms_none_of_it() {
    let (mut plan, start) = (plan(), Instant::now());
    transact(&mut plan, 1, "k", start);
    run_at(&mut plan, FIRST_TIME, start);
    plan.disconnect();
    transact(&mut plan, 1, "k", start + SOON);
    run_at(&mut plan, FIRST_TIME, start + SOON);
    assert_eq!(run_at(&mut plan, AGAIN, start + LATE), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    assert_eq!(run_at(&mut plan, AGAIN, start + SOON + LATE), ["k"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
}

#[derive(Clone, Debug)]
enum Step {
    /// A transaction that deletes and tells of these keys, visible at once or later.
    Transact(Vec<u8>, bool),
    Take(usize),
    Done(usize),
    /// So many tenths of a second.
    Wait(u64),
    /// Everything is visible.
    Show,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (prop::collection::vec(0..5u8, 0..3), any::<bool>())
            .prop_map(|(keys, hidden)| Step::Transact(keys, hidden)),
        8 => (0..COUNT).prop_map(Step::Take),
        8 => (0..COUNT).prop_map(Step::Done),
        5 => (1..30u64).prop_map(Step::Wait),
        1 => Just(Step::Show),
    ]
}

/// What a transaction asked for.
#[derive(Debug)]
struct Asked {
    end_lsn: Lsn,
    key: String,
    visible_at: Option<Instant>,
    /// A delete was begun so late that no reader can undo it.
    is_clean: Option<Instant>,
    told_at: Option<Instant>,
}

struct Model {
    plan: Plan,
    now: Instant,
    asked: Vec<Asked>,
    in_flight: [Option<(Batch, Instant)>; COUNT],
    number: u32,
}

impl Model {
    fn run(&mut self, step: Step) {
        self.now += Duration::from_nanos(1);
        let now = self.now;
        self.plan.tick(now);
        match step {
            Step::Transact(keys, is_hidden) => {
                self.number += 1;
                let end_lsn = Lsn(self.number.into());
                self.plan.begin(is_hidden.then_some((self.number, Hidden::All)));
                let visible_at = (!is_hidden).then_some(now);
                for key in keys.iter().map(|key| format!("k{key}")) {
                    delete(&mut self.plan, &key);
                    tell(&mut self.plan, &key);
                    let (is_clean, told_at) = (None, None);
                    self.asked.push(Asked { end_lsn, key, visible_at, is_clean, told_at });
                }
                self.plan.commit(end_lsn);
            }
            Step::Show => {
                self.plan.show(snapshot(self.number + 1, &[]));
                let hidden = self.asked.iter_mut().filter(|asked| asked.visible_at.is_none());
                hidden.for_each(|asked| asked.visible_at = Some(now));
            }
            Step::Take(lane) => {
                if let Some(batch) = self.plan.take(LaneId(lane), || now) {
                    self.in_flight[lane] = Some((batch, now));
                }
            }
            Step::Done(lane) => {
                let Some((batch, since)) = self.in_flight[lane].take() else { return };
                let keys = values(&batch);
                self.plan.repeat(LaneId(lane), &batch, |_| true, || now);
                self.plan.done(LaneId(lane), batch);
                for asked in self.asked.iter_mut().filter(|asked| keys.contains(&asked.key)) {
                    let Some(visible_at) = asked.visible_at else { continue };
                    if lane < TELL && since >= visible_at + LATE {
                        asked.is_clean = asked.is_clean.or(Some(now));
                    }
                    if lane >= TELL && asked.is_clean.is_some_and(|clean| clean <= since) {
                        asked.told_at = Some(now);
                    }
                }
            }
            Step::Wait(tenths) => self.now += Duration::from_millis(100 * tenths),
        }
        let confirmed = self.plan.confirmed_lsn();
        for asked in self.asked.iter().filter(|asked| asked.end_lsn <= confirmed) {
            assert!(asked.is_clean.is_some(), "{confirmed} is confirmed before {asked:?}");
            assert!(asked.told_at.is_some(), "{confirmed} is confirmed, untold: {asked:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_is_confirmed_before_no_reader_can_undo_it_and_all_know(
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let (asked, in_flight) = (Vec::new(), Default::default());
        let mut model = Model { plan: plan(), now: Instant::now(), asked, in_flight, number: 0 };
        steps.into_iter().for_each(|step| model.run(step));
        model.run(Step::Show);
        let mut left = 0;
        while !model.plan.is_idle() {
            for lane in 0..COUNT {
                model.run(Step::Take(lane));
                model.run(Step::Done(lane));
            }
            model.run(Step::Wait(5));
            left += 1;
            prop_assert!(left <= 100, "something never comes: {:?}", model.asked);
        }
        prop_assert!(model.asked.iter().all(|asked| asked.is_clean.is_some()));
    }
}
