//! Tests of classification: one line for each message of a server, old and new.

use super::PgErrorKind::*;
use super::*;

fn server(sqlstate: &str, message: &str) -> ServerError {
    ServerError {
        severity: "ERROR".into(),
        sqlstate: sqlstate.into(),
        message: message.into(),
        ..ServerError::default()
    }
}

/// From the message catalogues of Postgres 15.
#[test]
fn translated_messages_are_classified_too() {
    let slots = "ReplicationSlotAcquire";
    let in_use = SlotInUse { pid: Some(4711) };
    let cases = [
        ("42704", "Publikation »w« existiert nicht", "get_publication_oid", PublicationMissing),
        ("42704", "Replikations-Slot »w1« existiert nicht", slots, SlotMissing),
        ("42704", "Rolle »w« existiert nicht", "get_role_oid", other("42704")),
        ("42710", "Replikations-Slot »w« existiert bereits", "ReplicationSlotCreate", SlotExists),
        ("42710", "Publikation »w« existiert bereits", "CreatePublication", other("42710")),
        ("53400", "alle Replikations-Slots sind in Benutzung", "ReplicationSlotCreate", NoFreeSlot),
        ("55000", "Laden der Publikation übersprungen", "LoadPublications", PublicationMissing),
        ("55006", "Replikations-Slot »w1« ist aktiv für PID 4711", slots, in_use.clone()),
        (
            "55006",
            "\"w1\" 이름의 복제 슬롯을 4711 PID 프로세스가 사용중입니다.",
            slots,
            in_use.clone(),
        ),
        ("55006", "レプリケーションスロット\"w1\"はPID4711で使用中です", slots, in_use),
        (
            "42501",
            "nur Superuser und Replikationsrollen können WAL-Sender starten",
            "InitPostgres",
            NoReplicationRight,
        ),
        (
            "58P01",
            "konnte nicht auf Datei »wal2json« zugreifen: No such file or directory",
            "internal_load_library",
            PluginMissing,
        ),
    ];
    for (sqlstate, message, routine, kind) in cases {
        let said = ServerError { routine: routine.into(), ..server(sqlstate, message) };
        assert_eq!(classify(&said), kind, "{message}");
    }
}

fn other(sqlstate: &str) -> PgErrorKind {
    Other { sqlstate: sqlstate.into() }
}

#[test]
fn messages_of_servers_are_classified() {
    let cases = [
        ("28P01", r#"password authentication failed for user "w""#, Auth),
        ("28000", r#"no pg_hba.conf entry for host "::1", user "w", database "d""#, Auth),
        ("3D000", r#"database "shop" does not exist"#, DatabaseMissing),
        ("57P03", "the database system is starting up", ServerStarting),
        ("57P03", "the database system is shutting down", ServerShuttingDown),
        ("57P01", "terminating connection due to administrator command", ServerShuttingDown),
        (
            "53300",
            "number of requested standby connections exceeds max_wal_senders (currently 1)",
            NoFreeWalSender,
        ),
        ("53300", "sorry, too many clients already", NoFreeConnection),
        ("53400", "all replication slots are in use", NoFreeSlot),
        ("42501", "must be superuser or replication role to start walsender", NoReplicationRight),
        ("42501", "permission denied to start WAL sender", NoReplicationRight),
        ("08P01", "unsupported startup parameter: replication", Pooler),
        ("42601", r#"syntax error at or near "IDENTIFY_SYSTEM""#, Pooler),
        ("55006", r#"replication slot "w" is active for PID 4711"#, SlotInUse { pid: Some(4711) }),
        ("42704", r#"replication slot "w" does not exist"#, SlotMissing),
        ("42704", r#"publication "walpurge" does not exist"#, PublicationMissing),
        ("55000", r#"skipped loading publication "walpurge""#, PublicationMissing),
        ("42710", r#"replication slot "w" already exists"#, SlotExists),
        ("58P01", r#"could not access file "wal2json": No such file or directory"#, PluginMissing),
        ("0A000", r#"library "wal2json" may not be used as an output plugin"#, PluginRefused),
        ("42501", r#"library "wal2json" may not be used as an output plugin"#, PluginRefused),
        (
            "22023",
            r#"option "numeric-data-types-as-string" = "true" is unknown"#,
            UnknownPluginOption("numeric-data-types-as-string".into()),
        ),
        ("22023", r#"option "x" is unknown"#, UnknownPluginOption("x".into())),
        (
            "XX000",
            "unrecognized pgoutput option: format-version",
            UnknownPluginOption("format-version".into()),
        ),
        ("55000", "logical decoding requires wal_level >= logical", WalLevel),
        ("55000", r#"logical decoding requires "wal_level" >= "logical""#, WalLevel),
        (
            "55000",
            r#"logical decoding on standby requires "wal_level" >= "logical" on the primary"#,
            WalLevel,
        ),
        ("0A000", "logical decoding cannot be used while in recovery", WrongServerRole),
        (
            "0A000",
            r#"replication slot "w" was not created in this database"#,
            SlotOfOtherDatabase { database: None },
        ),
        (
            "55000",
            "cannot use physical replication slot for logical decoding",
            SlotOfOtherPlugin { plugin: None },
        ),
        ("55000", r#"cannot read from logical replication slot "w""#, SlotLost),
        ("55000", r#"can no longer get changes from replication slot "w""#, SlotLost),
        ("55000", r#"can no longer access replication slot "w""#, SlotLost),
        (
            "58P01",
            "requested WAL segment 000000010000000000000003 has already been removed",
            SlotLost,
        ),
        ("42P01", r#"relation "t" does not exist"#, Other { sqlstate: "42P01".into() }),
        ("", "", Other { sqlstate: String::new() }),
    ];
    for (sqlstate, message, expected) in cases {
        assert_eq!(classify(&server(sqlstate, message)), expected, "{sqlstate} {message}");
    }
}

fn error(sqlstate: &str, message: &str) -> PgError {
    let subject = Subject {
        user: "wal\"purge".into(),
        dbname: "shop".into(),
        host: "db:5432".into(),
        slot: Some("w".into()),
        plugin: Some("wal2json".into()),
        publication: None,
    };
    PgError::server("start replication", server(sqlstate, message)).about(&subject)
}

#[test]
fn hints_carry_the_names() {
    let hint = |sqlstate, message| error(sqlstate, message).hint().unwrap_or_default();
    assert!(
        hint("42501", "permission denied to start WAL sender")
            .starts_with(r#"ALTER ROLE "wal""purge" REPLICATION;"#)
    );
    assert!(
        hint("55006", r#"replication slot "w" is active for PID 7"#)
            .contains("pg_terminate_backend(7)")
    );
    assert!(hint("22023", r#"library "wal2json" may not be used as an output plugin"#).contains(
        "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json; SELECT pg_reload_conf();"
    ));
    assert!(
        hint("42704", r#"replication slot "w" does not exist"#)
            .contains("pg_create_logical_replication_slot('w', 'wal2json')")
    );
    assert!(hint("55000", "logical decoding requires wal_level >= logical").contains("restart"));
}

#[test]
fn an_error_says_its_own_level_and_keeps_the_cause() {
    let error = error("55006", r#"replication slot "w" is active for PID 7"#);
    assert_eq!(error.to_string(), "cannot start replication at wal\"purge@db:5432/shop");
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    assert_eq!(cause, r#"ERROR 55006: replication slot "w" is active for PID 7"#);
    assert!(!error.is_configuration());
}
