//! The kit's own promises.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use testkit::TestDir;
use testkit::postgres::{Postgres, StopMode};
use testkit::proxy::Proxy;
use testkit::redis::{Redis, Reply};
use testkit::wait_until;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn postgres_decodes_with_wal2json_and_survives_a_kill() {
    let mut postgres = Postgres::start();
    postgres.create_role_replication("walpurge");
    postgres.psql("postgres", "CREATE TABLE t (id int PRIMARY KEY)");
    let slot = "SELECT 1 FROM pg_create_logical_replication_slot('s', 'wal2json')";
    assert_eq!(postgres.psql_as("walpurge", "postgres", slot), "1");
    postgres.psql("postgres", "INSERT INTO t VALUES (1)");
    let end = postgres.current_lsn();
    assert!(!postgres.has_confirmed("s", &end));

    postgres.kill_9();
    assert!(postgres.try_psql("postgres", "postgres", "SELECT 1").is_err());
    postgres.start_again();
    let changes = postgres.psql(
        "postgres",
        "SELECT data FROM pg_logical_slot_get_changes('s', NULL, NULL, 'format-version', '2')",
    );
    assert!(changes.contains(r#""table":"t""#), "{changes}");
    assert!(postgres.has_confirmed("s", &end), "{}", postgres.confirmed_flush_lsn("s"));
    postgres.restart(StopMode::Fast);
    assert_eq!(postgres.psql("postgres", "SELECT count(*) FROM t"), "1");
}

#[test]
fn sessions_hold_transactions_and_report_errors() {
    let postgres = Postgres::builder().fsync(false).start();
    postgres.psql("postgres", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let mut holder = postgres.session("postgres", "postgres");
    let mut waiter = postgres.session("postgres", "postgres");
    holder.run("BEGIN; UPDATE t SET id = 2");
    waiter.send("UPDATE t SET id = 3 RETURNING id");
    assert_eq!(waiter.finish(Duration::from_millis(200)), None);
    holder.run("COMMIT");
    assert_eq!(waiter.finish(SOON), Some(Ok("3".to_owned())));
    waiter.send("SELECT 1/0");
    assert!(waiter.finish(SOON).unwrap().unwrap_err().contains("division by zero"));
    assert!(postgres.psql_fails("postgres", "SELECT 1/0").contains("division by zero"));
}

#[test]
fn a_paused_postgres_does_not_answer() {
    let mut postgres = Postgres::builder().fsync(false).start();
    let mut session = postgres.session("postgres", "postgres");
    assert_eq!(session.run("SELECT 1"), "1");
    postgres.pause();
    session.send("SELECT 2");
    assert_eq!(session.finish(Duration::from_millis(200)), None);
    postgres.resume();
    assert_eq!(session.finish(SOON), Some(Ok("2".to_owned())));
}

#[test]
fn a_standby_follows_and_can_be_promoted() {
    let primary = Postgres::builder().fsync(false).start();
    let standby = Postgres::standby_of(&primary, &[("hot_standby_feedback", "on")]);
    primary.psql("postgres", "CREATE TABLE t (id int); INSERT INTO t VALUES (7)");
    wait_until("the standby has the row", SOON, || {
        standby.try_psql("postgres", "postgres", "SELECT id FROM t") == Ok("7".to_owned())
    });
    standby.promote();
    standby.psql("postgres", "INSERT INTO t VALUES (8)");
}

#[test]
fn a_persistent_redis_keeps_its_data_over_a_kill() {
    let mut redis = Redis::builder().persistent().start();
    redis.set("k", "v");
    redis.kill_9();
    assert!(redis.try_cmd(&["PING"]).is_err());
    redis.start_again();
    assert_eq!(redis.get("k").as_deref(), Some("v"));
    assert!(redis.exists("k"));
    redis.stop();
    redis.start_again();
    assert_eq!(redis.get("k").as_deref(), Some("v"));
}

#[test]
fn redis_takes_passwords_and_users() {
    let redis = Redis::builder().password("p").acl("app on >s ~app:* +get +auth").start();
    redis.set("other", "1");
    let mut client = redis.client().unwrap();
    client.cmd(&["AUTH", "app", "s"]).unwrap();
    assert!(client.cmd(&["GET", "other"]).unwrap().is_error());
    assert_eq!(client.cmd(&["GET", "app:1"]).unwrap(), Reply::Bulk(None));
}

#[test]
fn a_proxy_stalls_cuts_and_refuses() {
    let postgres = Postgres::builder().fsync(false).start();
    let proxy = Proxy::to(postgres.port());
    let ask = |sql: &str| {
        let address = format!("host=127.0.0.1 port={}", proxy.port());
        let psql = postgres.client("psql").args(["-XAtc", sql, &address]).output();
        psql.unwrap().status.success()
    };
    assert!(ask("SELECT 1"));
    proxy.refuse();
    assert!(!ask("SELECT 1"));
    proxy.accept();
    assert!(ask("SELECT 1"));
    proxy.cut_after_bytes(1000);
    assert!(!ask("SELECT repeat('x', 100000)"));
    assert!(ask("SELECT 1"));
    proxy.stall();
    std::thread::scope(|scope| {
        let stalled = scope.spawn(|| ask("SELECT 1"));
        wait_until("the connection is open", SOON, || proxy.open() > 0);
        assert!(!stalled.is_finished());
        proxy.resume();
        assert!(stalled.join().unwrap());
    });
}

#[test]
fn a_mute_proxy_lets_requests_through_and_no_answers() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    proxy.mute();
    client.write_all(b"SET heard 1\r\n").unwrap();
    wait_until("the request has arrived", SOON, || redis.exists("heard"));
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = [0; 5];
    assert!(client.read_exact(&mut answer).is_err());
    proxy.resume();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+OK\r\n");
}

#[test]
fn both_servers_speak_tls() {
    let dir = TestDir::new("certificates");
    let [certificate, key] = ["server.crt", "server.key"].map(|name| dir.join(name));
    let openssl = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"])
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output();
    assert!(openssl.unwrap().status.success());

    let postgres = Postgres::builder().fsync(false).tls(&certificate, &key).start();
    let address = "host=127.0.0.1 sslmode=verify-ca";
    let psql = postgres
        .client("psql")
        .env("PGSSLROOTCERT", &certificate)
        .args(["-XAtc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", address])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&psql.stdout), "t\n", "{psql:?}");

    let redis = Redis::builder().tls(&certificate, &certificate, &key).start();
    let ping = Command::new("redis-cli")
        .args(["--tls", "-p", &redis.port().to_string(), "--cacert"])
        .arg(&certificate)
        .arg("PING")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&ping.stdout), "PONG\n", "{ping:?}");
    assert!(redis.url().starts_with("rediss://"));
}

#[test]
fn the_docker_image_s_init_script_makes_a_database_that_walpurge_can_tail() {
    let postgres = Postgres::builder()
        .fsync(false)
        .hba("host all walpurge 127.0.0.1/32 scram-sha-256")
        .start();
    // As the image finds it: without what the kit has set.
    postgres.psql("postgres", "ALTER SYSTEM RESET ALL");
    postgres.psql("postgres", "SELECT pg_reload_conf()");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/postgres/init.sql");
    let psql = postgres
        .client("psql")
        .env("WALPURGE_PASSWORD", "it's secret")
        .args(["-X", "-f", script])
        .output()
        .unwrap();
    assert!(psql.status.success(), "{psql:?}");

    let slot = postgres
        .client("psql")
        .env("PGPASSWORD", "it's secret")
        .args(["-XAtq", "-h", "127.0.0.1", "-U", "walpurge", "-c"])
        .arg("SELECT slot_name FROM pg_create_logical_replication_slot('s', 'wal2json')")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&slot.stdout), "s\n", "{slot:?}");
    let identity = "SELECT relreplident FROM pg_class WHERE relname = 'products'";
    assert_eq!(postgres.psql("postgres", identity), "f");
}
