//! Is the server set up for logical decoding, has it room, and would it wait for us?
//!
//! One question, which any role may ask; the rest is pure.

use super::finding::Findings;
use crate::lsn::Lsn;
use crate::postgres::client::simple_query;
use crate::postgres::standby_names::{Named, names_us};
use crate::postgres::{PgError, Rows};

/// The oldest Postgres that walpurge is made for.
const VERSION_MIN: u32 = 140_000;

/// The first one that decodes on a standby.
const VERSION_STANDBY: u32 = 160_000;

/// What the server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) version_num: u32,
    pub(super) version: String,
    pub(super) wal_level: String,
    pub(super) in_recovery: bool,
    /// How many replication slots there may be, and how many there are.
    pub(super) slots: Room,
    /// How many walsenders there may be, and how many there are: ours too.
    pub(super) wal_senders: Room,
    pub(super) max_slot_wal_keep_size: String,
    pub(super) synchronous_standby_names: String,
    /// Up to where WAL is flushed, or on a standby replayed.
    pub(super) end_lsn: Lsn,
}

/// A number that has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) used: u64,
    pub(super) max: u64,
}

impl Room {
    pub(super) fn is_full(self) -> bool {
        self.used >= self.max
    }
}

const QUERY: &str = "SELECT current_setting('server_version_num'), \
       current_setting('server_version'), current_setting('wal_level'), pg_is_in_recovery(), \
       (SELECT count(*) FROM pg_catalog.pg_replication_slots), \
       current_setting('max_replication_slots'), \
       (SELECT count(*) FROM pg_catalog.pg_stat_replication), \
       current_setting('max_wal_senders'), \
       current_setting('max_slot_wal_keep_size'), \
       current_setting('synchronous_standby_names'), \
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
            ELSE pg_current_wal_flush_lsn() END";

/// Asks.
pub(super) async fn server(client: &tokio_postgres::Client) -> Result<Option<Server>, PgError> {
    simple_query(client, QUERY).await.map(from_rows)
}

fn from_rows(rows: Rows) -> Option<Server> {
    let row = rows.into_iter().next()?.into_iter().collect::<Option<Vec<String>>>()?;
    let [
        version_num,
        version,
        wal_level,
        in_recovery,
        slots,
        slots_max,
        senders,
        senders_max,
        keep,
        names,
        end,
    ] = <[_; 11]>::try_from(row).ok()?;
    let room =
        |used: String, max: String| Some(Room { used: used.parse().ok()?, max: max.parse().ok()? });
    Some(Server {
        version_num: version_num.parse().ok()?,
        version,
        wal_level,
        in_recovery: in_recovery == "t",
        slots: room(slots, slots_max)?,
        wal_senders: room(senders, senders_max)?,
        max_slot_wal_keep_size: keep,
        synchronous_standby_names: names,
        end_lsn: end.parse().ok()?,
    })
}

impl Server {
    /// Whether a slot can be made and read here at all.
    pub(super) fn can_decode(&self) -> bool {
        self.wal_level == "logical" && (!self.in_recovery || self.version_num >= VERSION_STANDBY)
    }

    /// Everything but the slot.
    pub(super) fn findings(&self, application_name: &str, findings: &mut Findings) {
        self.version(findings);
        match self.wal_level.as_str() {
            "logical" => findings.ok("wal_level", "logical"),
            other => findings.failed(
                "wal_level",
                format!("{other}, where logical decoding needs logical"),
                "as a superuser: ALTER SYSTEM SET wal_level = logical;\n\
                 then restart the server"
                    .to_owned(),
            ),
        }
        self.role(findings);
        self.wal_senders(findings);
        match self.max_slot_wal_keep_size.as_str() {
            "-1" => findings.warning(
                "max_slot_wal_keep_size",
                "-1: while walpurge is down, the WAL that its slot keeps can fill the disk",
                "as a superuser, with what the disk can spare: \
                 ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf();"
                    .to_owned(),
            ),
            size => findings.ok("max_slot_wal_keep_size", size),
        }
        self.standby_names(application_name, findings);
    }

    fn version(&self, findings: &mut Findings) {
        match self.version_num >= VERSION_MIN {
            true => findings.ok("version", format!("Postgres {}", self.version)),
            false => findings.failed(
                "version",
                format!("Postgres {}, where walpurge needs 14 or newer", self.version),
                "upgrade the server".to_owned(),
            ),
        }
    }

    fn role(&self, findings: &mut Findings) {
        const HINT: &str = "name the primary's host first in postgres.url, or all hosts together \
                            with target_session_attrs=read-write";
        let hint = HINT.to_owned();
        match self.in_recovery {
            false => findings.ok("pg_is_in_recovery", "false: a primary"),
            true if self.version_num >= VERSION_STANDBY => findings.warning(
                "pg_is_in_recovery",
                "true: a standby; what is visible here need not be so for readers of the primary",
                hint,
            ),
            true => findings.failed(
                "pg_is_in_recovery",
                "true: a standby, which decodes from Postgres 16 on only",
                hint,
            ),
        }
    }

    fn wal_senders(&self, findings: &mut Findings) {
        let Room { used, max } = self.wal_senders;
        let message = format!("{used} of {max} in use, this check included");
        match self.wal_senders.is_full() {
            false => findings.ok("max_wal_senders", message),
            true => findings.warning(
                "max_wal_senders",
                format!("{message}: none is left for a standby or a second walpurge"),
                format!(
                    "as a superuser: ALTER SYSTEM SET max_wal_senders = {};\n\
                     then restart the server",
                    max + 10
                ),
            ),
        }
    }

    fn standby_names(&self, application_name: &str, findings: &mut Findings) {
        const SUBJECT: &str = "synchronous_standby_names";
        const HANGS: &str = "Postgres would wait for walpurge while walpurge waits for Postgres, \
                             and every write would hang";
        let setting = &self.synchronous_standby_names;
        // No names of our own: pasted as they are, they would make every write wait for nobody.
        let hint = "as a superuser, with the standbys' own names (application_name in their \
                    primary_conninfo): ALTER SYSTEM SET synchronous_standby_names = …; \
                    SELECT pg_reload_conf();";
        match names_us(setting, application_name) {
            Named::No if setting.is_empty() => findings.ok(SUBJECT, "empty"),
            Named::No => findings.ok(SUBJECT, format!("does not name {application_name}")),
            Named::Star => {
                findings.failed(SUBJECT, format!("holds `*`: {HANGS}"), hint.to_owned());
            }
            Named::ByName => findings.failed(
                SUBJECT,
                format!("names {application_name}: {HANGS}"),
                format!("{hint}\nor choose another application_name in postgres.url"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::check::{Group, Status};

    fn server(change: impl FnOnce(&mut Server)) -> Vec<(String, Status)> {
        let mut server = Server {
            version_num: 150_018,
            version: "15.18".into(),
            wal_level: "logical".into(),
            in_recovery: false,
            slots: Room { used: 1, max: 10 },
            wal_senders: Room { used: 1, max: 10 },
            max_slot_wal_keep_size: "10GB".into(),
            synchronous_standby_names: String::new(),
            end_lsn: Lsn::ZERO,
        };
        change(&mut server);
        let mut findings = Findings::new(Group::Postgres);
        server.findings("walpurge", &mut findings);
        let bad = findings.into_list().into_iter().filter(|f| f.status != Status::Ok);
        bad.map(|finding| (finding.subject, finding.status)).collect()
    }

    #[test]
    fn each_setting_is_judged_by_itself() {
        use Status::{Failed, Warning};
        let one = |subject: &str, status| vec![(subject.to_owned(), status)];
        assert_eq!(server(|_| {}), []);
        assert_eq!(server(|s| s.version_num = 130_011), one("version", Failed));
        assert_eq!(server(|s| s.wal_level = "replica".into()), one("wal_level", Failed));
        assert_eq!(server(|s| s.in_recovery = true), one("pg_is_in_recovery", Failed));
        let newer = server(|s| (s.in_recovery, s.version_num) = (true, 160_000));
        assert_eq!(newer, one("pg_is_in_recovery", Warning));
        assert_eq!(server(|s| s.wal_senders.used = 10), one("max_wal_senders", Warning));
        let unbounded = server(|s| s.max_slot_wal_keep_size = "-1".into());
        assert_eq!(unbounded, one("max_slot_wal_keep_size", Warning));
        for names in ["*", "FIRST 1 (walpurge)"] {
            let named = server(|s| s.synchronous_standby_names = names.into());
            assert_eq!(named, one("synchronous_standby_names", Failed));
        }
    }

    #[test]
    fn an_answer_of_another_shape_is_none() {
        assert_eq!(from_rows(vec![]), None);
        assert_eq!(from_rows(vec![vec![Some("1".into())]]), None);
        assert_eq!(from_rows(vec![vec![None; 11]]), None);
    }
}
