//! What is fuzzed: one function for each input that comes from outside. The integration tests run
//! the same functions on random input.

use walpurge::decode::{Event, pgoutput, wal2json};
use walpurge::postgres::FrameReader;

/// A line of wal2json is decoded or refused; what is decoded can be read.
pub fn wal2json(data: &[u8]) {
    let mut line = data.to_vec();
    let mut decoder = wal2json::Decoder::default();
    if let Ok(Event::Change(change)) = decoder.decode(&mut line) {
        for (name, value) in change.new.iter().chain(change.old.iter()) {
            let again = [change.new.get(name), change.old.get(name)];
            // A name may stand twice; the first one counts then.
            assert!(again.contains(&value) || again.iter().any(|other| *other != value));
        }
    }
}

/// Messages of pgoutput, each behind its length in a byte, are decoded or refused; what is decoded
/// can be read.
pub fn pgoutput(data: &[u8]) {
    let mut decoder = pgoutput::Decoder::default();
    let mut rest = data;
    while let Some((&length, behind)) = rest.split_first() {
        let (message, next) = behind.split_at(behind.len().min(usize::from(length)));
        rest = next;
        match decoder.decode(message) {
            Ok(Event::Change(change)) => {
                for (name, value) in change.new.iter().chain(change.old.iter()) {
                    let again = [change.new.get(name), change.old.get(name)];
                    assert!(again.contains(&value) || again.iter().any(|other| *other != value));
                }
            }
            Ok(Event::Truncate(changes)) => assert!(changes.count() <= message.len()),
            _ => {}
        }
    }
}

/// However a stream of bytes is cut, the same frames come out, and the buffer stays bounded.
pub fn frames(data: &[u8]) {
    let Some((&step, stream)) = data.split_first() else { return };
    let whole = read(stream, stream.len().max(1));
    let pieces = read(stream, usize::from(step % 61) + 1);
    assert_eq!(whole, pieces);
}

fn read(stream: &[u8], step: usize) -> Vec<String> {
    let mut reader = FrameReader::default();
    let mut seen = Vec::new();
    for piece in stream.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            let spare = reader.spare_mut();
            let count = spare.len().min(rest.len());
            spare[..count].copy_from_slice(&rest[..count]);
            reader.advance(count);
            rest = &rest[count..];
            loop {
                match reader.next() {
                    Ok(None) => break,
                    Ok(Some(frame)) => seen.push(format!("{frame:?}")),
                    Err(error) => {
                        seen.push(error.to_string());
                        return seen;
                    }
                }
            }
        }
    }
    seen
}
