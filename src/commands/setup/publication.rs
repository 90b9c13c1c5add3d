//! The publication that pgoutput sends: made, brought in step with the rules, and left alone if
//! somebody else made it.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::super::{Misconfigured, print, say};
use crate::failpoint::Place;
use crate::postgres::client::simple_query;
use crate::postgres::publication::{
    Fault, Found, MARK_OF_CHANGE, Plan, Surplus, WAIT_SQL, Wanted, settle,
    wait_for_open_transactions,
};
use crate::postgres::quote::identifier;
use crate::postgres::relations::{read_columns, relations};
use crate::postgres::{PgError, PgErrorKind, PublicationQuery, ReplicationSession};
use crate::rules::{Lack, RuleSet};

/// The server's words for a missing right and for a lock that was not to be had in time.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// How often the catalog may change between a look at it and the locks.
const ATTEMPTS_MAX: u32 = 5;

/// How often is asked who holds a lock that is waited for.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What is to be published, and as whom.
#[derive(Clone, Copy)]
pub(super) struct Publishing<'a> {
    /// The publication.
    pub(super) name: &'a str,
    pub(super) rules: &'a RuleSet,
    pub(super) server_version_num: u32,
    /// Our role, and the database.
    pub(super) user: &'a str,
    pub(super) database: &'a str,
    /// What becomes of what nobody needs.
    pub(super) surplus: Surplus,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// It was not there before.
    New,
    /// It was.
    Before,
}

/// What is there, and what should be.
#[derive(PartialEq)]
struct State {
    found: Option<Found>,
    wanted: Wanted,
}

impl Publishing<'_> {
    /// Makes the publication, or brings it in step, and says what that changes.
    pub(super) async fn make(
        self,
        client: &Client,
        session: &mut ReplicationSession,
    ) -> anyhow::Result<Made> {
        let Publishing { name, database, .. } = self;
        for _ in 0..ATTEMPTS_MAX {
            let State { found, wanted } = self.state(client).await?;
            for missing in &wanted.missing {
                say(&format!("warning: there is no table {missing}, which a rule names\n"));
            }
            if let Some(found) = found.as_ref().filter(|found| !found.is_ours()) {
                self.left_alone(client, found).await?;
                return Ok(Made::Before);
            }
            refuse(&wanted.faults)?;
            let plan = self.plan(found.as_ref(), &wanted);
            if plan.statements.is_empty() {
                print(&format!("publication {name} is there already, in step with the rules\n"))?;
                self.say_surplus(&plan);
                self.say_lacks(client).await?;
                return Ok(Made::Before);
            }
            let changed = self.change(client, session, &plan).await;
            let told = |refusal| self.told(refusal, &plan, found.as_ref(), &wanted);
            match changed.map_err(told)? {
                Changed::Overtaken => continue,
                Changed::Yes => {}
            }
            let changes: String =
                plan.changes.iter().map(|change| format!("    {change}\n")).collect();
            let (what, made) = match found {
                None => ("made", Made::New),
                Some(_) => ("changed", Made::Before),
            };
            print(&format!("{what} publication {name} in database {database}\n{changes}"))?;
            self.say_surplus(&plan);
            self.say_lacks(client).await?;
            return Ok(made);
        }
        Err(anyhow!("publication {name}: the tables change all the time; nothing is changed"))
    }

    /// Waits until the change of a publication that was there holds for every transaction.
    pub(super) async fn settle(self, client: &Client) -> anyhow::Result<()> {
        let fail = Misconfigured::or_failure;
        let read = Found::read(client, self.name, self.server_version_num).await;
        let Some(found) = read.map_err(fail)? else { return Ok(()) };
        if found.comment != MARK_OF_CHANGE {
            return Ok(());
        }
        wait_for_open_transactions(client, self.name).await.map_err(fail)?;
        for statement in settle(self.name, &found.ops, self.server_version_num) {
            match simple_query(client, &statement).await {
                Ok(_) => {}
                // Its owner does so at the next time.
                Err(error) if is(&error, INSUFFICIENT_PRIVILEGE) => return Ok(()),
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(())
    }

    /// What [`make`](Self::make) would run.
    pub(super) async fn sql(self, client: &Client) -> anyhow::Result<String> {
        let State { found, wanted } = self.state(client).await?;
        if let Some(found) = found.as_ref().filter(|found| !found.is_ours()) {
            return Ok(match self.lacks(client).await?.as_slice() {
                [] => format!(
                    "-- Publication {} is {}'s own and carries what the rules need.\n\n",
                    self.name, found.owner
                ),
                lacks => format!(
                    "-- Publication {} is {}'s own and does not carry:\n{}\n",
                    self.name,
                    found.owner,
                    lacks.iter().map(|lack| format!("--     {lack}\n")).collect::<String>()
                ),
            });
        }
        refuse(&wanted.faults)?;
        let plan = self.plan(found.as_ref(), &wanted);
        if plan.statements.is_empty() {
            return Ok(format!("-- Publication {} is in step with the rules.\n\n", self.name));
        }
        let who = self.who(found.as_ref(), &wanted);
        let mut sql = format!("-- {who}\n{}", plan.transaction());
        if found.is_some() && plan.widens {
            sql.push_str(
                "-- What transactions that are open now wrote before is not published: reload \
                 walpurge when\n-- they have ended.\n",
            );
            sql.push_str(WAIT_SQL);
            for statement in settle(self.name, &plan.ops, self.server_version_num) {
                sql.push_str(&format!("{statement};\n"));
            }
        }
        sql.push('\n');
        Ok(sql)
    }

    async fn state(self, client: &Client) -> anyhow::Result<State> {
        let reading = async {
            let mut relations = relations(client).await?;
            let rules = self.rules;
            // A partition counts with the table that it is a part of.
            read_columns(client, &mut relations, |relation| {
                let (schema, table) = (relation.schema.as_bytes(), relation.name.as_bytes());
                relation.parent.is_some() || rules.tables().any(|it| it.matches(schema, table))
            })
            .await?;
            let wanted = Wanted::new(rules, &relations, self.server_version_num);
            let found = Found::read(client, self.name, self.server_version_num).await?;
            Ok(State { found, wanted })
        };
        reading.await.map_err(Misconfigured::or_failure)
    }

    fn plan(self, found: Option<&Found>, wanted: &Wanted) -> Plan {
        Plan::new(self.name, found, wanted, self.surplus, self.server_version_num)
    }

    /// Runs the plan in one transaction, unless the catalog is another one under the locks.
    async fn change(
        self,
        client: &Client,
        session: &mut ReplicationSession,
        plan: &Plan,
    ) -> Result<Changed, Refusal> {
        simple_query(client, "BEGIN").await?;
        lock(client, session, &plan.preparation()).await?;
        let State { found, wanted } = self.state(client).await.map_err(Refusal::Other)?;
        if !wanted.faults.is_empty() || self.plan(found.as_ref(), &wanted) != *plan {
            simple_query(client, "ROLLBACK").await?;
            return Ok(Changed::Overtaken);
        }
        for statement in &plan.statements {
            simple_query(client, statement).await?;
        }
        Place::PublicationLocked.pass();
        simple_query(client, "COMMIT").await?;
        Place::PublicationChanged.pass();
        Ok(Changed::Yes)
    }

    /// Another's publication: good if it carries what the rules need.
    async fn left_alone(self, client: &Client, found: &Found) -> anyhow::Result<()> {
        let name = self.name;
        let lacks = self.lacks(client).await?;
        let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
        if lacks.is_empty() {
            return print(&format!(
                "publication {name} is there already, not made by walpurge setup; it carries what \
                 the rules need\n"
            ));
        }
        Err(anyhow!(
            "publication {name}, which {} made and walpurge setup leaves alone, does not carry:\n    \
             {}\nhint: let {0} alter it, or choose another postgres.publication; or hand it over: \
             COMMENT ON PUBLICATION {} IS '{}';",
            found.owner,
            lacks.join("\n    "),
            identifier(name),
            crate::postgres::publication::MARK,
        ))
    }

    /// What no publication can carry.
    async fn say_lacks(self, client: &Client) -> anyhow::Result<()> {
        for lack in self.lacks(client).await? {
            let hint = lack.hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            say(&format!("warning: run will end with 78, since {lack} is not published\n{hint}"));
        }
        Ok(())
    }

    async fn lacks(self, client: &Client) -> anyhow::Result<Vec<Lack>> {
        let query = PublicationQuery::new(self.name, self.rules, self.server_version_num);
        let rows = simple_query(client, query.sql()).await.map_err(Misconfigured::or_failure)?;
        let publication = query.answer(rows).unwrap_or_default();
        Ok(publication.lacks(self.rules))
    }

    fn say_surplus(self, plan: &Plan) {
        if !plan.surplus.is_empty() {
            say(&format!(
                "note: the rules do not need {}; it stays, since a daemon that may have other rules \
                 reads the slot\nhint: once that has the new rules: walpurge setup --prune\n",
                plan.surplus.join(", ")
            ));
        }
    }

    /// Who may run the SQL.
    fn who(self, found: Option<&Found>, wanted: &Wanted) -> String {
        let (database, mut owners) = (identifier(self.database), wanted.owners());
        owners.extend(found.map(|found| found.owner.as_str()));
        let mut owners = owners.into_iter();
        match (owners.next(), owners.next()) {
            (Some(owner), None) => format!(
                "As {owner}, who owns the tables (GRANT CREATE ON DATABASE {database} TO {};), or \
                 as a superuser.",
                identifier(owner)
            ),
            _ => format!(
                "As a role that owns every table and, if it is there, the publication, or is a member \
                 of all roles that do, with CREATE on database {database}; or as a superuser."
            ),
        }
    }

    fn told(
        self,
        refusal: Refusal,
        plan: &Plan,
        found: Option<&Found>,
        wanted: &Wanted,
    ) -> anyhow::Error {
        let Publishing { name, user, database, .. } = self;
        let (error, holders) = match refusal {
            Refusal::Other(error) => return error,
            Refusal::Server { error, holders } => (error, holders),
        };
        let said = error.server_error().map(|said| said.message.clone()).unwrap_or_default();
        if is(&error, LOCK_NOT_AVAILABLE) {
            let pids: Vec<_> = holders.iter().map(i32::to_string).collect();
            let by = match pids.is_empty() {
                true => "another session".to_owned(),
                false => format!("pid {}", pids.join(", ")),
            };
            return anyhow!(
                "publication {name}: {by} holds a lock on a table (DDL, VACUUM or CREATE INDEX); \
                 nothing is changed\nhint: try again when it has ended: SELECT pid, query FROM \
                 pg_stat_activity WHERE pid IN ({});",
                if pids.is_empty() { "…".to_owned() } else { pids.join(", ") }
            );
        }
        if !is(&error, INSUFFICIENT_PRIVILEGE) {
            return Misconfigured::or_failure(error)
                .context(format!("cannot bring publication {name} in step, and changed nothing"));
        }
        anyhow!(
            "role {user} may not make publication {name} in database {database} what the rules \
             need: {said}; nothing is changed\nhint: let somebody run the SQL who may, and then \
             walpurge setup again; this prints it: walpurge setup --print\n\n-- {}\n{}",
            self.who(found, wanted),
            plan.transaction()
        )
    }
}

/// What came of a transaction.
enum Changed {
    Yes,
    /// The catalog has changed meanwhile.
    Overtaken,
}

/// Why a transaction was given up.
enum Refusal {
    Server { error: PgError, holders: Vec<i32> },
    Other(anyhow::Error),
}

impl From<PgError> for Refusal {
    fn from(error: PgError) -> Refusal {
        Refusal::Server { error, holders: Vec::new() }
    }
}

/// Takes the locks; who holds one that is not to be had is asked while it is waited for.
async fn lock(client: &Client, session: &mut ReplicationSession, sql: &str) -> Result<(), Refusal> {
    let pid = simple_query(client, "SELECT pg_catalog.pg_backend_pid()").await?;
    let pid = pid.into_iter().flatten().flatten().next().unwrap_or_default();
    let query = format!("SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids({pid}))");
    let mut holders = Vec::new();
    let mut locking = std::pin::pin!(simple_query(client, sql));
    loop {
        match timeout(ASK_EVERY, &mut locking).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => return Err(Refusal::Server { error, holders }),
            Err(_) => {
                let asked = timeout(ASK_EVERY, session.simple_query(&query)).await;
                let rows = asked.ok().and_then(Result::ok).unwrap_or_default();
                let pids = rows.into_iter().flatten().flatten();
                let pids: Vec<i32> = pids.filter_map(|pid| pid.parse().ok()).collect();
                if !pids.is_empty() {
                    holders = pids;
                }
            }
        }
    }
}

/// What would make statements of applications fail.
fn refuse(faults: &[Fault]) -> anyhow::Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    let told: Vec<_> =
        faults.iter().map(|Fault { message, hint }| format!("{message}\nhint: {hint}")).collect();
    Err(anyhow!("nothing is changed: {}", told.join("\nerror: ")))
}

fn is(error: &PgError, state: &str) -> bool {
    matches!(error.kind(), PgErrorKind::Other { sqlstate } if sqlstate == state)
}
