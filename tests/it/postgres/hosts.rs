//! Which of several servers is chosen.

use testkit::free_port;
use testkit::postgres::Postgres;
use walpurge::postgres::{PgErrorKind, client, connect_any, server_identity};

use super::{assert_kind, config, connected, refused, run, told};

#[test]
fn target_session_attrs_choose_among_hosts_in_order() {
    let primary = Postgres::builder().fsync(false).start();
    let standby = Postgres::standby_of(&primary, &[]);
    let (dead, primary_port, standby_port) = (free_port(), primary.port(), standby.port());
    let url = |ports: [u16; 3], attrs: &str| {
        let hosts = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
        format!("postgres://postgres@{hosts}/postgres?target_session_attrs={attrs}")
    };
    let standby_first = [dead, standby_port, primary_port];
    let primary_first = [dead, primary_port, standby_port];
    run(async {
        for (ports, attrs, expected) in [
            (standby_first, "any", standby_port),
            (standby_first, "read-write", primary_port),
            (standby_first, "primary", primary_port),
            (primary_first, "read-only", standby_port),
            (primary_first, "standby", standby_port),
            (primary_first, "prefer-standby", standby_port),
            ([dead, primary_port, dead], "prefer-standby", primary_port),
        ] {
            let session = connected(&url(ports, attrs)).await;
            assert!(session.host().to_string().contains(&expected.to_string()), "{attrs}");
            let opened = connect_any(&config(&url(ports, attrs))).await.unwrap();
            assert_eq!(&opened.host, session.host(), "{attrs}");
        }
        let error = refused(&url([dead, standby_port, dead], "read-write")).await;
        assert_kind(&error, &PgErrorKind::WrongServerRole, false);
        assert!(told(&error).contains("read-write"), "{}", told(&error));
    });
}

#[test]
fn the_identity_tells_servers_apart() {
    let primary = Postgres::builder().fsync(false).start();
    let standby = Postgres::standby_of(&primary, &[]);
    primary.create_role_replication("w");
    run(async {
        let url = primary.url("w", "postgres");
        let mut session = connected(&url).await;
        let opened = client::connect_client(&config(&url), session.host()).await.unwrap();
        let ours = session.server_identity().await.unwrap();
        assert_eq!(server_identity(&opened.client).await.unwrap(), ours);
        assert_eq!(session.identify_system().await.unwrap().system_id, ours.system_id);

        let other = connect_any(&config(&standby.url("postgres", "postgres"))).await.unwrap();
        let other = server_identity(&other.client).await.unwrap();
        assert_eq!(other.system_id, ours.system_id);
        assert_ne!(other, ours);
    });
}

#[test]
fn a_server_that_is_not_there_is_an_outage() {
    run(async {
        let error = refused(&format!("postgres://w@127.0.0.1:{}/d", free_port())).await;
        assert_kind(&error, &PgErrorKind::ConnectionLost, false);
        let error = refused("postgres://w@no-such-host.invalid/d").await;
        assert_kind(&error, &PgErrorKind::ConnectionLost, false);
        assert!(told(&error).contains("no-such-host.invalid:5432"), "{}", told(&error));
    });
}

#[test]
fn a_server_that_never_answers_is_given_up_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    run(async {
        let error = refused(&format!("postgres://w@127.0.0.1:{port}/d?connect_timeout=1")).await;
        assert_kind(&error, &PgErrorKind::ConnectionLost, false);
        assert!(told(&error).contains("no answer within 1s"), "{}", told(&error));
    });
}

#[test]
fn a_shutdown_is_seen_on_the_ordinary_connection() {
    let mut server = Postgres::builder().fsync(false).start();
    run(async {
        let url = server.url("postgres", "postgres");
        let mut opened = connect_any(&config(&url)).await.unwrap();
        server.stop(testkit::postgres::StopMode::Fast);
        let error = opened.task.ended().await;
        assert_kind(&error, &PgErrorKind::ServerShuttingDown, false);
    });
}

/// A server that reads one startup packet and answers with an error.
fn answering(sqlstate: &str, message: &str) -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = format!("SFATAL\0C{sqlstate}\0M{message}\0\0");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let mut answer = vec![b'E'];
        answer.extend((body.len() as u32 + 4).to_be_bytes());
        answer.extend(body.bytes());
        let _ = stream.write_all(&answer);
    });
    port
}

#[test]
fn a_pooler_in_between_is_recognised() {
    let port = answering("08P01", "unsupported startup parameter: replication");
    run(async {
        let error = refused(&format!("postgres://w@127.0.0.1:{port}/d?sslmode=disable")).await;
        assert_kind(&error, &PgErrorKind::Pooler, true);
        assert!(error.hint().unwrap().contains("past the pooler"), "{}", told(&error));
    });
}
