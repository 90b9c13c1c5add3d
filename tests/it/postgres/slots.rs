//! Slots: making, copying, and every way in which one cannot be used.

use testkit::postgres::Postgres;
use walpurge::postgres::{
    Persistence, PgErrorKind, PluginOptions, ReplicationSession, Wal2jsonOptions, WalStatus,
    blockers, connect_any,
};

fn wal2json() -> PluginOptions {
    PluginOptions::Wal2json(Wal2jsonOptions::default())
}

use super::{SOON, assert_kind, config, connected, run, told};

fn server() -> Postgres {
    let server = Postgres::builder().fsync(false).start();
    server.create_role_replication("w");
    server
}

#[test]
fn slots_are_made_read_copied_advanced_and_dropped() {
    let server = server();
    run(async {
        let mut session = connected(&server.url("w", "postgres")).await;
        assert_eq!(session.slot("it's").await.unwrap(), None);
        let made = session.create_slot("main", "wal2json", Persistence::Permanent).await.unwrap();
        let slot = session.slot("main").await.unwrap().unwrap();
        assert_eq!(slot.confirmed_flush_lsn, Some(made.consistent_lsn));
        assert_eq!(
            (slot.plugin.as_deref(), slot.database.as_deref()),
            (Some("wal2json"), Some("postgres"))
        );
        assert!(!slot.active && !slot.temporary && slot.active_pid.is_none());
        assert_eq!(slot.wal_status, WalStatus::Reserved);

        session.copy_slot_temporary("main", "copy").await.unwrap();
        let copy = session.slot("copy").await.unwrap().unwrap();
        assert!(copy.temporary && copy.active);
        assert_eq!(copy.active_pid, Some(session.process_id()));

        server.psql("postgres", "CREATE TABLE t (id int)");
        let end = session.current_wal_flush_lsn().await.unwrap();
        session.advance_slot("main", end).await.unwrap();
        let slot = session.slot("main").await.unwrap().unwrap();
        assert!(slot.confirmed_flush_lsn > Some(made.consistent_lsn));

        let error =
            session.create_slot("main", "wal2json", Persistence::Temporary).await.unwrap_err();
        assert_kind(&error, &PgErrorKind::SlotExists, false);
        session.drop_slot("main").await.unwrap();
        let error = session.drop_slot("main").await.unwrap_err();
        assert_kind(&error, &PgErrorKind::SlotMissing, false);
    });
}

/// Starts wal2json on a slot that cannot be used.
async fn start_fails(session: ReplicationSession, slot: &str) -> (PgErrorKind, String) {
    match session.start_stream(slot, &wal2json()).await {
        Ok(_) => panic!("the stream started"),
        Err(failure) => {
            let mut session = failure.session.expect("the session can be used on");
            session.identify_system().await.unwrap();
            let hint = failure.error.hint().unwrap_or_default();
            (failure.error.kind().clone(), format!("{} / {hint}", told(&failure.error)))
        }
    }
}

#[test]
fn a_slot_that_is_not_ours_is_refused_with_its_reason() {
    let server = server();
    server.psql("postgres", "CREATE DATABASE other");
    server.psql("other", "SELECT pg_create_logical_replication_slot('elsewhere', 'wal2json')");
    server.psql(
        "postgres",
        "SELECT pg_create_logical_replication_slot('foreign_plugin', 'test_decoding'); \
         SELECT pg_create_physical_replication_slot('physical', true)",
    );
    run(async {
        let url = server.url("w", "postgres");
        let (kind, _) = start_fails(connected(&url).await, "missing").await;
        assert_eq!(kind, PgErrorKind::SlotMissing);
        let (kind, text) = start_fails(connected(&url).await, "elsewhere").await;
        assert_eq!(kind, PgErrorKind::SlotOfOtherDatabase { database: Some("other".into()) });
        assert!(text.contains("\"other\""), "{text}");
        let (kind, _) = start_fails(connected(&url).await, "foreign_plugin").await;
        let plugin = Some("test_decoding".to_string());
        assert_eq!(kind, PgErrorKind::SlotOfOtherPlugin { plugin });
        let (kind, _) = start_fails(connected(&url).await, "physical").await;
        assert_eq!(kind, PgErrorKind::SlotOfOtherPlugin { plugin: None });

        // The server's own words for the same.
        for (slot, expected) in [
            ("missing", PgErrorKind::SlotMissing),
            ("elsewhere", PgErrorKind::SlotOfOtherDatabase { database: None }),
            ("physical", PgErrorKind::SlotOfOtherPlugin { plugin: None }),
            ("foreign_plugin", PgErrorKind::UnknownPluginOption("format-version".into())),
        ] {
            let session = connected(&url).await;
            let failed = session.start_replication(slot, &[("format-version", "2")]).await;
            let failure = failed.err().unwrap();
            assert_eq!(*failure.error.kind(), expected, "{slot}: {}", told(&failure.error));
        }
    });
}

#[test]
fn a_slot_in_use_names_the_session_that_uses_it() {
    let server = server();
    run(async {
        let url = server.url("w", "postgres");
        let mut first = connected(&url).await;
        first.create_slot("main", "wal2json", Persistence::Permanent).await.unwrap();
        let pid = first.process_id();
        let first = first.start_stream("main", &wal2json()).await.unwrap();
        let (kind, text) = start_fails(connected(&url).await, "main").await;
        assert_eq!(kind, PgErrorKind::SlotInUse { pid: Some(pid) });
        assert!(text.contains(&format!("pg_terminate_backend({pid})")), "{text}");
        first.stream.stop().await.unwrap();
        // A clean stop leaves the slot free at once.
        let second = connected(&url).await;
        second.start_stream("main", &wal2json()).await.unwrap();
    });
}

#[test]
fn a_slot_whose_wal_is_gone_is_lost() {
    let server = Postgres::builder()
        .fsync(false)
        .initdb_arg("--wal-segsize=1")
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "2MB")
        .start();
    server.create_role_replication("w");
    run(async {
        let url = server.url("w", "postgres");
        let mut session = connected(&url).await;
        session.create_slot("main", "wal2json", Persistence::Permanent).await.unwrap();
        testkit::wait_until("the slot is lost", SOON, || {
            server.psql(
                "postgres",
                "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)); \
                 SELECT pg_switch_wal(); CHECKPOINT",
            );
            server.psql("postgres", "SELECT wal_status FROM pg_replication_slots") == "lost"
        });
        let failed = connected(&url).await.start_replication("main", &[]).await;
        let error = failed.err().unwrap().error;
        assert_kind(&error, &PgErrorKind::SlotLost, false);
        let (kind, text) = start_fails(session, "main").await;
        assert_eq!(kind, PgErrorKind::SlotLost);
        assert!(text.contains("pg_drop_replication_slot('main')"), "{text}");
    });
}

#[test]
fn servers_without_room_or_wal_level_say_what_to_set() {
    let server = Postgres::builder()
        .fsync(false)
        .setting("max_replication_slots", "1")
        .setting("max_wal_senders", "2")
        .start();
    run(async {
        let url = server.url("postgres", "postgres");
        let mut session = connected(&url).await;
        session.create_slot("one", "wal2json", Persistence::Permanent).await.unwrap();
        let error = session.create_slot("two", "wal2json", Persistence::Permanent).await;
        let error = error.unwrap_err();
        assert_kind(&error, &PgErrorKind::NoFreeSlot, false);
        assert!(error.hint().unwrap().contains("max_replication_slots"));

        let _second = connected(&url).await;
        let error = super::refused(&url).await;
        assert_kind(&error, &PgErrorKind::NoFreeWalSender, false);

        session.drop_slot("one").await.unwrap();
        let error = session.create_slot("two", "no_such_plugin", Persistence::Permanent).await;
        assert_kind(&error.unwrap_err(), &PgErrorKind::PluginMissing, true);
    });

    let server = Postgres::builder().fsync(false).setting("wal_level", "replica").start();
    run(async {
        let mut session = connected(&server.url("postgres", "postgres")).await;
        let error = session.create_slot("main", "wal2json", Persistence::Permanent).await;
        let error = error.unwrap_err();
        assert_kind(&error, &PgErrorKind::WalLevel, true);
        assert!(error.hint().unwrap().contains("ALTER SYSTEM SET wal_level = logical"));
    });
}

#[test]
fn the_creation_of_a_slot_says_for_whom_it_waits() {
    let server = server();
    server.psql("postgres", "CREATE TABLE t (id int)");
    let mut open = server.session("postgres", "postgres");
    let pid: i32 =
        open.run("BEGIN; INSERT INTO t VALUES (1); SELECT pg_backend_pid()").parse().unwrap();
    run(async {
        let url = server.url("w", "postgres");
        let mut session = connected(&url).await;
        let walsender = session.process_id();
        let reporter = connect_any(&config(&url)).await.unwrap();
        let asker = connect_any(&config(&url)).await.unwrap();
        let creation = session.create_slot_reporting(
            "main",
            "wal2json",
            Persistence::Temporary,
            &reporter.client,
        );
        let watch = async {
            loop {
                let waiting = blockers(&asker.client, walsender).await.unwrap();
                let sql =
                    format!("SELECT wait_event_type FROM pg_stat_activity WHERE pid = {walsender}");
                if waiting.first().is_some_and(|first| first.pid == Some(pid))
                    && server.psql("postgres", &sql) == "Lock"
                {
                    break;
                }
                tokio::task::yield_now().await;
            }
            open.run("COMMIT");
        };
        let (created, ()) = tokio::join!(creation, watch);
        created.unwrap();
    });
}
