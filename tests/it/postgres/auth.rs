//! Who is let in, by each method of pg_hba.conf, and what is said to those who are not.

use testkit::postgres::Postgres;
use walpurge::postgres::{PgErrorKind, client, connect_any};

use super::{assert_kind, config, connected, refused, run, told};

/// A server with a role for each method, all with the password `s3cret`.
fn server() -> Postgres {
    let server = Postgres::builder()
        .fsync(false)
        .hba(
            "host all clear 127.0.0.1/32 password\n\
             host all hashed 127.0.0.1/32 md5\n\
             host all scram 127.0.0.1/32 scram-sha-256\n\
             host all nobody 127.0.0.1/32 reject",
        )
        .start();
    server.psql(
        "postgres",
        "CREATE ROLE clear LOGIN REPLICATION PASSWORD 's3cret'; \
         CREATE ROLE scram LOGIN REPLICATION PASSWORD 's3cret'; \
         SET password_encryption = 'md5'; \
         CREATE ROLE hashed LOGIN REPLICATION PASSWORD 's3cret'; \
         CREATE ROLE plain LOGIN REPLICATION; \
         CREATE ROLE nobody LOGIN REPLICATION; \
         CREATE ROLE reader LOGIN",
    );
    server
}

fn url(server: &Postgres, user: &str, password: &str) -> String {
    format!("postgres://{user}:{password}@127.0.0.1:{}/postgres", server.port())
}

#[test]
fn every_method_lets_the_right_password_in_and_no_other() {
    let server = server();
    run(async {
        connected(&server.url("plain", "postgres")).await;
        for user in ["clear", "hashed", "scram"] {
            connected(&url(&server, user, "s3cret")).await;
            let opened = connect_any(&config(&url(&server, user, "s3cret"))).await;
            let rows = client::simple_query(&opened.unwrap().client, "SELECT current_user").await;
            assert_eq!(rows.unwrap(), [[Some(user.to_string())]]);

            let error = refused(&url(&server, user, "wr0ng")).await;
            assert_kind(&error, &PgErrorKind::Auth, true);
            assert!(told(&error).contains("password authentication failed"), "{}", told(&error));
            assert!(error.hint().unwrap().contains("PASSWORD"));
            assert!(!told(&error).contains("wr0ng"));

            let error = refused(&server.url(user, "postgres")).await;
            assert_kind(&error, &PgErrorKind::Auth, true);
            assert!(told(&error).contains("the URL has none"), "{}", told(&error));
        }
    });
}

#[test]
fn who_has_no_line_in_pg_hba_conf_is_told_to_add_one() {
    let server = server();
    run(async {
        let error = refused(&server.url("nobody", "postgres")).await;
        assert_kind(&error, &PgErrorKind::Auth, true);
        let error = refused(&server.url("missing", "postgres")).await;
        assert_kind(&error, &PgErrorKind::Auth, true);
        assert!(error.hint().unwrap().contains(r#"CREATE ROLE "missing" LOGIN REPLICATION"#));
    });
}

#[test]
fn a_role_without_replication_is_told_the_grant() {
    let server = server();
    run(async {
        let error = refused(&server.url("reader", "postgres")).await;
        assert_kind(&error, &PgErrorKind::NoReplicationRight, true);
        assert!(error.hint().unwrap().starts_with(r#"ALTER ROLE "reader" REPLICATION;"#));
        // The same role may well run SQL.
        connect_any(&config(&server.url("reader", "postgres"))).await.unwrap();
    });
}

#[test]
fn a_database_that_is_not_there_is_named() {
    let server = server();
    run(async {
        let error = refused(&server.url("plain", "shop")).await;
        assert_kind(&error, &PgErrorKind::DatabaseMissing, true);
        assert!(error.hint().unwrap().contains(r#"CREATE DATABASE "shop""#));
    });
}

#[test]
fn unix_sockets_work_and_need_no_tls() {
    let server = server();
    run(async {
        let url = format!("{}?sslmode=require", server.socket_url("plain", "postgres"));
        let session = connected(&url).await;
        let opened = client::connect_client(&config(&url), session.host()).await.unwrap();
        assert_eq!(&opened.host, session.host());
    });
}

#[test]
fn channel_binding_is_never_done_without() {
    let server = server();
    run(async {
        for user in ["scram", "clear", "plain"] {
            let url = format!("{}?channel_binding=require", url(&server, user, "s3cret"));
            let error = refused(&url).await;
            assert_kind(&error, &PgErrorKind::Auth, true);
            assert!(told(&error).contains("does not bind"), "{}", told(&error));
        }
    });
}

#[test]
fn a_setting_that_the_server_refuses_is_named() {
    let server = server();
    run(async {
        let url = format!("{}?options=-c%20nonsense%3D1", server.url("plain", "postgres"));
        let error = refused(&url).await;
        assert_kind(&error, &PgErrorKind::Config, true);
        assert!(told(&error).contains("nonsense"), "{}", told(&error));
    });
}

#[test]
fn the_users_options_win_over_ours() {
    let server = server();
    run(async {
        let url = format!(
            "{}?options=-c%20wal_sender_timeout%3D3s&application_name=me",
            server.url("plain", "postgres")
        );
        let mut session = connected(&url).await;
        let rows = session
            .simple_query(
                "SELECT current_setting('wal_sender_timeout'), current_setting('TimeZone'), \
                 current_setting('DateStyle'), current_setting('application_name')",
            )
            .await
            .unwrap();
        let row: Vec<_> = rows[0].iter().flatten().map(String::as_str).collect();
        assert_eq!(row, ["3s", "UTC", "ISO, MDY", "me"]);
        let mut session = connected(&server.url("plain", "postgres")).await;
        let rows = session.simple_query("SHOW wal_sender_timeout").await.unwrap();
        assert_eq!(rows[0][0].as_deref(), Some("10s"));
    });
}
