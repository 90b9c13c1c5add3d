//! Streaming: changes, notices and keepalives in, positions out, a clean end.

use std::time::Duration;

use testkit::postgres::{Postgres, StopMode};
use walpurge::lsn::Lsn;
use walpurge::postgres::{
    Format, Frame, NumericFormat, Persistence, PgError, PgErrorKind, PluginOptions,
    ReplicationStream, Reply, Wal2jsonOptions,
};
use walpurge::rules::{Part, TablePattern, to_wal2json};

use super::{SOON, assert_kind, connected, run, told};

/// What a test keeps of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Data(Lsn, String),
    Keepalive(Lsn),
    Notice(String),
}

/// Reads until a frame satisfies `last`, which is the end of what is returned. Keepalives that
/// want an answer get one.
pub(crate) async fn read_until(
    stream: &mut ReplicationStream,
    last: impl Fn(&Seen) -> bool,
) -> Vec<Seen> {
    let mut seen = Vec::new();
    loop {
        let mut reply = false;
        while let Some(frame) = stream.next_frame().unwrap() {
            let frame = match frame {
                Frame::XLogData { start_lsn, data, .. } => {
                    Seen::Data(start_lsn, String::from_utf8(data.to_vec()).unwrap())
                }
                Frame::Keepalive { wal_end, reply_requested } => {
                    reply |= reply_requested;
                    Seen::Keepalive(wal_end)
                }
                Frame::Notice(notice) => Seen::Notice(notice.message),
                other => panic!("{other:?}"),
            };
            let is_last = last(&frame);
            seen.push(frame);
            if is_last {
                return seen;
            }
        }
        if reply {
            stream.send_status(Lsn::ZERO, Lsn::ZERO, Reply::NotNeeded).await.unwrap();
        }
        let read = tokio::time::timeout(SOON, stream.read()).await;
        read.unwrap_or_else(|_| panic!("nothing came after {seen:?}")).unwrap();
    }
}

pub(crate) fn is_commit(frame: &Seen) -> bool {
    matches!(frame, Seen::Data(_, json) if json.contains(r#""action":"C""#))
}

pub(crate) async fn started(url: &str, options: &Wal2jsonOptions) -> ReplicationStream {
    let mut session = connected(url).await;
    if session.slot("main").await.unwrap().is_none() {
        session.create_slot("main", "wal2json", Persistence::Permanent).await.unwrap();
    }
    let started = session.start_stream("main", &PluginOptions::Wal2json(options.clone())).await;
    let started = started.unwrap_or_else(|failure| panic!("{}", told(&failure.error)));
    // Debian's wal2json is 2.5, which does not know the option: it was done without.
    assert_eq!(started.format, Format::Wal2json(NumericFormat::Numbers));
    started.stream
}

fn server() -> Postgres {
    let server = Postgres::builder().fsync(false).start();
    server.create_role_replication("w");
    server.psql("postgres", "CREATE TABLE t (id int PRIMARY KEY, price numeric)");
    server
}

#[test]
fn changes_arrive_and_what_is_confirmed_is_remembered() {
    let server = server();
    run(async {
        let url = server.url("w", "postgres");
        let mut stream = started(&url, &Wal2jsonOptions::default()).await;
        server.psql("postgres", "INSERT INTO t VALUES (1, 1.10)");
        let seen = read_until(&mut stream, is_commit).await;
        let Some(Seen::Data(end_lsn, commit)) = seen.last() else { panic!("{seen:?}") };
        assert!(commit.contains(&format!(r#""nextlsn":"{end_lsn}""#)), "{commit}");
        assert!(
            seen.iter()
                .any(|f| matches!(f, Seen::Data(_, json) if json.contains(r#""value":1.10"#))),
            "{seen:?}"
        );
        // Nothing is confirmed but by us.
        assert!(!server.has_confirmed("main", &end_lsn.to_string()));
        stream.send_status(*end_lsn, *end_lsn, Reply::Requested).await.unwrap();
        read_until(&mut stream, |frame| matches!(frame, Seen::Keepalive(_))).await;
        testkit::wait_until("the position is confirmed", SOON, || {
            server.has_confirmed("main", &end_lsn.to_string())
        });
        stream.stop().await.unwrap();

        // The next stream goes on behind it.
        let mut stream = started(&url, &Wal2jsonOptions::default()).await;
        server.psql("postgres", "INSERT INTO t VALUES (2, 2)");
        let seen = read_until(&mut stream, is_commit).await;
        assert!(!format!("{seen:?}").contains("1.10"), "{seen:?}");
        stream.stop().await.unwrap();
    });
}

#[test]
fn notices_arrive_in_the_place_of_the_change_that_was_dropped() {
    let server = server();
    server.psql("postgres", "CREATE TABLE np (id int); INSERT INTO np VALUES (1)");
    run(async {
        let mut stream = started(&server.url("w", "postgres"), &Wal2jsonOptions::default()).await;
        server.psql(
            "postgres",
            "BEGIN; INSERT INTO t VALUES (1, 1); UPDATE np SET id = 2; INSERT INTO t VALUES (2, 2); COMMIT",
        );
        let seen = read_until(&mut stream, is_commit).await;
        let at = |part: &str| {
            let found = seen.iter().position(|frame| format!("{frame:?}").contains(part));
            found.unwrap_or_else(|| panic!("no {part} in {seen:?}"))
        };
        let notice = at("no tuple identifier for UPDATE in table");
        assert!(matches!(seen[notice], Seen::Notice(_)));
        assert!(at(r#"\"value\":1}"#) < notice && notice < at(r#"\"value\":2}"#), "{seen:?}");
    });
}

#[test]
fn only_the_chosen_tables_and_messages_are_streamed() {
    let server = server();
    let odd = r#"a.b, c*"d'e\f G"#;
    let quoted = format!("\"{}\"", odd.replace('"', "\"\""));
    server.psql("postgres", &format!("CREATE TABLE {quoted} (id int PRIMARY KEY)"));
    let exact = |name: &str| Part::Exact(name.into());
    let table = TablePattern { schema: exact("public"), table: exact(odd) };
    let options = Wal2jsonOptions {
        tables: to_wal2json(&[table]),
        message_prefixes: vec!["walpurge".into(), "walpurge.heartbeat".into()],
        actions: vec![],
        has_nulls: false,
    };
    run(async {
        let mut stream = started(&server.url("w", "postgres"), &options).await;
        server.psql(
            "postgres",
            &format!(
                "BEGIN; INSERT INTO t VALUES (77, 1); INSERT INTO {quoted} VALUES (42); \
                 SELECT pg_logical_emit_message(true, 'foreign', 'no'); \
                 SELECT pg_logical_emit_message(true, 'walpurge', 'yes'); COMMIT"
            ),
        );
        let seen = format!("{:?}", read_until(&mut stream, is_commit).await);
        assert!(seen.contains(r#"\"value\":42"#) && !seen.contains(r#"\"value\":77"#), "{seen}");
        assert!(seen.contains(r#"\"content\":\"yes\""#) && !seen.contains("foreign"), "{seen}");
    });
}

#[test]
fn a_large_value_comes_whole_through_tcp_and_socket() {
    let server = server();
    server.psql("postgres", "CREATE TABLE big (id int PRIMARY KEY, body text)");
    run(async {
        for url in [server.url("w", "postgres"), server.socket_url("w", "postgres")] {
            let mut stream = started(&url, &Wal2jsonOptions::default()).await;
            server.psql(
                "postgres",
                "INSERT INTO big VALUES (1, repeat('x', 5000000)); DELETE FROM big",
            );
            let seen = read_until(&mut stream, is_commit).await;
            let bytes: usize = seen
                .iter()
                .map(|frame| match frame {
                    Seen::Data(_, json) => json.matches('x').count(),
                    _ => 0,
                })
                .sum();
            assert!(bytes >= 5_000_000, "{bytes}");
            let seen = read_until(&mut stream, is_commit).await;
            let Some(Seen::Data(end, _)) = seen.last() else { panic!("{seen:?}") };
            stream.send_status(*end, *end, Reply::NotNeeded).await.unwrap();
            stream.stop().await.unwrap();
        }
    });
}

#[test]
fn a_read_that_is_dropped_loses_nothing() {
    let server = server();
    run(async {
        let mut stream = started(&server.url("w", "postgres"), &Wal2jsonOptions::default()).await;
        server.psql("postgres", "INSERT INTO t SELECT i, i FROM generate_series(1, 20000) i");
        let mut rows = 0;
        let mut done = false;
        while !done {
            // Dropped at every await that does not finish at once.
            let _ = tokio::time::timeout(Duration::ZERO, stream.read()).await;
            while let Some(frame) = stream.next_frame().unwrap() {
                if let Frame::XLogData { data, .. } = frame {
                    rows += usize::from(data.starts_with(br#"{"action":"I""#));
                    done |= data.starts_with(br#"{"action":"C""#);
                }
            }
        }
        assert_eq!(rows, 20_000);
        stream.stop().await.unwrap();
    });
}

#[test]
fn a_stream_stops_within_its_bound_in_the_middle_of_a_backlog() {
    let server = server();
    run(async {
        let url = server.url("w", "postgres");
        let mut stream = started(&url, &Wal2jsonOptions::default()).await;
        server.psql("postgres", "INSERT INTO t SELECT i, i FROM generate_series(1, 200000) i");
        stream.read().await.unwrap();
        let start = std::time::Instant::now();
        // In time or not, it ends; and the slot is free for the next one soon.
        let _ = stream.stop().await;
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        testkit::wait_until("the slot is free", SOON, || {
            server.psql("postgres", "SELECT active FROM pg_replication_slots") == "f"
        });
    });
}

#[test]
fn the_end_of_a_server_is_an_outage_and_not_a_mistake() {
    let mut server = server();
    run(async {
        let url = server.url("w", "postgres");
        let mut stream = started(&url, &Wal2jsonOptions::default()).await;
        server.stop(StopMode::Immediate);
        let error = loop {
            if let Err(error) = stream.read().await {
                break error;
            }
            match stream.next_frame().unwrap() {
                Some(Frame::Error(error)) => break stream.server_failed(error),
                _ => continue,
            }
        };
        assert!(
            matches!(error.kind(), PgErrorKind::ConnectionLost | PgErrorKind::ServerShuttingDown),
            "{}",
            told(&error)
        );
        assert!(!error.is_configuration());
        let error = super::refused(&url).await;
        assert_kind(&error, &PgErrorKind::ConnectionLost, false);
    });
}

/// Counts the keepalives that want an answer, up to three, and gives each one its `answer`.
async fn keepalives(stream: &mut ReplicationStream, answer: bool) -> Result<u32, PgError> {
    let mut requested = 0;
    while requested < 3 {
        let read = tokio::time::timeout(SOON, stream.read()).await;
        read.expect("the server gives a sign of life")?;
        let mut owed = 0;
        while let Some(frame) = stream.next_frame()? {
            match frame {
                Frame::Keepalive { reply_requested, .. } => owed += u32::from(reply_requested),
                Frame::Error(error) => return Err(stream.server_failed(error)),
                _ => {}
            }
        }
        requested += owed;
        if owed > 0 && answer {
            stream.send_status(Lsn::ZERO, Lsn::ZERO, Reply::NotNeeded).await?;
        }
    }
    Ok(requested)
}

#[test]
fn who_answers_keepalives_stays_and_who_does_not_is_dropped() {
    let server = server();
    let url = format!("{}?options=-c%20wal_sender_timeout%3D1s", server.url("w", "postgres"));
    run(async {
        let mut stream = started(&url, &Wal2jsonOptions::default()).await;
        assert_eq!(keepalives(&mut stream, true).await.unwrap(), 3);
        let error = keepalives(&mut stream, false).await.unwrap_err();
        assert_kind(&error, &PgErrorKind::ConnectionLost, false);
    });
}

#[test]
fn a_connection_that_is_cut_is_an_outage() {
    let server = server();
    let proxy = testkit::proxy::Proxy::to(server.port());
    run(async {
        let url = format!("postgres://w@127.0.0.1:{}/postgres", proxy.port());
        let mut stream = started(&url, &Wal2jsonOptions::default()).await;
        proxy.cut();
        let error = loop {
            if let Err(error) = stream.read().await {
                break error;
            }
            while stream.next_frame().unwrap().is_some() {}
        };
        assert_kind(&error, &PgErrorKind::ConnectionLost, false);
    });
}

#[test]
fn a_session_can_be_moved_to_another_task() {
    let server = server();
    let url = server.url("w", "postgres");
    run(async {
        // That this compiles is most of the proof: a task's future must be Send.
        let streaming = tokio::spawn(async move {
            let mut stream = started(&url, &Wal2jsonOptions::default()).await;
            stream.send_status(Lsn::ZERO, Lsn::ZERO, Reply::Requested).await.unwrap();
            stream.read().await.unwrap();
            stream.stop().await.unwrap();
        });
        tokio::time::timeout(SOON, streaming).await.unwrap().unwrap();
    });
}
