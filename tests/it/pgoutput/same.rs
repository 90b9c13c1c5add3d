//! One workload through both plugins of one server: what comes out is the same, change by change.

use testkit::postgres::Postgres;
use walpurge::change::{Change, Row, Value};
use walpurge::decode::{Boundary, CommitTime, Decoder, Event, Nulls, pgoutput, wal2json};

/// Everything that is replicated differently for each type, identity and kind of change.
const WORKLOAD: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN flag AS boolean;
CREATE DOMAIN blob AS bytea;
CREATE DOMAIN price AS numeric(10, 2);
CREATE TABLE types (
    id int PRIMARY KEY, small smallint, big bigint, num numeric, cents numeric(12, 2),
    f4 float4, f8 float8, ok boolean, raw bytea, txt text, vc varchar(10), ch char(5),
    one "char", nm name, d date, t time, tz timetz, ts timestamp, tstz timestamptz,
    iv interval, u uuid, js json, jb jsonb, xm xml, bt bit(5), vb varbit, inet inet, cidr cidr,
    mac macaddr, mny money, pt point, bx box, mood mood, pair pair, flag flag, blob blob,
    price price, ints int[], texts text[], bools boolean[], raws bytea[], flags flag[],
    ir int4range, tr tstzrange, ts_v tsvector, o oid, rc regclass, lsn pg_lsn
);
INSERT INTO types VALUES (1, -1, -9223372036854775808, 1.10, 0.10, 1.5, 1e-7, true, '\x00ff',
    E'a"b\\c\n\té日本😀', 'x', 'ab', 'c', 'na me', '2026-01-02', '03:04:05.678', '03:04:05+01',
    '2026-01-02 03:04:05.678901', '2026-01-02 03:04:05.678901+02', '1 year 2 days 03:04:05',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": 1.10}', '{"b": [1, null]}', '<a>b</a>',
    B'10110', B'101', '10.1.2.3/24', '10.1.2.0/24', '08:00:2b:01:02:03', 12.5, '(1,2)',
    '(1,1),(0,0)', 'it''s "ok"', ROW(1, 'x y'), true, '\xdead', 9.90, '{1,NULL,3}',
    '{"a b",NULL,"q\"q"}', '{t,f,NULL}', '{"\\x00"}', '{t,f}', '[1,5)',
    '["2026-01-02 03:04:05+00",)', 'a fat cat', 4711, 'pg_class', '16/B374D848');
INSERT INTO types (id) VALUES (2);
INSERT INTO types (id, ok, flag, raw, blob, txt) VALUES (3, false, false, '', '', '');
UPDATE types SET ok = NOT ok, flag = NOT flag, raw = raw || '\x01', blob = '\x' WHERE id < 4;
UPDATE types SET id = 5 WHERE id = 1;
DELETE FROM types WHERE id IN (2, 5);

CREATE TABLE floats (id int PRIMARY KEY, n numeric, f float8, g float4);
INSERT INTO floats VALUES (1, 'NaN', 'Infinity', '-Infinity'), (2, NULL, NULL, NULL),
    (3, 'NaN', 'NaN', 1), (4, 1e20, 1e20, 12345678901234567890.123);
UPDATE floats SET n = 2.50 WHERE id = 1;

CREATE TABLE "O""dd.Näme s" ("Kéy 1" text, "gone" "char", "select" text);
ALTER TABLE "O""dd.Näme s" DROP COLUMN "gone";
ALTER TABLE "O""dd.Näme s" ADD PRIMARY KEY ("Kéy 1");
INSERT INTO "O""dd.Näme s" VALUES ('a''b', E'\\x'), ('', NULL);
UPDATE "O""dd.Näme s" SET "select" = 'n' WHERE "Kéy 1" = '';
DELETE FROM "O""dd.Näme s" WHERE "Kéy 1" = 'a''b';

CREATE TABLE by_key (a int, b text, c text, PRIMARY KEY (c, a));
INSERT INTO by_key VALUES (1, 'b', 'c'), (2, NULL, 'd');
UPDATE by_key SET b = 'new' WHERE a = 1;
UPDATE by_key SET c = 'moved', b = NULL WHERE a = 1;
UPDATE by_key SET a = a WHERE a = 2;
DELETE FROM by_key;

CREATE TABLE by_index (a int, u int NOT NULL, v text NOT NULL);
CREATE UNIQUE INDEX by_index_u ON by_index (v, u);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_u;
INSERT INTO by_index VALUES (1, 1, 'x'), (2, 2, 'y');
UPDATE by_index SET a = 3 WHERE u = 1;
UPDATE by_index SET u = 4 WHERE u = 2;
DELETE FROM by_index;

CREATE TABLE by_row (a int, b text, c text);
ALTER TABLE by_row REPLICA IDENTITY FULL;
INSERT INTO by_row VALUES (1, 'b', NULL), (NULL, NULL, 'c');
UPDATE by_row SET a = 2 WHERE b = 'b';
UPDATE by_row SET c = NULL WHERE c = 'c';
UPDATE by_row SET c = c;
DELETE FROM by_row;

CREATE TABLE by_nothing (a int);
ALTER TABLE by_nothing REPLICA IDENTITY NOTHING;
INSERT INTO by_nothing VALUES (1);

CREATE TABLE large (id int PRIMARY KEY, big text, n int);
ALTER TABLE large ALTER big SET STORAGE EXTERNAL;
INSERT INTO large VALUES (1, repeat('x', 5000), 0), (2, 'small', 0);
UPDATE large SET n = 1;
UPDATE large SET id = 10 + id;
UPDATE large SET big = repeat('y', 5000) WHERE id = 12;
DELETE FROM large WHERE id = 11;
ALTER TABLE large REPLICA IDENTITY FULL;
UPDATE large SET n = 2;
DELETE FROM large;

CREATE TABLE large_key (k text PRIMARY KEY, n int);
ALTER TABLE large_key ALTER k SET STORAGE EXTERNAL;
INSERT INTO large_key VALUES (repeat('k', 2500), 0);
UPDATE large_key SET n = 1;
DELETE FROM large_key;

CREATE TABLE altered (id int PRIMARY KEY, a text);
INSERT INTO altered VALUES (1, 'a');
BEGIN;
INSERT INTO altered VALUES (2, 'b');
ALTER TABLE altered ADD COLUMN ok boolean DEFAULT true;
INSERT INTO altered VALUES (3, 'c');
ALTER TABLE altered RENAME TO renamed;
ALTER TABLE renamed DROP COLUMN a;
INSERT INTO renamed VALUES (4);
SAVEPOINT s; INSERT INTO renamed VALUES (5); ROLLBACK TO s;
INSERT INTO renamed VALUES (6);
COMMIT;
CREATE TABLE altered (id bigint PRIMARY KEY);
INSERT INTO altered VALUES (7);
DROP TABLE altered;
BEGIN; INSERT INTO renamed VALUES (8); ROLLBACK;

CREATE SCHEMA parts;
CREATE TABLE orders (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parts.one PARTITION OF orders FOR VALUES IN (1);
CREATE TABLE two PARTITION OF orders FOR VALUES IN (2) PARTITION BY LIST (part);
CREATE TABLE parts."Two.1" PARTITION OF two FOR VALUES IN (2);
INSERT INTO orders VALUES (1, 1, 'a'), (2, 2, 'b');
UPDATE orders SET part = 2 WHERE id = 1;
UPDATE orders SET v = 'c';
TRUNCATE orders;

CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY REFERENCES parent);
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1);
TRUNCATE parent, by_row CASCADE;
TRUNCATE ONLY by_key RESTART IDENTITY;

BEGIN;
SELECT pg_logical_emit_message(true, 'walpurge', '{"delete": ["é"]}');
INSERT INTO parent VALUES (2);
SELECT pg_logical_emit_message(true, 'walpurge.ddl', '');
COMMIT;
SELECT pg_logical_emit_message(false, 'other', 'now');
-- A commit at the end: what comes before it is flushed.
SELECT pg_logical_emit_message(true, 'walpurge', 'alone');
"#;

#[derive(Debug, Default)]
struct Told {
    lines: Vec<String>,
    begun: Option<String>,
    /// How many nulls the plugin leaves in doubt.
    doubts: usize,
}

impl Told {
    fn read(messages: Vec<Vec<u8>>, mut decoder: Decoder) -> Told {
        let mut told = Told::default();
        for mut message in messages {
            match decoder.decode(&mut message).unwrap() {
                Event::Begin(begin) => told.begun = Some(boundary(&begin)),
                Event::Commit(_) => told.begun = None,
                Event::Aside => {}
                Event::Change(change) => told.change(&change),
                Event::Truncate(changes) => changes.for_each(|change| told.change(&change)),
                Event::Message(message) => {
                    let text = format!(
                        "message {} {} {} {}",
                        message.transactional,
                        message.lsn.unwrap(),
                        message.prefix.escape_ascii(),
                        message.content.escape_ascii()
                    );
                    // Its own transaction's position says nothing here.
                    told.line(text, message.transactional);
                }
            }
        }
        told
    }

    fn change(&mut self, change: &Change<'_>) {
        let (old, new) = (self.row(change.old), self.row(change.new));
        let (schema, table) = (change.schema.escape_ascii(), change.table.escape_ascii());
        self.line(format!("{} {schema}.{table} [{old}] -> [{new}]", change.op.name()), true);
    }

    fn row(&mut self, row: Row<'_>) -> String {
        let mut column = |(name, value): (&[u8], Value<'_>)| {
            let name = name.escape_ascii();
            match value {
                Value::Text(text) => format!("{name}={}", text.escape_ascii()),
                Value::Null => format!("{name} NULL"),
                Value::Absent => unreachable!("it is not listed"),
                Value::Unclear => {
                    self.doubts += 1;
                    format!("{name} doubtful")
                }
            }
        };
        row.iter().map(&mut column).collect::<Vec<_>>().join(" ")
    }

    fn line(&mut self, text: String, is_within: bool) {
        if is_within && let Some(begun) = self.begun.take() {
            self.lines.push(begun);
        }
        self.lines.push(text);
    }
}

fn boundary(begin: &Boundary<'_>) -> String {
    let at = match begin.committed_at.unwrap() {
        CommitTime::Printed(text) => {
            let text = std::str::from_utf8(text).unwrap();
            text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
        }
        CommitTime::Micros(at) => at,
    };
    format!("begin {} at {} {at}", begin.xid.unwrap(), begin.commit_lsn.unwrap())
}

/// Where one plugin leaves in doubt what the other one says.
fn is_same(doubtful: &str, certain: &str) -> bool {
    let mut rest = certain;
    let mut parts = doubtful.split(" doubtful");
    let Some(mut after) = parts.next().and_then(|first| rest.strip_prefix(first)) else {
        return false;
    };
    for part in parts {
        let Some(behind) = ["=NaN", "=Infinity", "=-Infinity", " NULL"]
            .iter()
            .find_map(|value| after.strip_prefix(value)?.strip_prefix(part))
        else {
            return false;
        };
        after = behind;
    }
    rest = after;
    rest.is_empty()
}

const PRINTING: &str = "SET DateStyle = ISO; SET TimeZone = UTC; SET IntervalStyle = postgres;
    SET extra_float_digits = 1; SET bytea_output = hex; SET client_min_messages = error;";

fn lines(pg: &Postgres) -> Vec<Vec<u8>> {
    let sql = format!(
        "{PRINTING} SELECT data FROM pg_logical_slot_get_changes('lines', NULL, NULL,
            'format-version', '2', 'include-lsn', 'true', 'include-xids', 'true',
            'include-timestamp', 'true', 'include-types', 'false', 'include-type-oids', 'true')"
    );
    pg.psql("postgres", &sql).lines().map(|line| line.as_bytes().to_vec()).collect()
}

fn messages(pg: &Postgres) -> Vec<Vec<u8>> {
    let sql = format!(
        "{PRINTING} SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('binary',
            NULL, NULL, 'proto_version', '1', 'publication_names', 'everything',
            'messages', 'true')"
    );
    let byte = |digits: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).expect("hexadecimal")
    };
    let bytes = |line: &str| line.as_bytes().chunks(2).map(byte).collect();
    pg.psql("postgres", &sql).lines().map(bytes).collect()
}

#[test]
fn both_plugins_say_the_same_of_every_type_identity_and_operation() {
    let pg = Postgres::builder().fsync(false).start();
    pg.psql(
        "postgres",
        "CREATE PUBLICATION everything FOR ALL TABLES;
         SELECT pg_create_logical_replication_slot('lines', 'wal2json');
         SELECT pg_create_logical_replication_slot('binary', 'pgoutput')",
    );
    // Each statement a transaction of its own, but for the blocks.
    let mut session = pg.session("postgres", "postgres");
    session.run(WORKLOAD);
    let decoder = Decoder::Wal2json(wal2json::Decoder::new(Nulls::ByType));
    let mut wal2json = Told::read(lines(&pg), decoder);
    // Of a partitioned table that is emptied pgoutput names the partitions alone, which hold the
    // rows.
    let wholes = ["truncate public.orders [] -> []", "truncate public.two [] -> []"];
    wal2json.lines.retain(|line| !wholes.contains(&line.as_str()));
    let decoder = Decoder::Pgoutput(pgoutput::Decoder::default());
    let pgoutput = Told::read(messages(&pg), decoder);
    assert!(wal2json.doubts > 0, "the version of wal2json prints NaN: drop the exception");
    assert_eq!(pgoutput.doubts, 0);
    assert!(wal2json.lines.len() > 120, "{} lines", wal2json.lines.len());
    for (wal2json, pgoutput) in wal2json.lines.iter().zip(&pgoutput.lines) {
        assert!(is_same(wal2json, pgoutput), "wal2json {wal2json}\npgoutput {pgoutput}");
    }
    let common = wal2json.lines.len().min(pgoutput.lines.len());
    assert_eq!(wal2json.lines[common..], pgoutput.lines[common..]);
}
