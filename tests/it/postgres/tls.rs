//! What each sslmode believes, with certificates made for the test.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::TestDir;
use testkit::postgres::Postgres;
use walpurge::postgres::{Encryption, PgErrorKind, Reply, Wal2jsonOptions, client, connect_any};

use super::stream::{Seen, is_commit, read_until, started};
use super::{SOON, assert_kind, config, connected, refused, run, told};

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .current_dir(dir)
        .args(arguments.split(' '))
        .output()
        .unwrap_or_else(|error| panic!("openssl is needed: {error}"));
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

const EC: &str = "ec -pkeyopt ec_paramgen_curve:prime256v1";

/// A root, and a certificate for `localhost` that it signed.
struct Certificates {
    dir: TestDir,
}

impl Certificates {
    fn new(key: &str, digest: &str) -> Certificates {
        let dir = TestDir::new("tls");
        let make = |arguments: &str| openssl(dir.path(), arguments);
        for root in ["root", "other"] {
            make(&format!(
                "req -x509 -newkey {key} -nodes -keyout {root}.key -out {root}.crt -days 2 -subj /CN={root}"
            ));
        }
        std::fs::write(dir.join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
        for (name, subject) in [("server", "db"), ("client", "certified")] {
            make(&format!(
                "req -newkey {key} -nodes -keyout {name}.key -out {name}.csr -subj /CN={subject}"
            ));
            make(&format!(
                "x509 -req -in {name}.csr -CA root.crt -CAkey root.key -CAcreateserial \
                 -days 2 {digest}-extfile ext -out {name}.crt"
            ));
        }
        Certificates { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn server(&self, hba: &str) -> Postgres {
        let server = Postgres::builder()
            .fsync(false)
            .hba(hba)
            .tls(self.path("server.crt"), self.path("server.key"))
            .start();
        server.psql("postgres", "CREATE ROLE w LOGIN REPLICATION PASSWORD 's3cret'");
        server
    }
}

/// `host` is a name of 127.0.0.1; `more` are the URL's parameters.
fn url(server: &Postgres, host: &str, more: &str) -> String {
    format!("postgres://w:s3cret@{host}:{}/postgres?hostaddr=127.0.0.1&{more}", server.port())
}

#[test]
fn every_sslmode_checks_what_it_promises() {
    let certificates = Certificates::new(EC, "-sha256 ");
    let server = certificates.server("host all w 127.0.0.1/32 scram-sha-256");
    let root = certificates.path("root.crt").display().to_string();
    let other = certificates.path("other.crt").display().to_string();
    let own = certificates.path("server.crt").display().to_string();
    let good = [
        ("127.0.0.1", "sslmode=disable".to_string(), Encryption::Plain),
        ("127.0.0.1", "sslmode=allow".to_string(), Encryption::Plain),
        ("127.0.0.1", "sslmode=prefer".to_string(), Encryption::Tls),
        ("127.0.0.1", "sslmode=require".to_string(), Encryption::Tls),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={root}"), Encryption::Tls),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={root}"), Encryption::Tls),
        ("localhost", format!("sslmode=verify-full&sslrootcert={root}"), Encryption::Tls),
        // A certificate that is itself trusted, as of a self-signed one.
        ("localhost", format!("sslmode=verify-full&sslrootcert={own}"), Encryption::Tls),
    ];
    let bad = [
        ("127.0.0.1", format!("sslmode=require&sslrootcert={other}")),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={other}")),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={root}")),
        ("db.example", format!("sslmode=verify-full&sslrootcert={root}")),
        ("db.example", format!("sslmode=verify-full&sslrootcert={own}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}")),
        ("localhost", "sslmode=verify-full".to_string()),
    ];
    run(async {
        for (host, more, encryption) in good {
            let url = url(&server, host, &more);
            let mut session = connected(&url).await;
            assert_eq!(session.host().encryption(), encryption, "{more}");
            let rows = session
                .simple_query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                .await
                .unwrap();
            let ssl = if encryption == Encryption::Tls { "t" } else { "f" };
            assert_eq!(rows[0][0].as_deref(), Some(ssl), "{more}");

            let opened = client::connect_client(&config(&url), session.host()).await.unwrap();
            let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            let rows = client::simple_query(&opened.client, sql).await.unwrap();
            assert_eq!(rows[0][0].as_deref(), Some(ssl), "{more}");
        }
        for (host, more) in bad {
            let error = refused(&url(&server, host, &more)).await;
            assert_kind(&error, &PgErrorKind::Tls, true);
            assert!(error.hint().unwrap().contains("sslrootcert"), "{}", told(&error));
        }
    });
}

#[test]
fn a_server_without_tls_gets_no_password_where_tls_is_required() {
    let server = Postgres::builder().fsync(false).start();
    server.psql("postgres", "CREATE ROLE w LOGIN REPLICATION PASSWORD 's3cret'");
    run(async {
        let error = refused(&url(&server, "127.0.0.1", "sslmode=require")).await;
        assert_kind(&error, &PgErrorKind::Tls, true);
        let session = connected(&url(&server, "127.0.0.1", "sslmode=prefer")).await;
        assert_eq!(session.host().encryption(), Encryption::Plain);
    });
}

#[test]
fn prefer_and_allow_fall_back_to_what_pg_hba_conf_lets_in() {
    let certificates = Certificates::new(EC, "-sha256 ");
    let server = certificates.server(
        "hostssl all w 127.0.0.1/32 scram-sha-256\n\
         hostnossl all w 127.0.0.1/32 reject\n\
         hostnossl all plain 127.0.0.1/32 trust\n\
         hostssl all plain 127.0.0.1/32 reject",
    );
    server.create_role_replication("plain");
    run(async {
        let session = connected(&url(&server, "127.0.0.1", "sslmode=allow")).await;
        assert_eq!(session.host().encryption(), Encryption::Tls);
        let session = connected(&server.url("plain", "postgres")).await;
        assert_eq!(session.host().encryption(), Encryption::Plain);
        let opened = connect_any(&config(&server.url("plain", "postgres"))).await.unwrap();
        assert_eq!(&opened.host, session.host());
    });
}

#[test]
fn passwords_are_bound_to_the_channel_whatever_signed_the_certificate() {
    // SHA-1 is left to a unit test: servers refuse to load such a certificate.
    for (key, digest) in
        [("rsa:2048", "-sha256 "), (EC, "-sha256 "), (EC, "-sha384 "), (EC, "-sha512 ")]
    {
        let certificates = Certificates::new(key, digest);
        let server = certificates.server("hostssl all w 127.0.0.1/32 scram-sha-256");
        let url = url(&server, "127.0.0.1", "sslmode=require&channel_binding=require");
        run(async {
            connected(&url).await;
            connect_any(&config(&url)).await.unwrap();
        });
    }
}

#[test]
fn a_client_certificate_is_who_we_are() {
    let certificates = Certificates::new(EC, "-sha256 ");
    let root = certificates.path("root.crt");
    let server = Postgres::builder()
        .fsync(false)
        .hba("hostssl all certified 127.0.0.1/32 cert")
        .tls(certificates.path("server.crt"), certificates.path("server.key"))
        .setting("ssl_ca_file", &root.display().to_string())
        .without_start();
    // The server's user must be able to read the root.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(certificates.dir.path(), std::fs::Permissions::from_mode(0o755))
        .unwrap();
    let mut server = server.start();
    server.start_again();
    server.psql("postgres", "CREATE ROLE certified LOGIN REPLICATION");
    let base = format!("{}?sslmode=require", server.url("certified", "postgres"));
    let cert = certificates.path("client.crt").display().to_string();
    let key = certificates.path("client.key").display().to_string();
    run(async {
        connected(&format!("{base}&sslcert={cert}&sslkey={key}")).await;
        let error = refused(&base).await;
        assert_kind(&error, &PgErrorKind::Auth, true);
        let error = refused(&format!("{base}&sslcert={cert}&sslkey={key}x")).await;
        assert_kind(&error, &PgErrorKind::Config, true);
        assert!(told(&error).contains("sslkey"), "{}", told(&error));
    });
}

#[test]
fn a_certificate_that_names_no_hash_is_used_without_channel_binding() {
    let certificates = Certificates::new("ed25519", "");
    let server = certificates.server("hostssl all w 127.0.0.1/32 scram-sha-256");
    run(async {
        connected(&url(&server, "127.0.0.1", "sslmode=require")).await;
        let required = url(&server, "127.0.0.1", "sslmode=require&channel_binding=require");
        let error = refused(&required).await;
        assert_kind(&error, &PgErrorKind::Auth, true);
    });
}

#[test]
fn changes_stream_through_tls() {
    let certificates = Certificates::new(EC, "-sha256 ");
    let server = certificates.server("hostssl all w 127.0.0.1/32 scram-sha-256");
    server.psql("postgres", "CREATE TABLE t (id int PRIMARY KEY, body text)");
    run(async {
        let url = url(&server, "127.0.0.1", "sslmode=require");
        let mut stream = started(&url, &Wal2jsonOptions::default()).await;
        server.psql(
            "postgres",
            "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i",
        );
        let seen = read_until(&mut stream, is_commit).await;
        let rows = seen.iter().filter(|frame| format!("{frame:?}").contains("xxx")).count();
        assert_eq!(rows, 20_000);
        let Some(Seen::Data(end, _)) = seen.last() else { panic!("no commit") };
        stream.send_status(*end, *end, Reply::NotNeeded).await.unwrap();
        testkit::wait_until("the position is confirmed", SOON, || {
            server.has_confirmed("main", &end.to_string())
        });
        stream.stop().await.unwrap();
    });
}

#[test]
fn tls_without_asking_first_needs_a_server_that_knows_it() {
    let certificates = Certificates::new(EC, "-sha256 ");
    let server = certificates.server("hostssl all w 127.0.0.1/32 scram-sha-256");
    let version: u32 = server.psql("postgres", "SHOW server_version_num").parse().unwrap();
    let url = url(&server, "127.0.0.1", "sslmode=require&sslnegotiation=direct");
    run(async {
        if version >= 170_000 {
            let session = connected(&url).await;
            assert_eq!(session.host().encryption(), Encryption::Tls);
            connect_any(&config(&url)).await.unwrap();
        } else {
            let error = refused(&url).await;
            assert_kind(&error, &PgErrorKind::ConnectionLost, false);
        }
    });
}
