//! Where rows may be others without a change that says so: the fallbacks of their rules run.

use tracing::{error, info, warn};

use super::matching::Taker;
use super::{Reader, senseless};
use crate::daemon::interrupted::Interrupted;
use crate::daemon::warn;
use crate::decode::{Nulls, dropped_change, waits_for_standby};
use crate::lsn::Lsn;
use crate::pipeline::Plan;
use crate::postgres::Notice;
use crate::postgres::quote::identifier;
use crate::rules::{Cause, DDL_PREFIX, Ddl, KnownTables, MalformedDdl, Matcher};

impl Reader<'_> {
    /// Takes what the catalog says of the rules' tables while the stream goes on.
    ///
    /// # Errors
    /// If it takes a stream with other options; the next one finds the same news.
    pub(in crate::daemon) fn tables(
        &mut self,
        now: KnownTables,
        plan: &mut Plan,
    ) -> Result<(), Interrupted> {
        if self.replayed.is_some() {
            return Ok(());
        }
        if self.open.is_some() {
            // A fallback belongs to no transaction: one that breaks off would take it along. And
            // one that may be huge is not broken off for this.
            self.tables = Some(now);
            return Ok(());
        }
        let by_type = self.decoder.nulls() == Nulls::ByType;
        let known = self.matching.matcher.known();
        let rules = self.matching.rules();
        if known.is_some_and(|known| known.outgrown_by(&now, rules, by_type)) {
            return Err(Interrupted::Catalog);
        }
        self.learn(now, plan);
        Ok(())
    }

    /// Says what is new about the rules' tables, and runs the fallbacks of those whose rows may be
    /// others without a change that says so.
    pub(in crate::daemon) fn learn(&mut self, now: KnownTables, plan: &mut Plan) {
        for (news, was_told) in self.matching.matcher.learn(now) {
            self.matching.warn_of(&news);
            if was_told {
                continue;
            }
            let Some(table) = warn::table_to_fall_back(&news) else { continue };
            let (schema, name) = (table.schema.as_bytes(), table.name.as_bytes());
            self.in_transaction(plan, |matcher, taker| {
                matcher.table_fallback(schema, name, Cause::Absent, |emission| {
                    taker.push(&emission);
                });
            });
        }
    }

    /// The rest of the open transaction never comes: every rule's fallback takes its place.
    pub(in crate::daemon) fn give_up_open(&mut self, plan: &mut Plan) {
        let Some(commit) = self.open_commit.take() else { return };
        plan.leave_out_nobody();
        self.everything(Cause::Gap, plan);
        self.open = None;
        self.matching.end_transaction();
        plan.commit(commit.end_lsn);
    }

    /// Takes a message of the event triggers: the fallbacks of the rules on its tables run.
    pub(super) fn ddl(
        &mut self,
        ddl: Result<Ddl, MalformedDdl>,
        transactional: bool,
        start_lsn: Lsn,
        plan: &mut Plan,
    ) -> Result<Option<Lsn>, Interrupted> {
        if transactional != self.open.is_some() {
            return Err(senseless("a message in the wrong place").into());
        }
        let commit_lsn = self.open.and_then(|facts| facts.commit_lsn);
        match ddl {
            Ok(ddl)
                if self.replayed.is_none()
                    && self.matching.matcher.is_outdated_by(&ddl, commit_lsn) =>
            {
                return Err(Interrupted::Catalog);
            }
            Ok(ddl) => self.in_transaction(plan, |matcher, taker| {
                let mut first = None;
                matcher.ddl(&ddl, commit_lsn, |table, emission| {
                    first.get_or_insert_with(|| table.to_string());
                    taker.push(&emission);
                });
                if let Some(table) = first {
                    info!(command = ddl.command, table, "DDL on a rule's table; fallbacks run");
                }
            }),
            Err(error) => {
                let lsn = start_lsn.to_string();
                error!(lsn, "a {DDL_PREFIX} message is {error}; every rule's fallback runs");
                self.everything(Cause::Absent, plan);
            }
        }
        if transactional {
            return Ok(None);
        }
        // One that is not part of a transaction is one of its own.
        plan.advance(start_lsn);
        Ok(Some(start_lsn))
    }

    /// Takes the place of a change that is too large to be read.
    pub(in crate::daemon) fn oversized(&mut self, bytes: usize, plan: &mut Plan) {
        if self.is_left_out() {
            return;
        }
        error!(bytes, "a change is too large to be read; every rule's fallback runs");
        self.everything(Cause::Absent, plan);
    }

    /// Takes what the server says in place of a change that it dropped.
    pub(in crate::daemon) fn notice(&mut self, notice: &Notice, plan: &mut Plan) {
        if self.is_left_out() {
            return;
        }
        if waits_for_standby(&notice.message) {
            if self.matching.warned.is_new_notice(&notice.message) {
                warn!(
                    notice = notice.message,
                    hint = "start that standby, or take its slot out of synchronized_standby_slots",
                    "Postgres sends nothing until a standby has caught up"
                );
            }
            return;
        }
        let Some(dropped) = dropped_change(&notice.message) else {
            if self.matching.warned.is_new_notice(&notice.message) {
                warn!(notice = notice.message, "an unknown notice; every rule's fallback runs");
            }
            return self.everything(Cause::Absent, plan);
        };
        let table = format!("{}.{}", identifier(dropped.schema), identifier(dropped.table));
        if self.matching.warned.is_new_notice(&table) {
            warn!(
                table,
                hint =
                    format!("ALTER TABLE {table} REPLICA IDENTITY FULL; or give it a primary key"),
                "wal2json drops updates and deletes of a table; its rules' fallbacks run"
            );
        }
        let names = (dropped.schema.as_bytes(), dropped.table.as_bytes());
        self.in_transaction(plan, |matcher, taker| {
            matcher.table_fallback(names.0, names.1, Cause::Absent, |emission| {
                taker.push(&emission);
            });
        });
    }

    /// Runs every rule's fallback: a change is not known.
    pub(super) fn everything(&mut self, cause: Cause, plan: &mut Plan) {
        self.in_transaction(plan, |matcher, taker| {
            matcher.rules().all_fallbacks(cause, |emission| taker.push(&emission));
        });
    }

    /// Adds actions to the open transaction, or to one of their own.
    fn in_transaction(&mut self, plan: &mut Plan, ask: impl FnOnce(&mut Matcher, &mut Taker<'_>)) {
        if self.open.is_none() {
            plan.begin(None);
        }
        let facts = self.open.unwrap_or_default();
        let (matcher, mut taker) = self.matching.taker(plan, facts);
        ask(matcher, &mut taker);
        if self.open.is_none() {
            // It has no position of its own; it is confirmed with what comes before it.
            plan.commit(Lsn::ZERO);
        }
    }
}
