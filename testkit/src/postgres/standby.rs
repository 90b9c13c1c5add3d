//! A streaming standby of another private server.

use anyhow::{Context, Result};

use super::install::{Install, run};
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
    let install = Install::find()?;
    let dir = TestDir::new("pg");
    install.give(dir.path())?;
    let mut standby = Postgres { server: None, install, port: free_port(), dir };
    let data = standby.data_dir();

    let mut backup = standby.install.server("pg_basebackup");
    backup.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "-D"]).arg(&data);
    backup.args(["-d", &primary.url("postgres", "")]);
    run(&mut backup).context("cannot copy the primary")?;

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
