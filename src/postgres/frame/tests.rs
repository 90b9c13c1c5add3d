//! Tests of the frame reader: every split, any chunking, any bytes, and its memory.
#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use proptest::prelude::*;

use super::*;

/// A frame with its borrowed bytes copied, to be kept and compared.
fn described(frame: Frame<'_>) -> String {
    format!("{frame:?}")
}

/// Feeds `bytes` in pieces as long as `lengths` say (then whole), and collects what comes out.
fn read(reader: &mut FrameReader, bytes: &[u8], lengths: &[usize]) -> Result<Vec<String>, String> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    let mut lengths = lengths.iter();
    while !rest.is_empty() {
        let spare = reader.spare_mut();
        assert!(!spare.is_empty(), "there is always room while no whole frame waits");
        let wish = lengths.next().copied().unwrap_or(usize::MAX).max(1);
        let count = spare.len().min(rest.len()).min(wish);
        spare[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        reader.advance(count);
        while let Some(frame) = reader.next().map_err(|error| error.to_string())? {
            frames.push(described(frame));
        }
    }
    Ok(frames)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as i32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn xlog(start: u64, data: &[u8]) -> Vec<u8> {
    let mut body = vec![b'w'];
    for number in [start, start + 1, 0] {
        body.extend(number.to_be_bytes());
    }
    body.extend(data);
    message(b'd', &body)
}

fn keepalive(wal_end: u64, reply: u8) -> Vec<u8> {
    let mut body = vec![b'k'];
    body.extend(wal_end.to_be_bytes());
    body.extend(0u64.to_be_bytes());
    body.push(reply);
    message(b'd', &body)
}

fn stream() -> Vec<u8> {
    [
        keepalive(7, 1),
        xlog(8, b"{\"action\":\"B\"}"),
        message(b'S', b"TimeZone\0UTC\0"),
        message(b'N', b"SWARNING\0C01000\0Mno tuple identifier\0\0"),
        xlog(9, b""),
        keepalive(10, 0),
        message(b'c', b""),
        message(b'C', b"START_REPLICATION\0"),
        message(b'Z', b"I"),
    ]
    .concat()
}

#[test]
fn frames_are_the_same_at_every_split_of_the_stream() {
    let bytes = stream();
    let whole = read(&mut FrameReader::default(), &bytes, &[]).unwrap();
    assert_eq!(whole.len(), 7, "the two messages that matter to nobody are left out: {whole:?}");
    assert!(whole[0].contains("Keepalive") && whole[0].contains("reply_requested: true"));
    assert!(whole[2].contains("no tuple identifier"));
    for split in 1..bytes.len() {
        let frames = read(&mut FrameReader::default(), &bytes, &[split]).unwrap();
        assert_eq!(frames, whole, "split at {split}");
    }
}

#[test]
fn lengths_that_cannot_be_are_errors() {
    for length in [-1, 0, 3, i32::MIN] {
        let mut bytes = vec![b'd'];
        bytes.extend(length.to_be_bytes());
        let mut reader = FrameReader::default();
        let result = read(&mut reader, &bytes, &[]);
        assert!(result.unwrap_err().contains("impossible length"));
    }
    for tag in [b'Z', b'E', b'N'] {
        let mut bytes = vec![tag];
        bytes.extend(i32::MAX.to_be_bytes());
        bytes.push(b'w');
        let result = read(&mut FrameReader::default(), &bytes, &[]);
        assert!(result.unwrap_err().contains("more than the bound"));
    }
}

#[test]
fn bodies_without_their_layout_are_errors() {
    for body in [&b""[..], b"w", b"k1234567", b"w12345678123456781234567", b"?"] {
        let result = read(&mut FrameReader::default(), &message(b'd', body), &[]);
        assert!(result.unwrap_err().contains("malformed"), "{body:?}");
    }
    let result = read(&mut FrameReader::default(), &message(b'T', b""), &[]);
    assert!(result.unwrap_err().contains("unexpected"));
}

#[test]
fn the_buffer_follows_what_arrived_and_shrinks_again() {
    let mut reader = FrameReader::default();
    let mut header = vec![b'd'];
    header.extend((FRAME_BYTES_MAX as i32 - 1).to_be_bytes());
    header.push(b'w');
    read(&mut reader, &header, &[]).unwrap();
    reader.spare_mut();
    assert_eq!(reader.buffer_bytes(), READ_BYTES, "an announced length allocates nothing");

    let mut reader = FrameReader::default();
    let large = xlog(1, &vec![b'x'; 5 * READ_BYTES]);
    read(&mut reader, &large[..large.len() - 1], &[]).unwrap();
    assert!(reader.buffer_bytes() >= large.len() && reader.buffer_bytes() <= 2 * large.len());
    assert_eq!(read(&mut reader, &large[large.len() - 1..], &[]).unwrap().len(), 1);
    reader.spare_mut();
    assert_eq!(reader.buffer_bytes(), READ_BYTES);
}

#[test]
fn the_head_of_an_oversized_message_is_delivered_and_the_rest_skipped() {
    let bytes = [xlog(5, &[b'x'; 5000]), keepalive(6, 0)].concat();
    for piece in [1, 7, 999, 1024, 5000] {
        let mut reader = FrameReader::with_bound(1024);
        let frames = read(&mut reader, &bytes, &vec![piece; bytes.len()]).unwrap();
        assert_eq!(frames.len(), 2, "{piece}");
        assert!(frames[0].starts_with("Oversized { start_lsn: Lsn(5)"), "{}", frames[0]);
        assert!(frames[0].contains("data_bytes: 5000"));
        assert!(frames[1].starts_with("Keepalive { wal_end: Lsn(6)"));
    }
}

#[test]
fn messages_outside_of_a_stream_have_their_own_bound() {
    let mut reader = FrameReader::default();
    let bytes = message(b'D', &[0; 100]);
    reader.spare_mut()[..20].copy_from_slice(&bytes[..20]);
    reader.advance(20);
    assert!(reader.next_raw(100).unwrap().is_none());
    assert!(matches!(reader.next_raw(99), Err(FrameError::TooLong('D', ..))));
    reader.spare_mut()[..85].copy_from_slice(&bytes[20..]);
    reader.advance(85);
    assert!(matches!(reader.next_raw(99), Err(FrameError::TooLong('D', ..))));
    assert_eq!(reader.next_raw(100).unwrap().map(|frame| frame.body.len()), Some(100));
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (any::<u32>(), prop::collection::vec(any::<u8>(), 0..3000))
            .prop_map(|(start, data)| xlog(u64::from(start), &data)),
        (any::<u64>(), any::<u8>()).prop_map(|(wal_end, reply)| keepalive(wal_end, reply)),
        prop::collection::vec(any::<u8>(), 0..50).prop_map(|body| message(b'N', &body)),
        Just(message(b'S', b"a\0b\0")),
    ]
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        lengths in prop::collection::vec(1usize..40, 0..30),
    ) {
        let _ = read(&mut FrameReader::with_bound(256), &bytes, &lengths);
    }

    #[test]
    fn chunking_does_not_change_the_frames(
        messages in prop::collection::vec(any_message(), 1..20),
        lengths in prop::collection::vec(1usize..2000, 0..100),
    ) {
        let bytes = messages.concat();
        // The small bound makes some of them oversized.
        let whole = read(&mut FrameReader::with_bound(2048), &bytes, &[]).unwrap();
        let chunked = read(&mut FrameReader::with_bound(2048), &bytes, &lengths).unwrap();
        prop_assert_eq!(chunked, whole);
    }
}
