//! From the messages of the stream to actions of the plan.
//!
//! No I/O but logs: what was read comes in, what is to be done goes into the plan.

mod fallbacks;
mod matching;

use std::sync::Arc;

use matching::Matching;
use tracing::error;

use super::interrupted::Interrupted;
use super::replayed::{Replayed, Taken};
use crate::config::Visibility;
use crate::decode::{Boundary, Decoder, Event};
use crate::failpoint::Failpoint;
use crate::lsn::Lsn;
use crate::metrics::Counts;
use crate::parked::Record;
use crate::pipeline::{Hidden, Plan};
use crate::postgres::{HEARTBEAT_PREFIX, PgError, PgErrorKind};
use crate::rules::{
    Cause, DDL_PREFIX, Ddl, Facts, KnownTables, MESSAGE_PREFIX, Matcher, Messages, RuleSet,
};
use crate::state::Commit;
use crate::status::now_seconds;
use crate::tail::Tap;

/// Turns messages into actions.
pub(super) struct Reader<'d> {
    decoder: Decoder,
    matching: Matching<'d>,
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
    /// What the last message asked for that cannot be done.
    parked: Option<Record>,
    /// What the catalog says of the rules' tables, until that transaction ends.
    tables: Option<KnownTables>,
    /// Which part of the stream counts; `None`: all of it.
    replayed: Option<&'d mut Replayed>,
}

impl<'d> Reader<'d> {
    pub(super) fn new(
        matcher: &'d mut Matcher,
        decoder: Decoder,
        visibility: Visibility,
        messages: Messages,
    ) -> Self {
        let matching = Matching::new(matcher);
        let looks_up = matching.rules().rules().iter().any(|rule| rule.lookup.is_some());
        let hidden = match visibility {
            _ if Failpoint::ActEarly.is_set() => None,
            Visibility::Wait => Some(Hidden::All),
            Visibility::Skip if looks_up => Some(Hidden::Lookups),
            Visibility::Skip => None,
        };
        Reader {
            decoder,
            matching,
            visibility,
            messages,
            hidden,
            open: None,
            open_commit: None,
            commit: None,
            parked: None,
            tables: None,
            replayed: None,
        }
    }

    /// Counts there, and tells of single invalidations there.
    pub(super) fn observe(&mut self, counts: Arc<Counts>, tap: Tap) {
        self.matching.observe(counts, tap);
    }

    /// Takes only a part of the stream. The catalog was read after it was written, so that it is
    /// not read again, and what it says is no news.
    pub(super) fn replay(&mut self, replayed: &'d mut Replayed) {
        self.replayed = Some(replayed);
    }

    /// What the stream is matched with.
    pub(super) fn rules(&self) -> &RuleSet {
        self.matching.rules()
    }

    /// What has come of the part that counts.
    pub(super) fn replayed(&mut self) -> Option<&mut Replayed> {
        self.replayed.as_deref_mut()
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
                self.matching.apply(plan, facts, change, self.replayed.is_some())?;
            }
            Ok(Event::Truncate(changes)) => {
                let facts = self.open.ok_or_else(lost_change)?;
                for change in changes {
                    self.matching.apply(plan, facts, change, self.replayed.is_some())?;
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
                    self.matching.collapsed_once_more(plan);
                }
                self.matching.end_transaction();
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
            Ok(Event::Message(message)) if message.prefix == MESSAGE_PREFIX.as_bytes() => {
                if message.transactional != self.open.is_some() {
                    return Err(senseless("a message in the wrong place").into());
                }
                match message.transactional {
                    true => plan.keep_exact(),
                    // It is a transaction of its own, and visible.
                    false => plan.begin(None),
                }
                let facts = self.open.unwrap_or_default();
                let asked = self.matching.message(plan, facts, message.content, self.messages);
                if let Err(error) = asked {
                    let lsn = start_lsn.to_string();
                    error!(
                        lsn,
                        hint = "walpurge parked list",
                        "a message asks for what cannot be done, and is given up: {error}"
                    );
                    let (error, content) = (error.to_string(), message.content);
                    self.parked = Some(Record::message(start_lsn, error, content));
                }
                if !message.transactional {
                    plan.commit(start_lsn);
                    return Ok(Some(start_lsn));
                }
            }
            Ok(Event::Message(message)) => {
                if message.prefix == HEARTBEAT_PREFIX.as_bytes() {
                    self.matching.counts().heartbeat.set(now_seconds() as u64);
                }
            }
            Err(error) => {
                if self.matching.warned.is_new_notice(&error.to_string()) {
                    let lsn = start_lsn.to_string();
                    error!(lsn, "an unreadable change ({error}); every rule's fallback runs");
                }
                self.everything(Cause::Absent, plan);
            }
        }
        Ok(None)
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

fn lost_change() -> PgError {
    senseless("a change outside of a transaction")
}

fn senseless(what: &str) -> PgError {
    PgError::new(PgErrorKind::Protocol, format!("make sense of {what}"))
}

#[cfg(test)]
mod tests;
