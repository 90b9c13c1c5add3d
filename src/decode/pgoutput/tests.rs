use proptest::prelude::*;

use super::*;
use crate::change::Value;

/// Writes messages as the manual lays them out.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn of(kind: u8) -> Self {
        Bytes(vec![kind])
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn name(self, name: &str) -> Self {
        self.put(name.as_bytes()).put(&[0])
    }

    fn tuple(self, kind: u8, values: &[Cell<'_>]) -> Self {
        let mut bytes = self.put(&[kind]).put(&(values.len() as u16).to_be_bytes());
        for value in values {
            bytes = match value {
                Cell::Null => bytes.put(b"n"),
                Cell::Same => bytes.put(b"u"),
                Cell::Text(text) => {
                    let length = (text.len() as u32).to_be_bytes();
                    bytes.put(b"t").put(&length).put(text.as_bytes())
                }
            };
        }
        bytes
    }
}

enum Cell<'a> {
    Null,
    /// Unchanged, and large.
    Same,
    Text(&'a str),
}

use Cell::{Null, Same, Text};

const TABLE: u32 = 16_385;

/// A table of these columns: name, whether it is part of the identity, and type.
fn relation(number: u32, schema: &str, table: &str, columns: &[(&str, u8, u32)]) -> Vec<u8> {
    let mut bytes = Bytes::of(b'R').put(&number.to_be_bytes()).name(schema).name(table).put(b"d");
    bytes = bytes.put(&(columns.len() as u16).to_be_bytes());
    for (name, flags, kind) in columns {
        bytes = bytes.put(&[*flags]).name(name).put(&kind.to_be_bytes()).put(&[0xFF; 4]);
    }
    bytes.0
}

fn change(kind: u8, number: u32) -> Bytes {
    Bytes::of(kind).put(&number.to_be_bytes())
}

/// What messages say, each in a form that can be compared.
fn said(decoder: &mut Decoder, message: &[u8]) -> String {
    let row = |row: Row<'_>| {
        let column = |(name, value): (&[u8], Value<'_>)| match value {
            Value::Text(text) => format!("{}={}", name.escape_ascii(), text.escape_ascii()),
            Value::Null => format!("{} NULL", name.escape_ascii()),
            Value::Absent | Value::Unclear => unreachable!("a listed NULL is believed"),
        };
        row.iter().map(column).collect::<Vec<_>>().join(" ")
    };
    let change = |change: Change<'_>| {
        let (schema, table) = (change.schema.escape_ascii(), change.table.escape_ascii());
        let (old, new) = (row(change.old), row(change.new));
        format!("{} {schema}.{table} [{old}] -> [{new}]", change.op.name())
    };
    match decoder.decode(message) {
        Ok(Event::Change(one)) => change(one),
        Ok(Event::Truncate(all)) => all.map(change).collect::<Vec<_>>().join(", "),
        Ok(event) => format!("{event:?}"),
        Err(error) => error.to_string(),
    }
}

fn with_table() -> Decoder {
    let mut decoder = Decoder::default();
    let columns = [("id", 1, 23), ("ok", 0, 16), ("raw", 0, 17), ("text", 0, 25)];
    assert_eq!(said(&mut decoder, &relation(TABLE, "public", "t", &columns)), "Aside");
    decoder
}

#[track_caller]
fn check(message: Bytes, expected: &str) {
    assert_eq!(said(&mut with_table(), &message.0), expected);
}

#[test]
fn values_are_those_of_wal2json() {
    let row = |ok, raw| [Text("1"), Text(ok), Text(raw), Text("t")];
    let insert = |ok, raw| change(b'I', TABLE).tuple(b'N', &row(ok, raw));
    check(insert("t", "\\x00ff"), "insert public.t [] -> [id=1 ok=true raw=00ff text=t]");
    check(insert("f", "\\x"), "insert public.t [] -> [id=1 ok=false raw= text=t]");
    check(insert("?", "x"), "insert public.t [] -> [id=1 ok=? raw=x text=t]");
}

#[test]
fn an_unchanged_large_value_is_absent_and_null_is_null() {
    let update = change(b'U', TABLE).tuple(b'N', &[Text("1"), Null, Same, Text("x")]);
    check(update, "update public.t [id=1] -> [id=1 ok NULL text=x]");
}

#[test]
fn of_an_old_key_only_the_key_counts_and_of_an_old_row_everything() {
    let old = |kind| change(b'U', TABLE).tuple(kind, &[Text("1"), Null, Null, Null]);
    let new = [Text("2"), Text("t"), Null, Same];
    check(old(b'K').tuple(b'N', &new), "update public.t [id=1] -> [id=2 ok=true raw NULL]");
    check(
        old(b'O').tuple(b'N', &new),
        "update public.t [id=1 ok NULL raw NULL text NULL] -> [id=2 ok=true raw NULL]",
    );
    let delete = |kind| change(b'D', TABLE).tuple(kind, &[Text("1"), Null, Null, Text("x")]);
    check(delete(b'K'), "delete public.t [id=1] -> []");
    check(delete(b'O'), "delete public.t [id=1 ok NULL raw NULL text=x] -> []");
}

#[test]
fn a_key_that_stays_the_same_is_taken_from_the_new_row() {
    let mut decoder = Decoder::default();
    let columns = [("a", 0, 25), ("b", 1, 25), ("c", 1, 25), ("d", 0, 25)];
    said(&mut decoder, &relation(TABLE, "s", "t", &columns));
    let mut update =
        |values: &[Cell<'_>]| said(&mut decoder, &change(b'U', TABLE).tuple(b'N', values).0);
    assert_eq!(
        update(&[Text("1"), Text("2"), Text("3"), Text("4")]),
        "update s.t [b=2 c=3] -> [a=1 b=2 c=3 d=4]"
    );
    // The new row does not say what the key is.
    assert_eq!(update(&[Same, Same, Text("3"), Null]), "update s.t [c=3] -> [c=3 d NULL]");
}

#[test]
fn a_truncate_of_several_tables_is_a_change_of_each() {
    let mut decoder = with_table();
    said(&mut decoder, &relation(7, "", "we\"ird", &[]));
    let truncate = |numbers: &[u32]| {
        let count = (numbers.len() as u32).to_be_bytes();
        let bytes = Bytes::of(b'T').put(&count).put(&[1]);
        numbers.iter().fold(bytes, |bytes, number| bytes.put(&number.to_be_bytes()))
    };
    assert_eq!(
        said(&mut decoder, &truncate(&[TABLE, 7]).0),
        "truncate public.t [] -> [], truncate pg_catalog.we\\\"ird [] -> []"
    );
    let unknown = said(&mut decoder, &truncate(&[TABLE, 8]).0);
    assert_eq!(unknown, "byte 14: a table of which the stream has not told");
}

#[test]
fn a_table_is_as_it_was_told_last() {
    let mut decoder = with_table();
    said(&mut decoder, &relation(TABLE, "public", "renamed", &[("n", 1, 16)]));
    let insert = change(b'I', TABLE).tuple(b'N', &[Text("t")]);
    assert_eq!(said(&mut decoder, &insert.0), "insert public.renamed [] -> [n=true]");
}

#[test]
fn boundaries_carry_positions_xid_and_time() {
    let mut decoder = Decoder::default();
    // 2025-11-21 07:43:35.123456 UTC.
    let (micros, since_2000) = (1_763_711_015_123_456, 817_026_215_123_456_i64);
    let begin = Bytes::of(b'B')
        .put(&0x16B_3748_u64.to_be_bytes())
        .put(&since_2000.to_be_bytes())
        .put(&741_u32.to_be_bytes());
    let Ok(Event::Begin(boundary)) = decoder.decode(&begin.0) else { panic!("not a begin") };
    let expected = Boundary {
        xid: Some(741),
        commit_lsn: Some(Lsn(0x16B_3748)),
        end_lsn: Some(Lsn(0x16B_3749)),
        committed_at: Some(CommitTime::Micros(micros)),
    };
    assert_eq!(boundary, expected);
    let commit = Bytes::of(b'C')
        .put(&[0])
        .put(&0x16B_3748_u64.to_be_bytes())
        .put(&0x16B_3780_u64.to_be_bytes())
        .put(&since_2000.to_be_bytes());
    let Ok(Event::Commit(boundary)) = decoder.decode(&commit.0) else { panic!("not a commit") };
    assert_eq!(boundary, Boundary { xid: None, end_lsn: Some(Lsn(0x16B_3780)), ..expected });
}

#[test]
fn messages_carry_prefix_and_content() {
    let mut decoder = Decoder::default();
    for (flags, transactional) in [(0, false), (1, true)] {
        let message = Bytes::of(b'M').put(&[flags]).put(&16_u64.to_be_bytes()).name("walpurge");
        let message = message.put(&3_u32.to_be_bytes()).put(b"{\0}");
        let Ok(Event::Message(message)) = decoder.decode(&message.0) else { panic!("no message") };
        let expected =
            Message { transactional, lsn: Some(Lsn(16)), prefix: b"walpurge", content: b"{\0}" };
        assert_eq!(message, expected);
    }
}

#[test]
fn messages_of_other_prefixes_are_not_handed_on() {
    let mut decoder = Decoder::new(vec!["ours".into()]);
    for (prefix, is_ours) in [("ours", true), ("our", false), ("", false)] {
        let message = Bytes::of(b'M').put(&[0; 9]).name(prefix).put(&[0; 4]);
        let event = decoder.decode(&message.0);
        assert_eq!(matches!(event, Ok(Event::Message(_))), is_ours, "{prefix}");
        assert!(is_ours || matches!(event, Ok(Event::Aside)), "{prefix}");
    }
}

#[test]
fn malformed_messages_say_where() {
    let row = [Text("1"), Null, Null, Null];
    let count = |count: u16| change(b'I', TABLE).put(b"N").put(&count.to_be_bytes());
    for (message, error) in [
        (Bytes::default(), "byte 0: the message ends too early"),
        (Bytes::of(b'X'), "byte 0: an unknown type of message"),
        (Bytes::of(b'B').put(&[0; 19]), "byte 17: the message ends too early"),
        (Bytes::of(b'B').put(&[0; 21]), "byte 21: expected the end of the message"),
        (change(b'I', 8), "byte 5: a table of which the stream has not told"),
        (change(b'I', TABLE).tuple(b'K', &row), "byte 6: a change without its new row"),
        (change(b'D', TABLE).tuple(b'N', &row), "byte 6: a delete without its old row"),
        (change(b'U', TABLE).tuple(b'K', &row), "byte 17: the message ends too early"),
        (count(3), "byte 8: another number of columns than the table has"),
        (count(0x8004), "byte 8: a negative count"),
        (count(4).put(b"b"), "byte 9: a value that is no text"),
        (count(4).put(b"t").put(&[0xFF; 8]), "byte 13: the message ends too early"),
        (Bytes::of(b'T').put(&[0x7F, 0xFF, 0xFF, 0xFF, 0]), "byte 6: the message ends too early"),
        (change(b'R', 8).put(b"public"), "byte 5: a name without its end"),
    ] {
        check(message, error);
    }
}

#[test]
fn a_table_that_cannot_be_read_is_not_known() {
    let mut decoder = with_table();
    let mut half = relation(TABLE, "public", "t", &[("id", 1, 23)]);
    half.truncate(half.len() - 1);
    said(&mut decoder, &half);
    let insert = change(b'I', TABLE).tuple(b'N', &[Text("1")]);
    assert_eq!(said(&mut decoder, &insert.0), "byte 5: a table of which the stream has not told");
}

/// Good messages of every kind.
fn good() -> Vec<Vec<u8>> {
    let row = [Text("1"), Text("t"), Same, Null];
    let truncate = Bytes::of(b'T').put(&1_u32.to_be_bytes()).put(&[0]);
    vec![
        relation(TABLE, "public", "t", &[("id", 1, 23), ("ok", 0, 16)]),
        change(b'I', TABLE).tuple(b'N', &row).0,
        change(b'U', TABLE).tuple(b'K', &row).tuple(b'N', &row).0,
        change(b'D', TABLE).tuple(b'O', &row).0,
        truncate.put(&TABLE.to_be_bytes()).0,
        Bytes::of(b'B').put(&[1; 20]).0,
        Bytes::of(b'C').put(&[1; 25]).0,
        Bytes::of(b'M').put(&[1; 9]).name("p").put(&2_u32.to_be_bytes()).put(b"ab").0,
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(message in prop::collection::vec(any::<u8>(), 0..200)) {
        said(&mut with_table(), &message);
    }

    #[test]
    fn any_damage_to_messages_is_decoded_or_refused(
        damage in prop::collection::vec((0_usize..8, 0_usize..100, any::<u8>()), 1..6),
        cut in (0_usize..8, 0_usize..100),
    ) {
        let mut messages = good();
        for (message, at, byte) in damage {
            let length = messages[message].len();
            messages[message][at % length] = byte;
        }
        messages[cut.0].truncate(cut.1);
        let mut decoder = with_table();
        for message in messages {
            said(&mut decoder, &message);
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written(
        values in prop::collection::vec(prop::option::of(".*"), 0..9),
        names in prop::collection::vec("[^\0]*", 9),
    ) {
        let columns: Vec<_> = names.iter().map(|name| (name.as_str(), 0, 25)).collect();
        let mut decoder = Decoder::default();
        said(&mut decoder, &relation(TABLE, "s", "t", &columns[..values.len()]));
        let cells: Vec<_> =
            values.iter().map(|value| value.as_deref().map_or(Null, Text)).collect();
        let insert = change(b'I', TABLE).tuple(b'N', &cells).0;
        let Ok(Event::Change(change)) = decoder.decode(&insert) else { panic!("not a change") };
        let read: Vec<_> = change.new.iter().collect();
        let written: Vec<_> = names.iter().zip(&values).map(|(name, value)| {
            let value = value.as_ref().map_or(Value::Null, |text| Value::Text(text.as_bytes()));
            (name.as_bytes(), value)
        }).collect();
        prop_assert_eq!(read, written);
    }
}
