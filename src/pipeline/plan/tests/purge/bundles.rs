//! What runs afterwards of very many transactions that wait is joined, and then waits together.

use super::*;

/// Transactions with a message each that all wait for the same removal.
fn many_wait(plan: &mut Plan, count: u64, message: impl Fn(u64) -> String) -> Batch {
    transact(plan, 1, &[(CACHE[0], "slow")]);
    let slow = take(plan, CACHE[0]).unwrap();
    for number in 0..count {
        let key = format!("k{}", number % 100);
        transact(plan, number + 2, &[(CACHE[0], &key), (TELL, &message(number))]);
    }
    slow
}

#[test]
fn messages_of_very_many_transactions_that_wait_do_not_stop_the_reader() {
    let mut plan = plan();
    let slow = many_wait(&mut plan, 100_000, |number| format!("message {number}"));
    assert!(plan.has_room() && plan.confirmed_lsn() == Lsn(0));
    plan.done(LaneId(CACHE[0]), slow);
    assert!(take(&mut plan, TELL).is_none());
    done(&mut plan, CACHE[0]);
    let mut told = 0;
    while let Some(batch) = take(&mut plan, TELL) {
        told += batch.len();
        plan.done(LaneId(TELL), batch);
    }
    assert_eq!(told, 100_000, "none is lost");
    assert_eq!(plan.confirmed_lsn(), Lsn(100_001));
}

#[test]
fn a_message_of_very_many_transactions_waits_for_those_that_it_was_joined_with() {
    let mut plan = plan();
    plan.afterwards.keep_bundles(1);
    transact(&mut plan, 1, &[(CACHE[0], "a"), (TELL, "m")]);
    let first = take(&mut plan, CACHE[0]).unwrap();
    transact(&mut plan, 2, &[(CACHE[0], "b"), (TELL, "m")]);
    plan.done(LaneId(CACHE[0]), first);
    assert!(take(&mut plan, TELL).is_none(), "the second was joined with the first");
    done(&mut plan, CACHE[0]);
    let batch = take(&mut plan, TELL).unwrap();
    assert_eq!(values(&batch), ["m"]);
    assert_eq!(plan.confirmed_lsn(), Lsn(0));
    plan.done(LaneId(TELL), batch);
    assert_eq!(plan.confirmed_lsn(), Lsn(2));
}

#[test]
fn very_many_that_wait_for_a_cache_that_is_down_delay_no_message_of_another() {
    let mut plan = plan();
    plan.afterwards.keep_bundles(1);
    transact(&mut plan, 1, &[(CACHE[0], "a"), (CACHE[1], "down"), (TELL, "stuck")]);
    let down = take(&mut plan, CACHE[1]).unwrap();
    for number in 0..2000 {
        let message = format!("m{number}");
        transact(&mut plan, 2 + number, &[(CACHE[0], "b"), (TELL, &message)]);
    }
    done(&mut plan, CACHE[0]);
    assert!(!done_all(&mut plan, TELL).contains(&"stuck".to_owned()));
    plan.done(LaneId(CACHE[1]), down);
    assert_eq!(done_all(&mut plan, TELL), ["stuck"]);
}

#[test]
fn what_joins_a_bundle_does_not_keep_it_from_being_due() {
    let mut plan = plan();
    plan.afterwards.keep_bundles(1);
    let mut told = 0;
    for number in 0..10_000 {
        // Something is in flight all the time.
        let batch = take(&mut plan, CACHE[0]);
        transact(&mut plan, 1 + number, &[(CACHE[0], &number.to_string()), (TELL, "m")]);
        batch.into_iter().for_each(|batch| plan.done(LaneId(CACHE[0]), batch));
        told += done(&mut plan, TELL).len();
    }
    assert!(told >= 5, "{told}");
}

#[test]
fn an_answer_for_one_of_very_many_transactions_waits_for_what_that_removes() {
    let mut plan = plan();
    plan.afterwards.keep_bundles(1);
    for number in 0..12_000u64 {
        let key = number.to_string();
        transact(&mut plan, number + 1, &[(LOOKUP, &key), (CACHE[0], &key), (TELL, "m")]);
    }
    let lookups = take(&mut plan, LOOKUP).unwrap();
    for index in 0..lookups.len() {
        let action = Action { verb: Verb::PurgeKey, value: b"found" };
        plan.answer(LaneId(LOOKUP), index, &[SinkId(EDGE as u32)], action, Urgency::Prompt);
    }
    plan.done(LaneId(LOOKUP), lookups);
    assert!(take(&mut plan, EDGE).is_none());
    for _ in 0..3 {
        done(&mut plan, CACHE[0]);
        done(&mut plan, LOOKUP);
    }
    while plan.confirmed_lsn() < Lsn(12_000) {
        let work = [LOOKUP, CACHE[0], EDGE, TELL].map(|lane| done(&mut plan, lane).len());
        assert!(work.iter().sum::<usize>() > 0, "stuck at {}", plan.confirmed_lsn());
    }
    assert!(plan.is_idle());
}
