use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::change::Value;

/// What a decoded line says, in a form that can be compared.
fn decoded(line: &str) -> String {
    let mut line = line.as_bytes().to_vec();
    match Decoder::default().decode(&mut line) {
        Ok(Event::Change(change)) => {
            let row = |row: Row<'_>| {
                let column = |(name, value): (&[u8], Value<'_>)| match value {
                    Value::Text(text) => format!("{}={}", name.escape_ascii(), text.escape_ascii()),
                    Value::Null => format!("{} NULL", name.escape_ascii()),
                    Value::Absent | Value::Unclear => unreachable!("a listed NULL is believed"),
                };
                row.iter().map(column).collect::<Vec<_>>().join(" ")
            };
            let (schema, table) = (change.schema.escape_ascii(), change.table.escape_ascii());
            let (old, new) = (row(change.old), row(change.new));
            format!("{} {schema}.{table} [{old}] -> [{new}]", change.op.name())
        }
        Ok(event) => format!("{event:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_update_carries_both_images() {
    let line = r#"{"action":"U","xid":7,"lsn":"0/1","schema":"public","table":"t","columns":[{"name":"id","value":2},{"name":"x","value":null}],"identity":[{"name":"id","value":1}]}"#;
    assert_eq!(decoded(line), "update public.t [id=1] -> [id=2 x NULL]");
}

#[test]
fn values_keep_their_exact_text() {
    let line = r#"{"action":"I","schema":"s","table":"t","columns":[{"name":"a","value":1.10},{"name":"b","value":12345678901234567890.123},{"name":"c","value":-9223372036854775808},{"name":"d","value":1e-7},{"name":"e","value":true},{"name":"f","value":""}]}"#;
    assert_eq!(
        decoded(line),
        "insert s.t [] -> [a=1.10 b=12345678901234567890.123 c=-9223372036854775808 d=1e-7 e=true f=]"
    );
}

#[test]
fn strings_are_unescaped() {
    let line = r#"{"action":"D","schema":"s","table":"t","identity":[{"name":"a\"b","value":"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\ud83d\ude00 end"}]}"#;
    assert_eq!(
        decoded(line),
        r#"delete s.t [a\"b=\\/\x08\x0c\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 end] -> []"#
    );
}

#[test]
fn boundaries_carry_xid_and_positions() {
    let mut line = br#"{"action":"B","xid":741,"timestamp":"2026-01-02 03:04:05.678901+00","lsn":"0/16B3748","nextlsn":"0/16B3780"}"#.to_vec();
    let mut decoder = Decoder::default();
    let Ok(Event::Begin(begin)) = decoder.decode(&mut line) else { panic!("not a begin") };
    let expected = Boundary {
        xid: Some(741),
        commit_lsn: Some(Lsn(0x16B3748)),
        end_lsn: Some(Lsn(0x16B3780)),
        committed_at: Some(CommitTime::Printed(b"2026-01-02 03:04:05.678901+00")),
    };
    assert_eq!(begin, expected);
}

#[test]
fn messages_carry_prefix_and_content() {
    let mut line = br#"{"action":"M","xid":null,"lsn":"0/10","transactional":false,"prefix":"p","content":"{\"delete\":[\"k\"]}"}"#.to_vec();
    let mut decoder = Decoder::default();
    let Ok(Event::Message(message)) = decoder.decode(&mut line) else { panic!("not a message") };
    assert!(!message.transactional);
    assert_eq!((message.prefix, message.content), (&b"p"[..], &br#"{"delete":["k"]}"#[..]));
}

#[test]
fn keys_may_come_in_any_order_and_unknown_ones_are_passed_over() {
    let line = r#" { "pk" : [ { "name" : "id" , "type":"int" } ], "x":{"y":[1,{}]}, "columns":[{"value":"v","type":"text","name":"n"}], "table":"t", "schema":"s", "action":"I" } "#;
    assert_eq!(decoded(line), "insert s.t [] -> [n=v]");
}

#[test]
fn malformed_lines_say_where() {
    for (line, error) in [
        ("", "byte 0: expected a JSON object"),
        ("[]", "byte 0: expected a JSON object"),
        (r#"{"action":"I"}"#, "byte 14: a change without `schema`"),
        (r#"{"action":"I","schema":"s"}"#, "byte 27: a change without `table`"),
        (r#"{"action":"X"}"#, "byte 0: an unknown `action`"),
        (r#"{"xid":1}"#, "byte 9: an object without `action`"),
        (r#"{"action":"B"} x"#, "byte 15: expected the end of the line"),
        (r#"{"action":"B","#, "byte 14: expected a string"),
        (r#"{"action":"B","xid":-1}"#, "byte 22: expected a transaction ID"),
        (r#"{"action":"B","lsn":"zz"}"#, "byte 24: expected an LSN like 16/B374D848"),
        (r#"{"action":"\ud800"}"#, "byte 17: half of a surrogate pair"),
        (r#"{"action":"\x"}"#, "byte 12: an unknown escape in a string"),
        (r#"{"action":"I"#, "byte 11: a string without its closing quote"),
        (
            r#"{"action":"I","columns":[{"name":"a"}]}"#,
            "byte 37: a column without `name` or `value`",
        ),
    ] {
        assert_eq!(decoded(line), error, "{line}");
    }
}

#[test]
fn nesting_is_bounded() {
    let line = format!("{{\"x\":{}", "[".repeat(100_000));
    assert!(decoded(&line).ends_with("a value that nests too deeply"));
}

#[test]
fn a_null_that_may_be_nan_is_no_null() {
    let mut line = br#"{"action":"I","schema":"s","table":"t","columns":[{"name":"n","typeoid":1700,"value":null},{"name":"f","typeoid":701,"value":1.5},{"name":"t","typeoid":25,"value":null},{"name":"x","value":null}]}"#.to_vec();
    for (nulls, n, x) in [
        (Nulls::ByType, Value::Unclear, Value::Unclear),
        (Nulls::Certain, Value::Null, Value::Null),
    ] {
        let mut decoder = Decoder::new(nulls);
        let mut line = line.clone();
        let Ok(Event::Change(change)) = decoder.decode(&mut line) else { panic!("not a change") };
        let value = |name| change.new.get(name);
        assert_eq!((value(b"n"), value(b"x")), (n, x));
        assert_eq!((value(b"f"), value(b"t")), (Value::Text(b"1.5"), Value::Null));
        assert!(change.new.has(b"n") && !change.new.has(b"y"));
    }
    line.truncate(60);
    assert!(Decoder::new(Nulls::ByType).decode(&mut line).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(mut line in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Decoder::default().decode(&mut line);
    }

    #[test]
    fn any_damage_to_a_line_is_decoded_or_refused(at in 0usize..200, byte in any::<u8>(), cut in 0usize..200) {
        let line = r#"{"action":"U","xid":7,"lsn":"0/1","schema":"public","table":"t","columns":[{"name":"id","value":-2.5e3},{"name":"x","value":"a\u00e9\n"}],"identity":[{"name":"id","value":null}]}"#;
        let mut line = line.as_bytes().to_vec();
        let length = line.len();
        line[at % length] = byte;
        let _ = Decoder::default().decode(&mut line.clone());
        line.truncate(cut);
        let _ = Decoder::default().decode(&mut line);
    }

    #[test]
    fn reads_the_same_as_a_json_library(name in ".*", value in ".*", old in ".*", pretty: bool) {
        let object = json!({
            "action": "U", "schema": name, "table": value,
            "columns": [{"name": name, "value": value}], "identity": [{"name": name, "value": old}],
        });
        let mut line = if pretty {
            serde_json::to_vec_pretty(&object).unwrap()
        } else {
            serde_json::to_vec(&object).unwrap()
        };
        let mut decoder = Decoder::default();
        let Ok(Event::Change(change)) = decoder.decode(&mut line) else { panic!("not a change") };
        prop_assert_eq!(change.schema, name.as_bytes());
        prop_assert_eq!(change.table, value.as_bytes());
        prop_assert_eq!(change.new.get(name.as_bytes()), Value::Text(value.as_bytes()));
        prop_assert_eq!(change.old.get(name.as_bytes()), Value::Text(old.as_bytes()));
    }
}
