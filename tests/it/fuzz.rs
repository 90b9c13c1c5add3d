//! The fuzz targets' bodies, on random input and on damaged good input.

use proptest::prelude::*;

#[path = "../../fuzz/bodies.rs"]
mod bodies;

const LINE: &[u8] = br#"{"action":"U","xid":7,"lsn":"0/1","schema":"public","table":"t","columns":[{"name":"id","value":-2.5e3},{"name":"x","value":"a\u00e9\n"}],"identity":[{"name":"id","value":null}]}"#;

/// A table of a boolean and a bytea, an update with its old key, and a truncate of it.
fn messages() -> Vec<u8> {
    let mut messages = Vec::new();
    let mut add = |message: &[u8]| {
        messages.push(message.len() as u8);
        messages.extend(message);
    };
    add(b"R\0\0\0\x07public\0t\0d\0\x02\x01ok\0\0\0\0\x10\xff\xff\xff\xff\0raw\0\0\0\0\x11\xff\xff\xff\xff");
    add(b"U\0\0\0\x07K\0\x02t\0\0\0\x01tnN\0\x02t\0\0\0\x01ft\0\0\0\x04\\x00");
    add(b"T\0\0\0\x01\0\0\0\0\x07");
    messages
}

/// Good frames: a keepalive, a change, a notice and the end.
fn stream() -> Vec<u8> {
    let mut stream = Vec::new();
    let mut frame = |tag: u8, body: &[u8]| {
        stream.push(tag);
        stream.extend((body.len() as u32 + 4).to_be_bytes());
        stream.extend(body);
    };
    frame(b'd', &[b"k".as_slice(), &[0; 8], &[1; 8], &[1]].concat());
    frame(b'd', &[b"w".as_slice(), &[0; 24], LINE].concat());
    frame(b'N', b"SWARNING\0C01000\0Mno tuple identifier\0\0");
    frame(b'c', b"");
    frame(b'Z', b"I");
    stream
}

fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let damage = (any::<prop::sample::Index>(), any::<u8>());
    (prop::collection::vec(damage, 0..4), any::<prop::sample::Index>()).prop_map(
        move |(damages, cut)| {
            let mut bytes = good.clone();
            for (at, byte) in damages {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(good.len() + 1));
            bytes
        },
    )
}

proptest! {
    #[test]
    fn any_line_is_decoded_or_refused(line in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        damaged(LINE.to_vec()),
    ]) {
        bodies::wal2json(&line);
    }

    #[test]
    fn any_messages_are_decoded_or_refused(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        damaged(messages()),
    ]) {
        bodies::pgoutput(&bytes);
    }

    #[test]
    fn any_stream_is_cut_into_the_same_frames(step: u8, bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        damaged(stream()),
    ]) {
        bodies::frames(&[&[step][..], &bytes].concat());
    }
}
