//! How are keys deleted? With UNLINK, which frees memory in the background, many at a time.

use super::session::Session;
use super::wire::Request;
use crate::action::{Batch, Verb};
use crate::sinks::Failure;

/// Keys of one UNLINK. Measured: beyond this the rate no longer grows, while Redis serves nobody
/// else during one command (0.2 ms for so many that exist).
pub(super) const UNLINK_KEYS_MAX: usize = 512;

/// UNLINKs of one request. It bounds what waits for an answer, and our buffer.
const PIPELINE_COMMANDS_MAX: usize = 16;

/// Does the batch's `delete` actions.
pub(super) async fn delete(session: &mut Session<'_>, batch: &Batch) -> Result<(), Failure> {
    let config = session.config;
    let keys_max = session.share_of(UNLINK_KEYS_MAX);
    let commands_max = if session.is_paced() { 1 } else { PIPELINE_COMMANDS_MAX };
    let mut left = batch.iter().filter(|action| action.verb == Verb::Delete).count();
    let mut actions = batch.iter().filter(|action| action.verb == Verb::Delete);
    while left > 0 {
        let mut commands = 0;
        while left > 0 && commands < commands_max {
            let keys = left.min(keys_max);
            session.turn(keys).await;
            let values = actions.by_ref().take(keys).map(|action| action.value);
            unlink(session.request, &config.prefix, keys, values);
            session.judge.report.requested += keys as u64;
            left -= keys;
            commands += 1;
        }
        session.flush().await?;
        take_unlinked(session, commands).await?;
    }
    Ok(())
}

/// Adds one UNLINK of `count` keys.
fn unlink<'a>(
    request: &mut Request,
    prefix: &[u8],
    count: usize,
    values: impl Iterator<Item = &'a [u8]>,
) {
    request.command("UNLINK", 1 + count);
    for value in values {
        request.arg_joined(&[prefix, value]);
    }
}

/// Takes the replies to `commands` UNLINKs and counts what they removed.
///
/// UNLINK has no error of a single key: it takes any type, and a missing key is none.
pub(super) async fn take_unlinked(
    session: &mut Session<'_>,
    commands: usize,
) -> Result<(), Failure> {
    for _ in 0..commands {
        let removed = session.reply_or_fail("UNLINK").await?.count(UNLINK_KEYS_MAX);
        session.judge.report.removed += removed.ok_or_else(|| session.unexpected("UNLINK"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::wire::{Reply, parse};
    use super::*;
    use crate::action::Action;

    const FRAGMENTS: [&[u8]; 10] =
        [b"a", b" ", b"\r\n", b"\n", b"\0", b"$3", b"*2\r\n", b"\r\n$1\r\nk", b"\xff", b"\""];

    proptest! {
        #[test]
        fn an_unlink_holds_one_key_for_each_action_whatever_a_row_held(
            values in prop::collection::vec(
                prop::collection::vec(select(&FRAGMENTS[..]), 0..5).prop_map(|all| all.concat()),
                1..4,
            ),
            prefix in select(vec!["", "app:"]),
        ) {
            let mut batch = Batch::default();
            values.iter().for_each(|value| batch.push(Action { verb: Verb::Delete, value }));
            let mut request = Request::default();
            let keys = batch.iter().map(|action| action.value);
            unlink(&mut request, prefix.as_bytes(), batch.len(), keys);

            // Redis reads a request as we read a reply: counted strings in an array.
            let key = |value: &Vec<u8>| Reply::Bulk([prefix.as_bytes(), value].concat());
            let mut expected = vec![Reply::Bulk(b"UNLINK".to_vec())];
            expected.extend(values.iter().map(key));
            let length = request.bytes().len();
            prop_assert_eq!(parse(request.bytes()), Ok(Some((Reply::Array(expected), length))));
        }
    }
}
