//! How far each sink has come on its own, and what it is left out of.

use super::*;

const LOOKUP: usize = 0;
/// The lanes of each sink that remove.
const REMOVE: [usize; 2] = [1, 2];
/// The first sink's lane of messages.
const TELL: usize = 3;
const RULE: RuleId = RuleId(0);

/// A rule's lookups for two sinks, each of which removes; the first one publishes too.
fn two_sinks() -> Plan {
    let stages = [Stage::Lookup, Stage::Remove, Stage::Remove, Stage::Tell];
    let route = |sink: SinkId, action: Action<'_>, _| match action.verb {
        Verb::Publish => LaneId(TELL),
        _ => LaneId(REMOVE[sink.0 as usize]),
    };
    let lookups = HashMap::from([(RULE, LaneId(LOOKUP))]);
    let routes = Routes { actions: Box::new(route), lookups };
    let mut plan = Plan::new(stages.into_iter().map(PlannedLane::new).collect(), routes);
    let (first, second) = (SinkId(0), SinkId(1));
    plan.know_sinks(2, vec![vec![first, second], vec![first], vec![second], vec![first]]);
    plan
}

fn delete(plan: &mut Plan, sink: u32, key: &str) {
    let action = Action { verb: Verb::Delete, value: key.as_bytes() };
    plan.push(&[SinkId(sink)], action, Urgency::Prompt);
}

fn look_up(plan: &mut Plan, query: &str) {
    plan.look_up(RULE, Action { verb: Verb::Lookup, value: query.as_bytes() });
}

fn positions(plan: &Plan) -> [u64; 2] {
    let positions = plan.sink_positions();
    [positions[0].0, positions[1].0]
}

#[test]
fn a_sink_is_ahead_of_one_that_is_down() {
    let mut plan = two_sinks();
    for end_lsn in 1..=3 {
        plan.begin(None);
        delete(&mut plan, 0, &format!("a{end_lsn}"));
        delete(&mut plan, 1, &format!("b{end_lsn}"));
        plan.commit(Lsn(end_lsn));
    }
    assert_eq!(positions(&plan), [0, 0]);
    let in_flight = plan.take(LaneId(REMOVE[0]), Instant::now).unwrap();
    assert_eq!(positions(&plan), [0, 0]);
    plan.done(LaneId(REMOVE[0]), in_flight);
    assert_eq!((positions(&plan), plan.confirmed_lsn()), ([3, 0], Lsn(0)));
    plan.advance(Lsn(5));
    assert_eq!(positions(&plan), [5, 0]);
    plan.begin(None);
    delete(&mut plan, 0, "a");
    assert_eq!(positions(&plan), [5, 0], "the open one has no end yet");
    done_all(&mut plan, REMOVE[0]);
    assert_eq!(positions(&plan), [5, 0]);
    plan.commit(Lsn(9));
    done_all(&mut plan, REMOVE[1]);
    assert_eq!((positions(&plan), plan.confirmed_lsn()), ([9, 9], Lsn(9)));
}

#[test]
fn what_is_invisible_or_comes_afterwards_holds_its_sink() {
    let mut plan = two_sinks();
    plan.begin(Some((10, Hidden::All)));
    delete(&mut plan, 0, "a");
    plan.push(&[SinkId(0)], Action { verb: Verb::Publish, value: b"c\0m" }, Urgency::Prompt);
    delete(&mut plan, 1, "b");
    plan.commit(Lsn(1));
    assert_eq!(positions(&plan), [0, 0]);
    plan.show(snapshot(11, &[]));
    done_all(&mut plan, REMOVE[0]);
    assert_eq!(positions(&plan), [0, 0], "the message waits for the other sink");
    done_all(&mut plan, REMOVE[1]);
    assert_eq!(positions(&plan), [0, 1]);
    done_all(&mut plan, TELL);
    assert_eq!(positions(&plan), [1, 1]);
}

#[test]
fn a_lookup_holds_every_sink_of_its_rule() {
    let mut plan = two_sinks();
    plan.begin(None);
    look_up(&mut plan, "q");
    plan.commit(Lsn(1));
    assert_eq!(positions(&plan), [0, 0]);
    let batch = plan.take(LaneId(LOOKUP), Instant::now).unwrap();
    assert_eq!(positions(&plan), [0, 0]);
    let found = Action { verb: Verb::Delete, value: b"k" };
    plan.answer(LaneId(LOOKUP), 0, &[SinkId(1)], found, Urgency::Prompt);
    plan.done(LaneId(LOOKUP), batch);
    assert_eq!(positions(&plan), [1, 0]);
    done_all(&mut plan, REMOVE[1]);
    assert_eq!(positions(&plan), [1, 1]);
}

/// A plan whose first sink has done everything up to 10, and whose second one nothing.
fn resumed() -> Plan {
    let mut plan = two_sinks();
    plan.resume(vec![Lsn(10), Lsn(0)]);
    plan
}

#[test]
fn a_sink_is_left_out_of_what_it_has_done_and_of_nothing_else() {
    let mut plan = resumed();
    for end_lsn in [9, 10, 11] {
        plan.begin(None);
        plan.leave_out(Lsn(end_lsn));
        plan.push(
            &[SinkId(0), SinkId(1)],
            Action { verb: Verb::Delete, value: end_lsn.to_string().as_bytes() },
            Urgency::Prompt,
        );
        plan.commit(Lsn(end_lsn));
    }
    // What has no place in the log of its own.
    transact_at(&mut plan, "none");
    assert_eq!(done_all(&mut plan, REMOVE[0]), ["11", "none"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    assert_eq!(done_all(&mut plan, REMOVE[1]), ["9", "10", "11"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(11));
}

fn transact_at(plan: &mut Plan, key: &str) {
    plan.begin(None);
    delete(plan, 0, key);
    plan.commit(Lsn::ZERO);
}

#[test]
fn what_takes_the_place_of_a_part_that_cannot_be_read_leaves_out_nobody() {
    let mut plan = resumed();
    plan.begin(None);
    plan.leave_out(Lsn(5));
    delete(&mut plan, 0, "done before");
    plan.leave_out_nobody();
    delete(&mut plan, 0, "fallback");
    plan.commit(Lsn(5));
    assert_eq!(done_all(&mut plan, REMOVE[0]), ["fallback"]);
}

#[test]
fn the_next_stream_is_not_known_to_be_done() {
    let mut plan = resumed();
    plan.disconnect();
    plan.begin(None);
    plan.leave_out(Lsn(5));
    delete(&mut plan, 0, "k");
    plan.commit(Lsn(5));
    assert_eq!(done_all(&mut plan, REMOVE[0]), ["k"]);
}

fn answer_all(plan: &mut Plan) {
    let batch = plan.take(LaneId(LOOKUP), Instant::now).unwrap();
    for at in 0..batch.len() {
        let found = Action { verb: Verb::Delete, value: batch.get(at).value };
        plan.answer(LaneId(LOOKUP), at, &[SinkId(0), SinkId(1)], found, Urgency::Prompt);
    }
    plan.done(LaneId(LOOKUP), batch);
}

#[test]
fn an_answer_leaves_out_only_whom_everybody_who_asked_leaves_out() {
    let mut plan = resumed();
    for (end_lsn, query) in [(8, "done"), (9, "both"), (11, "both"), (12, "new")] {
        plan.begin(None);
        plan.leave_out(Lsn(end_lsn));
        look_up(&mut plan, query);
        plan.commit(Lsn(end_lsn));
    }
    answer_all(&mut plan);
    assert_eq!(done_all(&mut plan, REMOVE[0]), ["both", "new"]);
    assert_eq!(done_all(&mut plan, REMOVE[1]), ["done", "both", "new"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(12));
}

#[test]
fn nobody_is_asked_what_every_sink_has_done() {
    let mut plan = two_sinks();
    plan.resume(vec![Lsn(10), Lsn(20)]);
    plan.begin(None);
    plan.leave_out(Lsn(10));
    look_up(&mut plan, "q");
    plan.commit(Lsn(10));
    assert!(plan.take(LaneId(LOOKUP), Instant::now).is_none() && plan.confirmed_lsn() == Lsn(10));
}

#[test]
fn of_more_sinks_than_can_be_told_apart_none_has_a_position() {
    let mut plan = two_sinks();
    plan.sinks = Sinks::default();
    plan.know_sinks(65, vec![vec![SinkId(64)]; 4]);
    assert!(plan.sink_positions().is_empty());
    plan.resume(vec![Lsn(10); 65]);
    plan.begin(None);
    plan.leave_out(Lsn(5));
    delete(&mut plan, 0, "k");
    assert_eq!(plan.waiting(LaneId(REMOVE[0])), 1);
}

#[derive(Clone, Debug)]
enum Event {
    Begin { is_hidden: bool },
    Delete { sink: usize, key: u8 },
    LookUp { key: u8 },
    Commit,
    Show,
    Take { lane: usize },
    Done { lane: usize },
    Remember,
    Disconnect,
    Kill,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<bool>().prop_map(|is_hidden| Event::Begin { is_hidden }),
        6 => (0..2usize, 0..4u8).prop_map(|(sink, key)| Event::Delete { sink, key }),
        4 => (0..3u8).prop_map(|key| Event::LookUp { key }),
        6 => Just(Event::Commit),
        2 => Just(Event::Show),
        6 => (0..3usize).prop_map(|lane| Event::Take { lane }),
        6 => (0..3usize).prop_map(|lane| Event::Done { lane }),
        2 => Just(Event::Remember),
        1 => Just(Event::Disconnect),
        1 => Just(Event::Kill),
    ]
}

/// A transaction as the server has it.
#[derive(Clone, Debug)]
struct Sent {
    end_lsn: u64,
    hidden: Option<u32>,
    asked: Vec<(usize, String)>,
    is_complete: bool,
}

/// Something that was done.
#[derive(Debug)]
struct Did {
    lane: usize,
    value: String,
    taken_at: usize,
}

#[derive(Debug, Default)]
struct World {
    log: Vec<Sent>,
    /// When which of them was streamed, and which sinks it left out.
    streamed: Vec<(usize, usize, [bool; 2])>,
    done: Vec<Did>,
}

impl World {
    /// Whether a sink has done all of a transaction after it was streamed, at least once.
    fn has_done(&self, sink: usize, sent: usize) -> bool {
        self.streamed.iter().any(|&(of, at, left_out)| {
            let asked = &self.log[sent].asked;
            of == sent && !left_out[sink] && asked.iter().all(|ask| self.did(sink, ask, at))
        })
    }

    fn did(&self, sink: usize, (lane, value): &(usize, String), since: usize) -> bool {
        let is_since = |did: &&Did| did.taken_at >= since;
        let is_it = |did: &&Did| did.lane == *lane && did.value == *value;
        let mut did = self.done.iter().filter(is_since);
        match *lane {
            LOOKUP => {
                let lookups = did.filter(is_it).map(|did| did.taken_at);
                let found = (REMOVE[sink], format!("found {value}"));
                lookups.into_iter().any(|asked_at| self.did(sink, &found, asked_at))
            }
            lane if lane != REMOVE[sink] => true,
            _ => did.any(|did| is_it(&did)),
        }
    }
}

fn ask(plan: &mut Plan, (lane, value): &(usize, String)) {
    match *lane {
        LOOKUP => look_up(plan, value),
        lane => delete(plan, lane as u32 - 1, value),
    }
}

/// Streams a transaction, all of it that is known.
fn stream(plan: &mut Plan, world: &mut World, sent: usize, now: usize, relied_on: [u64; 2]) {
    let Sent { end_lsn, hidden, asked, .. } = world.log[sent].clone();
    plan.begin(hidden.map(|xid| (xid, Hidden::All)));
    plan.leave_out(Lsn(end_lsn));
    asked.iter().for_each(|one| ask(plan, one));
    world.streamed.push((sent, now, relied_on.map(|done| end_lsn <= done)));
}

fn run(events: Vec<Event>) {
    let (mut plan, mut world) = (two_sinks(), World::default());
    let mut in_flight: [Option<(Batch, usize)>; 3] = Default::default();
    let (mut is_open, mut confirmed, mut file, mut last) = (false, 0, [0u64; 2], [0u64; 2]);
    let mut relied_on = [0; 2];
    let end = events.len();
    for (now, event) in events.into_iter().enumerate() {
        match event {
            Event::Begin { is_hidden } if !is_open => {
                let number = world.log.len() as u64 + 1;
                let hidden = is_hidden.then_some(10 + number as u32);
                let (end_lsn, asked) = (number * 10, Vec::new());
                world.log.push(Sent { end_lsn, hidden, asked, is_complete: false });
                stream(&mut plan, &mut world, number as usize - 1, now, relied_on);
                is_open = true;
            }
            Event::Delete { .. } | Event::LookUp { .. } if is_open => {
                let asked = match event {
                    Event::Delete { sink, key } => (REMOVE[sink], key.to_string()),
                    Event::LookUp { key } => (LOOKUP, key.to_string()),
                    _ => continue,
                };
                ask(&mut plan, &asked);
                world.log.last_mut().unwrap().asked.push(asked);
            }
            Event::Commit if is_open => {
                let sent = world.log.last_mut().unwrap();
                sent.is_complete = true;
                plan.commit(Lsn(sent.end_lsn));
                is_open = false;
            }
            Event::Show => plan.show(snapshot(11 + world.log.len() as u32, &[])),
            Event::Take { lane } => {
                if let Some(batch) = plan.take(LaneId(lane), Instant::now) {
                    in_flight[lane] = Some((batch, now));
                }
            }
            Event::Done { lane } => {
                let Some((batch, taken_at)) = in_flight[lane].take() else { continue };
                end_batch(&mut plan, &mut world, lane, batch, taken_at);
            }
            Event::Remember => file = positions_over(&plan, file, relied_on),
            Event::Disconnect | Event::Kill => {
                if matches!(event, Event::Kill) {
                    plan = two_sinks();
                    in_flight = Default::default();
                } else {
                    file = positions_over(&plan, file, relied_on);
                    plan.disconnect();
                }
                (relied_on, last) = (file, [0; 2]);
                plan.resume(relied_on.map(Lsn).to_vec());
                if std::mem::take(&mut is_open) {
                    // It is as long as it had become, the next time.
                    world.log.last_mut().unwrap().is_complete = true;
                }
                for sent in 0..world.log.len() {
                    if world.log[sent].end_lsn > confirmed {
                        stream(&mut plan, &mut world, sent, now, relied_on);
                        plan.commit(Lsn(world.log[sent].end_lsn));
                    }
                }
            }
            _ => {}
        }
        confirmed = confirmed.max(plan.confirmed_lsn().0);
        let positions = positions(&plan);
        for sink in 0..2 {
            assert!(positions[sink] >= last[sink], "{positions:?} after {last:?}");
            assert!(positions[sink] >= plan.confirmed_lsn().0);
            for at in 0..world.log.len() {
                let end_lsn = world.log[at].end_lsn;
                if end_lsn <= positions[sink].max(confirmed) {
                    assert!(world.log[at].is_complete && world.has_done(sink, at), "{world:?}");
                }
            }
        }
        last = positions;
    }
    if is_open {
        plan.commit(Lsn(world.log.last().unwrap().end_lsn));
    }
    plan.show(snapshot(11 + world.log.len() as u32, &[]));
    for (lane, in_flight) in in_flight.iter_mut().enumerate() {
        if let Some((batch, taken_at)) = in_flight.take() {
            end_batch(&mut plan, &mut world, lane, batch, taken_at);
        }
        while let Some(batch) = plan.take(LaneId(lane), Instant::now) {
            end_batch(&mut plan, &mut world, lane, batch, end);
        }
    }
    assert!(plan.is_idle());
    for at in 0..world.log.len() {
        assert!(world.has_done(0, at) && world.has_done(1, at), "{at}: {world:?}");
    }
}

fn positions_over(plan: &Plan, file: [u64; 2], relied_on: [u64; 2]) -> [u64; 2] {
    let now = positions(plan);
    [0, 1].map(|sink| file[sink].max(relied_on[sink]).max(now[sink]))
}

fn end_batch(plan: &mut Plan, world: &mut World, lane: usize, batch: Batch, taken_at: usize) {
    for (at, value) in values(&batch).into_iter().enumerate() {
        if lane == LOOKUP {
            let found = format!("found {value}");
            let action = Action { verb: Verb::Delete, value: found.as_bytes() };
            let sinks = [SinkId(0), SinkId(1)];
            plan.answer(LaneId(LOOKUP), at, &sinks, action, Urgency::Prompt);
        }
        world.done.push(Did { lane, value, taken_at });
    }
    plan.done(LaneId(lane), batch);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_sink_is_ever_thought_further_than_it_is(
        events in prop::collection::vec(event(), 0..120),
    ) {
        run(events);
    }
}

#[test]
fn what_is_owed_to_replicas_holds_its_sink_although_it_ran() {
    let mut plan = two_sinks();
    plan.await_replicas(&crate::rules::RuleSet::default());
    plan.begin_until(Some((10, Hidden::All)), Lsn(5));
    delete(&mut plan, 0, "a");
    plan.commit(Lsn(5));
    plan.show(snapshot(11, &[]));
    assert_eq!(positions(&plan), [0, 5]);
    let (now, max_wait) = (Instant::now(), std::time::Duration::from_secs(1));
    plan.replayed(Lsn(4), now, max_wait);
    plan.replayed(Lsn(4), now + max_wait, max_wait);
    assert_eq!(done_all(&mut plan, REMOVE[0]), ["a"]);
    assert_eq!(positions(&plan), [0, 5], "it runs once more");
    plan.replayed(Lsn(5), now + max_wait, max_wait);
    assert_eq!(done_all(&mut plan, REMOVE[0]), ["a"]);
    assert_eq!(positions(&plan), [5, 5]);
}
