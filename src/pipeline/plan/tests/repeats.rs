//! Purges that are done again, later: nothing is confirmed before the last time, none comes too
//! early, and all come in the end.

use std::time::Duration;

use super::*;

const EDGE: usize = 0;
const EDGE_ALL: usize = 1;
const REPEATS: usize = 2;
/// Another sink's, which cannot purge everything.
const PROXY: usize = 3;
const PROXY_REPEATS: usize = 4;
const COUNT: usize = 5;

const PACE: Duration = Duration::from_secs(5);
const FIRST: Duration = Duration::from_secs(3);
const LAST: Duration = Duration::from_secs(8);

/// `few`: so many wait before they become one.
fn plan(few: usize) -> Plan {
    let lane = |sink: u32, purges_all: bool, to: Option<usize>| PlannedLane {
        purge_all: purges_all.then_some(SinkId(sink)),
        again: to.map(|to| Repeats {
            to: LaneId(to),
            after: [FIRST, LAST].into(),
            from: Since::Done,
        }),
        ..PlannedLane::new(Stage::Purge)
    };
    let pace: Pace = Box::new(|_| PACE);
    let lanes = vec![
        lane(0, true, Some(REPEATS)),
        PlannedLane { pace: Some(pace), ..lane(0, true, Some(REPEATS)) },
        lane(0, true, None),
        lane(1, false, Some(PROXY_REPEATS)),
        lane(1, false, None),
    ];
    let route = |sink: SinkId, action: Action<'_>, _| match (sink.0, action.verb) {
        (0, Verb::PurgeAll) => LaneId(EDGE_ALL),
        (0, _) => LaneId(EDGE),
        _ => LaneId(PROXY),
    };
    let mut plan = Plan::new(lanes, Routes { actions: Box::new(route), lookups: HashMap::new() });
    plan.purges.actions_max = few;
    plan
}

fn ask(plan: &mut Plan, lane: usize, key: &str) {
    let (sink, action) = match lane {
        EDGE_ALL => (0, Action::PURGE_ALL),
        EDGE => (0, Action { verb: Verb::PurgeKey, value: key.as_bytes() }),
        _ => (1, Action { verb: Verb::PurgeKey, value: key.as_bytes() }),
    };
    plan.push(&[SinkId(sink)], action, Urgency::Prompt);
}

fn transact(plan: &mut Plan, end_lsn: u64, lane: usize, key: &str) {
    plan.begin(None);
    ask(plan, lane, key);
    plan.commit(Lsn(end_lsn));
}

#[test]
fn a_purge_is_done_again_after_each_delay_and_confirmed_after_the_last() {
    let (mut plan, start) = (plan(100), Instant::now());
    transact(&mut plan, 1, EDGE, "k");
    let batch = plan.take(LaneId(EDGE), || start).unwrap();
    // It counts from when it was done, not from when it was sent.
    let done_at = start + Duration::from_secs(60);
    finish_at(&mut plan, EDGE, batch, done_at);
    assert_eq!(plan.unfinished(LaneId(REPEATS)), 1);
    for delay in [FIRST, LAST] {
        assert_eq!(plan.next_repeat(), Some(done_at + delay));
        let early = done_at + delay - Duration::from_nanos(1);
        assert!(run_at(&mut plan, REPEATS, early).is_empty());
        assert_eq!(plan.confirmed_lsn(), Lsn(0));
        assert_eq!(run_at(&mut plan, REPEATS, done_at + delay), ["k"]);
    }
    assert_eq!(plan.confirmed_lsn(), Lsn(1));
    assert_eq!(plan.next_repeat(), None);
    assert!(plan.is_idle());
}

#[test]
fn what_has_missed_several_times_is_done_again_once() {
    let (mut plan, start) = (plan(100), Instant::now());
    transact(&mut plan, 1, EDGE, "k");
    run_at(&mut plan, EDGE, start);
    assert_eq!(run_at(&mut plan, REPEATS, start + 2 * LAST), ["k"]);
    assert!(plan.is_idle());
}

#[test]
fn what_is_given_up_is_not_done_again() {
    let mut plan = plan(100);
    transact(&mut plan, 1, EDGE, "k");
    let batch = plan.take(LaneId(EDGE), Instant::now).unwrap();
    plan.repeat(LaneId(EDGE), &batch, |_| false, Instant::now);
    plan.done(LaneId(EDGE), batch);
    assert!(plan.is_idle());
}

#[test]
fn a_purge_that_is_done_all_the_time_is_repeated_now_and_then_and_confirmed() {
    let (mut plan, start) = (plan(100_000), Instant::now());
    let (mut repeats, mut now) = (0, start);
    // Ten a second, for 100 seconds.
    for number in 1..=1000u64 {
        now += Duration::from_millis(100);
        transact(&mut plan, number, EDGE, "hot");
        run_at(&mut plan, EDGE, now);
        repeats += run_at(&mut plan, REPEATS, now).len();
        assert!(plan.unfinished(LaneId(REPEATS)) <= 2, "equal ones merge");
        // The oldest is put off by nothing, and what waits behind it for as long as that.
        let behind = 2 * LAST.as_millis() as u64 / 100 + 2;
        assert!(plan.confirmed_lsn() >= Lsn(number.saturating_sub(behind)), "at {number}");
    }
    assert!(repeats <= 40, "{repeats}");
    while !plan.is_idle() {
        now = plan.next_repeat().unwrap();
        run_at(&mut plan, REPEATS, now);
    }
    assert!(now - start <= Duration::from_secs(100) + 2 * LAST);
    assert_eq!(plan.confirmed_lsn(), Lsn(1000));
}

#[test]
fn a_purge_of_everything_absorbs_the_repeats_that_come_before_its_own() {
    let (mut plan, start) = (plan(100), Instant::now());
    for number in 0..50 {
        transact(&mut plan, 1 + number, EDGE, &number.to_string());
    }
    run_at(&mut plan, EDGE, start);
    let now = start + FIRST / 2;
    transact(&mut plan, 51, EDGE_ALL, "*");
    assert_eq!(run_at(&mut plan, EDGE_ALL, now), ["*"]);
    assert_eq!(plan.unfinished(LaneId(REPEATS)), 1);
    assert!(run_at(&mut plan, REPEATS, start + FIRST).is_empty());
    for delay in [FIRST, LAST] {
        assert_eq!(plan.confirmed_lsn(), Lsn(0));
        assert_eq!(run_at(&mut plan, REPEATS, now + delay), ["*"]);
    }
    assert_eq!(plan.confirmed_lsn(), Lsn(51));
}

#[test]
fn repeats_that_are_too_many_become_one_of_everything_at_the_last_delay() {
    let (mut plan, start) = (plan(100), Instant::now());
    let mut now = start;
    for number in 0..1000 {
        now += Duration::from_micros(1);
        transact(&mut plan, 1 + number, EDGE, &number.to_string());
        run_at(&mut plan, EDGE, now);
        assert!(plan.unfinished(LaneId(REPEATS)) <= 100 && plan.has_room());
    }
    assert!(plan.take_collapsed().is_some());
    let mut sent = Vec::new();
    while plan.confirmed_lsn() < Lsn(1000) {
        now = plan.next_repeat().unwrap();
        sent.extend(run_at(&mut plan, REPEATS, now).into_iter().filter(|value| value == "*"));
    }
    assert!((1..=3).contains(&sent.len()), "{sent:?}");
    assert!(plan.is_idle() && now >= start + LAST);
}

#[test]
fn repeats_of_a_sink_that_cannot_purge_everything_stop_the_reader_until_they_are_done() {
    let (mut plan, start) = (plan(100), Instant::now());
    for number in 0..100 {
        assert!(plan.has_room());
        transact(&mut plan, 1 + number, PROXY, &number.to_string());
        run_at(&mut plan, PROXY, start);
    }
    assert!(!plan.has_room());
    assert_eq!(run_at(&mut plan, PROXY_REPEATS, start + FIRST).len(), 100);
    assert!(!plan.has_room(), "they are done once more");
    run_at(&mut plan, PROXY_REPEATS, start + LAST);
    assert!(plan.has_room() && plan.is_idle());
}

#[test]
fn a_sinks_position_waits_for_its_repeats() {
    let (mut plan, start) = (plan(100), Instant::now());
    let served = [0, 0, 0, 1, 1].map(|sink| vec![SinkId(sink)]);
    plan.know_sinks(2, served.into());
    transact(&mut plan, 1, EDGE, "k");
    transact(&mut plan, 2, PROXY, "k");
    run_at(&mut plan, EDGE, start);
    assert_eq!(plan.sink_positions(), [Lsn(0), Lsn(1)]);
    run_at(&mut plan, REPEATS, start + LAST);
    assert_eq!(plan.sink_positions(), [Lsn(2), Lsn(1)]);
}

#[derive(Clone, Debug)]
enum Step {
    /// A transaction with purges, each in a lane and for a key.
    Transact(Vec<(usize, u8)>),
    Take(usize),
    Done(usize),
    /// So many seconds.
    Wait(u64),
    Disconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let asks = (prop::sample::select(vec![EDGE, EDGE, EDGE, EDGE_ALL, PROXY]), 0..6u8);
    prop_oneof![
        4 => prop::collection::vec(asks, 0..3).prop_map(Step::Transact),
        6 => (0..COUNT).prop_map(Step::Take),
        6 => (0..COUNT).prop_map(Step::Done),
        4 => (1..5u64).prop_map(Step::Wait),
        1 => Just(Step::Disconnect),
    ]
}

/// What a transaction has asked for.
#[derive(Debug)]
struct Asked {
    end_lsn: Lsn,
    lane: usize,
    key: String,
    /// When.
    at: Instant,
    /// When it was done the first time.
    done_at: Option<Instant>,
    is_repeated: bool,
}

impl Asked {
    /// Whether a batch of a lane does it.
    fn is_in(&self, lane: usize, keys: &[String]) -> bool {
        let is_proxy = |lane| lane >= PROXY;
        is_proxy(lane) == is_proxy(self.lane)
            && (keys.contains(&self.key) || keys.iter().any(|key| key == "*"))
    }
}

struct Model {
    plan: Plan,
    now: Instant,
    asked: Vec<Asked>,
    in_flight: [Option<(Batch, Instant)>; COUNT],
    end_lsn: u64,
}

impl Model {
    fn run(&mut self, step: Step) {
        match step {
            Step::Transact(asks) => {
                self.end_lsn += 1;
                self.plan.begin(None);
                for (lane, key) in asks {
                    let key = if lane == EDGE_ALL { "*".to_owned() } else { key.to_string() };
                    ask(&mut self.plan, lane, &key);
                    let (end_lsn, at) = (Lsn(self.end_lsn), self.now);
                    let (done_at, is_repeated) = (None, false);
                    self.asked.push(Asked { end_lsn, lane, key, at, done_at, is_repeated });
                }
                self.plan.commit(Lsn(self.end_lsn));
            }
            Step::Take(lane) => {
                let now = self.now;
                if let Some(batch) = self.plan.take(LaneId(lane), || now) {
                    assert!(self.in_flight[lane].is_none());
                    let keys = values(&batch);
                    let mut unique = keys.clone();
                    unique.sort();
                    unique.dedup();
                    assert_eq!(unique.len(), keys.len(), "equal ones are merged");
                    self.in_flight[lane] = Some((batch, now));
                    // A batch stands for nothing that is younger.
                    self.now += Duration::from_nanos(1);
                }
            }
            Step::Done(lane) => {
                let Some((batch, since)) = self.in_flight[lane].take() else { return };
                let (keys, now) = (values(&batch), self.now);
                finish_at(&mut self.plan, lane, batch, now);
                for asked in self.asked.iter_mut().filter(|asked| asked.is_in(lane, &keys)) {
                    match asked.done_at {
                        None if asked.at < since && ![REPEATS, PROXY_REPEATS].contains(&lane) => {
                            asked.done_at = Some(now);
                        }
                        Some(done_at) if since >= done_at + LAST => asked.is_repeated = true,
                        _ => {}
                    }
                }
            }
            Step::Wait(seconds) => self.now += Duration::from_secs(seconds),
            Step::Disconnect => {
                // The next stream brings what is not confirmed once more, as if it were new.
                self.plan.disconnect();
                self.asked.clear();
            }
        }
        self.now += Duration::from_nanos(1);
        let confirmed = self.plan.confirmed_lsn();
        for asked in self.asked.iter().filter(|asked| asked.end_lsn <= confirmed) {
            assert!(asked.is_repeated, "{confirmed} is confirmed before {asked:?}");
        }
    }
}

fn run(few: usize, steps: Vec<Step>) {
    let (asked, in_flight) = (Vec::new(), Default::default());
    let mut model = Model { plan: plan(few), now: Instant::now(), asked, in_flight, end_lsn: 0 };
    steps.into_iter().for_each(|step| model.run(step));
    // In the end everything is done, at the latest two of the longest times after the last one was.
    let mut left = 0;
    while !model.plan.is_idle() {
        for lane in 0..COUNT {
            model.run(Step::Take(lane));
            model.run(Step::Done(lane));
        }
        model.run(Step::Wait(1));
        left += 1;
        let most = (3 * LAST + 3 * PACE).as_secs();
        assert!(left <= most, "something never comes: {:?}", model.asked);
    }
    assert!(model.asked.iter().all(|asked| asked.is_repeated));
    assert_eq!(model.plan.unfinished(LaneId(REPEATS)), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_is_confirmed_before_it_was_done_again(
        few in prop::sample::select(vec![2, 4, 100]),
        steps in prop::collection::vec(step(), 0..150),
    ) {
        run(few, steps);
    }
}
