//! From the messages of the stream to actions of the plan.
//!
//! No I/O but logs: what was read comes in, what is to be done goes into the plan.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::interrupted::Interrupted;
use super::replayed::{Replayed, Taken};
use super::warn::{self, Warned};
use crate::action::Verb;
use crate::change::Change;
use crate::config::Visibility;
use crate::decode::{Boundary, Decoder, Event, Nulls, dropped_change, waits_for_standby};
use crate::failpoint::Failpoint;
use crate::lsn::Lsn;
use crate::metrics::{Counts, Tally};
use crate::parked::Record;
use crate::pipeline::{Hidden, Manner, Plan, Urgency, trace};
use crate::postgres::quote::identifier;
use crate::postgres::{HEARTBEAT_PREFIX, Notice, PgError, PgErrorKind};
use crate::rules::{
    Bulk, Cause, DDL_PREFIX, Ddl, Emission, Facts, KnownTables, MESSAGE_PREFIX, MalformedDdl,
    Matcher, Messages, RuleSet,
};
use crate::state::Commit;
use crate::status::now_seconds;
use crate::tail::Tap;

/// Turns messages into actions.
pub(super) struct Reader<'d> {
    decoder: Decoder,
    matcher: &'d mut Matcher,
    rules: Arc<RuleSet>,
    visibility: Visibility,
    messages: Messages,
    /// What of a transaction waits until it is visible.
    hidden: Option<Hidden>,
    /// Of the transaction that the stream is in.
    open: Option<Facts>,
    /// The same transaction's commit.
    open_commit: Option<Commit>,
    /// The last commit, until somebody asks for it.
    commit: Option<Commit>,
    bulk: Bulk,
    /// What the last message asked for that cannot be done.
    parked: Option<Record>,
    /// What the catalog says of the rules' tables, until that transaction ends.
    tables: Option<KnownTables>,
    warned: Warned,
    /// Which part of the stream counts; `None`: all of it.
    replayed: Option<&'d mut Replayed>,
    counts: Arc<Counts>,
    tap: Tap,
}

impl<'d> Reader<'d> {
    pub(super) fn new(
        matcher: &'d mut Matcher,
        decoder: Decoder,
        visibility: Visibility,
        messages: Messages,
    ) -> Self {
        let rules = Arc::clone(matcher.rules());
        let warned = Warned::default();
        let looks_up = rules.rules().iter().any(|rule| rule.lookup.is_some());
        let hidden = match visibility {
            _ if Failpoint::ActEarly.is_set() => None,
            Visibility::Wait => Some(Hidden::All),
            Visibility::Skip if looks_up => Some(Hidden::Lookups),
            Visibility::Skip => None,
        };
        let (bulk, counts) = (Bulk::default(), Arc::new(Counts::new(&rules)));
        Reader {
            decoder,
            matcher,
            rules,
            visibility,
            messages,
            hidden,
            open: None,
            open_commit: None,
            commit: None,
            bulk,
            parked: None,
            tables: None,
            warned,
            replayed: None,
            counts,
            tap: Tap::default(),
        }
    }

    /// Counts there, and tells of single invalidations there.
    pub(super) fn observe(&mut self, counts: Arc<Counts>, tap: Tap) {
        (self.counts, self.tap) = (counts, tap);
    }

    /// Takes only a part of the stream. The catalog was read after it was written, so that it is
    /// not read again, and what it says is no news.
    pub(super) fn replay(&mut self, replayed: &'d mut Replayed) {
        self.replayed = Some(replayed);
    }

    /// What the stream is matched with.
    pub(super) fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// What has come of the part that counts.
    pub(super) fn replayed(&mut self) -> Option<&mut Replayed> {
        self.replayed.as_deref_mut()
    }

    /// Takes what the catalog says of the rules' tables while the stream goes on.
    ///
    /// # Errors
    /// If it takes a stream with other options; the next one finds the same news.
    pub(super) fn tables(&mut self, now: KnownTables, plan: &mut Plan) -> Result<(), Interrupted> {
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
        let known = self.matcher.known();
        if known.is_some_and(|known| known.outgrown_by(&now, &self.rules, by_type)) {
            return Err(Interrupted::Catalog);
        }
        self.learn(now, plan);
        Ok(())
    }

    /// Says what is new about the rules' tables, and runs the fallbacks of those whose rows may be
    /// others without a change that says so.
    pub(super) fn learn(&mut self, now: KnownTables, plan: &mut Plan) {
        for (news, was_told) in self.matcher.learn(now) {
            warn::table_news(&mut self.warned, &self.rules, &news);
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

    /// What the last message asked for that cannot be done.
    pub(super) fn take_parked(&mut self) -> Option<Record> {
        self.parked.take()
    }

    /// The commit that came last, once.
    pub(super) fn take_commit(&mut self) -> Option<Commit> {
        self.commit.take()
    }

    /// The commit of the transaction that the stream is in.
    pub(super) fn open_commit(&self) -> Option<Commit> {
        self.open_commit
    }

    /// The rest of the open transaction never comes: every rule's fallback takes its place.
    pub(super) fn give_up_open(&mut self, plan: &mut Plan) {
        let Some(commit) = self.open_commit.take() else { return };
        plan.leave_out_nobody();
        self.everything(Cause::Gap, plan);
        self.open = None;
        self.bulk.reset();
        plan.commit(commit.end_lsn);
    }

    /// Whether the stream is in a transaction.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.open.is_some() || self.is_left_out()
    }

    /// Whether the stream is in a transaction that does not count.
    fn is_left_out(&self) -> bool {
        self.replayed.as_ref().is_some_and(|replayed| replayed.is_leaving_out())
    }

    /// Takes one message of the output plugin. Answers with the end of the transaction that it
    /// completes, if it does.
    ///
    /// # Errors
    /// If something might be lost by reading on.
    pub(super) fn message(
        &mut self,
        start_lsn: Lsn,
        data: &mut [u8],
        plan: &mut Plan,
    ) -> Result<Option<Lsn>, Interrupted> {
        let event = self.decoder.decode(data);
        if let Some(replayed) = &mut self.replayed {
            match replayed.take(event.as_ref().ok(), start_lsn) {
                Taken::Within => {}
                Taken::LeftOut => return Ok(None),
                Taken::EndLeftOut(end_lsn) => {
                    plan.advance(end_lsn);
                    return Ok(Some(end_lsn));
                }
            }
        }
        match event {
            Ok(Event::Change(change)) => {
                let facts = self.open.ok_or_else(lost_change)?;
                let (rules, bulk, warned) = (&self.rules, &mut self.bulk, &mut self.warned);
                let watched = (&*self.counts, &self.tap);
                let taker = Taker::new(plan, rules, bulk, warned, watched, facts);
                apply(self.matcher, taker, change, self.replayed.is_some())?;
            }
            Ok(Event::Truncate(changes)) => {
                let facts = self.open.ok_or_else(lost_change)?;
                for change in changes {
                    let (rules, bulk, warned) = (&self.rules, &mut self.bulk, &mut self.warned);
                    let watched = (&*self.counts, &self.tap);
                    let taker = Taker::new(plan, rules, bulk, warned, watched, facts);
                    apply(self.matcher, taker, change, self.replayed.is_some())?;
                }
            }
            Ok(Event::Aside) => {}
            Ok(Event::Begin(begin)) => {
                if self.open.is_some() {
                    return Err(senseless("a transaction within another").into());
                }
                self.open = Some(begin_in(plan, &begin, self.hidden)?);
                self.open_commit = seen(&begin);
            }
            Ok(Event::Commit(commit)) => {
                if self.open.take().is_none() {
                    return Err(senseless("the end of no transaction").into());
                }
                let end_lsn = commit.end_lsn.unwrap_or(start_lsn);
                if self.visibility == Visibility::Skip {
                    // What ran before may have come before the transaction was visible.
                    for rule in self.bulk.collapsed() {
                        self.rules.fallback(rule, Cause::Bulk, &mut |coarse| {
                            let redelete = self.rules.redelete_of(coarse.rule);
                            let manner = Manner { urgency: Urgency::Prompt, redelete };
                            plan.push(coarse.sinks, coarse.action, manner);
                        });
                    }
                }
                self.bulk.reset();
                plan.commit(end_lsn);
                // The beginning may not have told where the end is.
                self.commit = self.open_commit.take().map(|commit| Commit { end_lsn, ..commit });
                if self.decoder.is_full() && plan.is_idle() && self.replayed.is_none() {
                    // Nothing is repeated by that.
                    return Err(Interrupted::Catalog);
                }
                if let Some(tables) = self.tables.take() {
                    self.tables(tables, plan)?;
                }
                return Ok(Some(end_lsn));
            }
            Ok(Event::Message(message)) if message.prefix == DDL_PREFIX.as_bytes() => {
                let (ddl, transactional) = (Ddl::parse(message.content), message.transactional);
                return self.ddl(ddl, transactional, start_lsn, plan);
            }
            Ok(Event::Message(message)) => {
                if message.prefix == MESSAGE_PREFIX.as_bytes() {
                    let (content, transactional) = (message.content, message.transactional);
                    let (rules, bulk, warned) = (&self.rules, &mut self.bulk, &mut self.warned);
                    if transactional != self.open.is_some() {
                        return Err(senseless("a message in the wrong place").into());
                    }
                    match transactional {
                        true => plan.keep_exact(),
                        // It is a transaction of its own, and visible.
                        false => plan.begin(None),
                    }
                    let facts = self.open.unwrap_or_default();
                    let watched = (&*self.counts, &self.tap);
                    let mut taker = Taker::new(plan, rules, bulk, warned, watched, facts);
                    let asked =
                        rules.message(content, self.messages, |emission| taker.push(&emission));
                    if let Err(error) = asked {
                        let lsn = start_lsn.to_string();
                        error!(
                            lsn,
                            hint = "walpurge parked list",
                            "a message asks for what cannot be done, and is given up: {error}"
                        );
                        self.parked = Some(Record::message(start_lsn, error.to_string(), content));
                    }
                    if !transactional {
                        plan.commit(start_lsn);
                        return Ok(Some(start_lsn));
                    }
                } else if message.prefix == HEARTBEAT_PREFIX.as_bytes() {
                    self.counts.heartbeat.set(now_seconds() as u64);
                }
            }
            Err(error) => {
                if self.warned.is_new_notice(&error.to_string()) {
                    let lsn = start_lsn.to_string();
                    error!(lsn, "an unreadable change ({error}); every rule's fallback runs");
                }
                self.everything(Cause::Absent, plan);
            }
        }
        Ok(None)
    }

    /// Takes a message of the event triggers: the fallbacks of the rules on its tables run.
    fn ddl(
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
            Ok(ddl) if self.replayed.is_none() && self.matcher.is_outdated_by(&ddl, commit_lsn) => {
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
    pub(super) fn oversized(&mut self, bytes: usize, plan: &mut Plan) {
        if self.is_left_out() {
            return;
        }
        error!(bytes, "a change is too large to be read; every rule's fallback runs");
        self.everything(Cause::Absent, plan);
    }

    /// Takes what the server says in place of a change that it dropped.
    pub(super) fn notice(&mut self, notice: &Notice, plan: &mut Plan) {
        if self.is_left_out() {
            return;
        }
        if waits_for_standby(&notice.message) {
            if self.warned.is_new_notice(&notice.message) {
                warn!(
                    notice = notice.message,
                    hint = "start that standby, or take its slot out of synchronized_standby_slots",
                    "Postgres sends nothing until a standby has caught up"
                );
            }
            return;
        }
        let Some(dropped) = dropped_change(&notice.message) else {
            if self.warned.is_new_notice(&notice.message) {
                warn!(notice = notice.message, "an unknown notice; every rule's fallback runs");
            }
            return self.everything(Cause::Absent, plan);
        };
        let table = format!("{}.{}", identifier(dropped.schema), identifier(dropped.table));
        if self.warned.is_new_notice(&table) {
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
    fn everything(&mut self, cause: Cause, plan: &mut Plan) {
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
        let (rules, bulk, warned) = (&self.rules, &mut self.bulk, &mut self.warned);
        let watched = (&*self.counts, &self.tap);
        let mut taker = Taker::new(plan, rules, bulk, warned, watched, facts);
        ask(self.matcher, &mut taker);
        if self.open.is_none() {
            // It has no position of its own; it is confirmed with what comes before it.
            plan.commit(Lsn::ZERO);
        }
    }
}

fn begin_in(
    plan: &mut Plan,
    begin: &Boundary<'_>,
    hidden: Option<Hidden>,
) -> Result<Facts, PgError> {
    if hidden.is_some() && begin.xid.is_none() {
        // Nobody could tell whether it is visible.
        return Err(senseless("a transaction without its ID"));
    }
    // Without an end it waits for all that replicas may ever replay, until its commit record says.
    plan.begin_until(begin.xid.zip(hidden), begin.end_lsn.unwrap_or(Lsn(u64::MAX)));
    if let Some(end_lsn) = begin.end_lsn {
        plan.leave_out(end_lsn);
    }
    Ok(Facts { xid: begin.xid, commit_lsn: begin.commit_lsn })
}

/// The commit that a transaction's beginning tells of.
fn seen(begin: &Boundary<'_>) -> Option<Commit> {
    let (commit_lsn, end_lsn, xid) = (begin.commit_lsn?, begin.end_lsn?, begin.xid?);
    Some(Commit { commit_lsn, end_lsn, xid })
}

/// Takes a change.
///
/// # Errors
/// If its table is not known. A replay does not mind: the catalog was read after the change.
fn apply<'a>(
    matcher: &mut Matcher,
    mut taker: Taker<'a>,
    change: Change<'a>,
    is_replay: bool,
) -> Result<(), Interrupted> {
    let is_new = matcher.needs_catalog(change.schema, change.table);
    if is_new && !is_replay {
        return Err(Interrupted::Catalog);
    }
    let facts = taker.facts;
    taker.change = Some(change);
    matcher.apply(&change, facts, |emission| taker.take(&emission, &change));
    Ok(())
}

fn lost_change() -> PgError {
    senseless("a change outside of a transaction")
}

fn senseless(what: &str) -> PgError {
    PgError::new(PgErrorKind::Protocol, format!("make sense of {what}"))
}

/// Whether each single invalidation is logged.
fn is_traced() -> bool {
    tracing::enabled!(tracing::Level::DEBUG)
}

/// Takes what rules ask for into the plan.
struct Taker<'a> {
    plan: &'a mut Plan,
    rules: &'a RuleSet,
    bulk: &'a mut Bulk,
    warned: &'a mut Warned,
    facts: Facts,
    is_traced: bool,
    counts: &'a Counts,
    tally: Tally,
    /// `None`: nobody listens.
    tap: Option<&'a Tap>,
    /// What asks, if it is a change.
    change: Option<Change<'a>>,
}

impl<'a> Taker<'a> {
    fn new(
        plan: &'a mut Plan,
        rules: &'a RuleSet,
        bulk: &'a mut Bulk,
        warned: &'a mut Warned,
        (counts, tap): (&'a Counts, &'a Tap),
        facts: Facts,
    ) -> Self {
        let (tally, is_traced) = (Tally::default(), is_traced());
        let (tap, change) = (tap.is_open().then_some(tap), None);
        Taker { plan, rules, bulk, warned, facts, is_traced, counts, tally, tap, change }
    }

    /// Takes an action that a change asks for.
    fn take(&mut self, emission: &Emission<'_>, change: &Change<'_>) {
        if let Some(rule) = emission.rule
            && emission.fallback == Some(Cause::Absent)
            && self.warned.is_new_rule(rule)
        {
            warn::falls_back(self.warned, self.rules, rule, change);
        }
        self.tally.change(self.counts, emission, change.op);
        self.push(emission);
    }

    fn push(&mut self, emission: &Emission<'_>) {
        let Taker { plan, rules, bulk, facts, is_traced, counts, tally, tap, change, .. } = self;
        // Neither of them is to stop the reader.
        let waits_long = matches!(emission.action.verb, Verb::Publish | Verb::Lookup);
        let is_crowded = waits_long && emission.rule.is_some_and(|rule| plan.is_crowded(rule));
        bulk.asked(rules, emission, is_crowded, |emission| {
            tally.action(counts, emission);
            if *is_traced {
                trace(rules, emission, *facts);
            }
            if let Some(tap) = tap {
                tap.tell(rules, emission, *facts, change.as_ref());
            }
            match (emission.action.verb, emission.rule) {
                (Verb::Lookup, Some(rule)) => plan.look_up(rule, emission.action),
                _ => plan.push(emission.sinks, emission.action, Manner::of(rules, emission)),
            }
        });
    }
}

#[cfg(test)]
mod tests;
