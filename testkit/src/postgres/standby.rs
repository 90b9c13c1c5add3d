//! A streaming standby of another private server.

use std::path::Path;

use anyhow::{Context, Result};

use super::install::{Install, copy, run};
use super::{Postgres, TestDir, free_port};

impl Postgres {
    /// Starts a standby that streams from `primary`, with further settings.
    /// Its walreceiver is called `walreceiver` unless a setting says otherwise.
    ///
    /// # Panics
    ///
    /// When the base backup or the start fails.
    #[track_caller]
    pub fn standby_of(primary: &Self, settings: &[(&str, &str)]) -> Self {
        match try_standby(primary, settings) {
            Ok(standby) => standby,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Makes a standby a primary, and waits until it is one.
    ///
    /// # Panics
    ///
    /// When it is not a standby.
    #[track_caller]
    pub fn promote(&self) {
        self.psql("postgres", "SELECT pg_promote(true, 60)");
    }
}

fn try_standby(primary: &Postgres, settings: &[(&str, &str)]) -> Result<Postgres> {
    let dir = TestDir::new("pg");
    let install = primary.install.for_another(dir.path())?;
    install.give(dir.path())?;
    let mut standby = Postgres { server: None, install, port: free_port(), dir };
    let data = standby.data_dir();

    match standby.install.has("pg_basebackup") {
        true => base_backup(primary, &standby.install, &data)?,
        false => copy_running(primary, &standby.install, &data)?,
    }

    let path = data.join("testkit.conf");
    let mut conf = std::fs::read_to_string(&path)?;
    conf.push_str(&standby.place_settings());
    conf.push_str(&format!(
        "primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n",
        primary.port()
    ));
    for (name, value) in settings {
        conf.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
    standby.install.write_private(&path, conf.as_bytes())?;
    standby.install.write_private(&data.join("standby.signal"), b"")?;
    standby.launch()?;
    Ok(standby)
}

fn base_backup(primary: &Postgres, install: &Install, data: &Path) -> Result<()> {
    let mut backup = install.server("pg_basebackup");
    backup.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "-D"]).arg(data);
    backup.args(["-d", &primary.url("postgres", "")]);
    run(&mut backup).context("cannot copy the primary").map(drop)
}

/// The same by hand ("Making a Base Backup Using the Low Level API" of the manual, for 15 and
/// newer), where there is no program for it.
fn copy_running(primary: &Postgres, install: &Install, data: &Path) -> Result<()> {
    let mut session = primary.session("postgres", "postgres");
    session.run("SELECT pg_backup_start('standby', true)");
    copy(&primary.data_dir(), data)?;
    let label = session.run("SELECT labelfile FROM pg_backup_stop(false)");
    install.write_private(&data.join("backup_label"), (label + "\n").as_bytes())?;
    for gone in ["postmaster.pid", "postmaster.opts"] {
        let _ = std::fs::remove_file(data.join(gone));
    }
    // Slots are the primary's own.
    for entry in std::fs::read_dir(data.join("pg_replslot"))? {
        std::fs::remove_dir_all(entry?.path())?;
    }
    Ok(())
}
