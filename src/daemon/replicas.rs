//! The replicas that readers fill caches from: how far all of them are, and which are given up.
//!
//! One that cannot be reached for `max_wait`, was promoted, or follows another history is written
//! off: nothing waits for it, and it is owed every rule's fallback for when it is back, since its
//! readers may have put any old row back meanwhile.

use std::task::Poll;
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::debt::Debt;
use crate::lsn::Lsn;
use crate::pipeline::Plan;
use crate::postgres::{ConnectConfig, Replayed, Replica, ReplicaLost, Upstream};

/// Which replicas to wait for, and for how long.
#[derive(Clone)]
pub struct ReplicaSettings {
    /// Where they are.
    pub connects: Vec<ConnectConfig>,
    /// How long an action waits for them at most.
    pub max_wait: Duration,
}

/// The replicas, while one stream lasts.
#[derive(Default)]
pub(super) struct Replicas {
    members: Vec<Member>,
    max_wait: Duration,
    /// Whether somebody waits for them.
    is_wanted: bool,
}

struct Member {
    name: String,
    replica: Replica,
    state: State,
    /// The place in the stream of the fallbacks that it is owed, while they are under way.
    paying: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has said how far it is.
    Live(Lsn),
    /// It says nothing, since then, or since somebody waits; how far it was before.
    Silent(Instant, Lsn),
    /// It is written off.
    Lost,
    /// It was written off, and has said how far it is.
    Back(Lsn),
}

/// What is heard of one of them.
pub(super) struct News {
    member: usize,
    replayed: Replayed,
}

impl Replicas {
    /// Watches the replicas of the server that streams. Those that `debt` knows were written off
    /// before.
    pub(super) fn start(
        settings: &ReplicaSettings,
        upstream: Upstream,
        debt: Option<&mut Debt>,
    ) -> Self {
        let now = Instant::now();
        let member = |connect: &ConnectConfig| {
            let name = connect.target();
            let state = match debt.as_ref().is_some_and(|debt| debt.is_owed_to_replica(&name)) {
                true => State::Lost,
                false => State::Silent(now, Lsn::ZERO),
            };
            let replica = Replica::start(connect.clone(), upstream.clone());
            Member { name, replica, state, paying: None }
        };
        let members = settings.connects.iter().map(member).collect();
        Replicas { members, max_wait: settings.max_wait, is_wanted: false }
    }

    /// Asks those that are waited for, if somebody waits.
    pub(super) fn ask(&mut self, is_wanted: bool) {
        let begins = is_wanted && !std::mem::replace(&mut self.is_wanted, is_wanted);
        for member in &mut self.members {
            if begins && let State::Silent(since, _) = &mut member.state {
                // Nobody has asked before.
                *since = Instant::now();
            }
            match is_wanted && member.state != State::Lost {
                true => member.replica.ask(),
                false => member.replica.rest(),
            }
        }
    }

    /// What is heard of one of them. Cancel safe.
    pub(super) async fn hear(&mut self) -> News {
        std::future::poll_fn(|context| {
            for (member, of) in self.members.iter_mut().enumerate() {
                if let Poll::Ready(replayed) = of.replica.poll_hear(context) {
                    return Poll::Ready(News { member, replayed });
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Takes what was heard.
    pub(super) fn take(&mut self, news: News, plan: &mut Plan, debt: Option<&mut Debt>) {
        let member = &mut self.members[news.member];
        let now = Instant::now();
        member.state = match (news.replayed, member.state) {
            (Ok(lsn), State::Lost | State::Back(_)) => State::Back(lsn),
            (Ok(lsn), _) => State::Live(lsn),
            (Err(_), State::Lost | State::Back(_)) => State::Lost,
            (Err(ReplicaLost::Unreachable(_)), State::Silent(since, lsn))
                if now.saturating_duration_since(since) < self.max_wait =>
            {
                State::Silent(since, lsn)
            }
            (Err(ReplicaLost::Unreachable(_)), State::Live(lsn)) => State::Silent(now, lsn),
            (Err(lost), _) => {
                member.write_off(&lost.to_string(), debt);
                State::Lost
            }
        };
        self.tell(plan, now);
    }

    /// Looks at the time: `end_lsn` is the end of what was received, outside of a transaction;
    /// `None`: the stream is within one.
    pub(super) fn tick(
        &mut self,
        plan: &mut Plan,
        mut debt: Option<&mut Debt>,
        end_lsn: Option<Lsn>,
    ) {
        if self.members.is_empty() {
            return;
        }
        let now = Instant::now();
        for member in &mut self.members {
            match member.state {
                // A session that hangs answers late.
                State::Silent(since, _)
                    if plan.wants_replicas()
                        && now.saturating_duration_since(since) >= 2 * self.max_wait =>
                {
                    member.write_off("it does not answer", debt.as_deref_mut());
                    member.state = State::Lost;
                }
                State::Lost => member.replica.ask(),
                State::Back(lsn) => {
                    if let Some(end_lsn) = end_lsn {
                        let replica = &member.name;
                        info!(replica, "a replica is back: every rule's fallback runs once");
                        member.paying = Some(plan.owe_fallbacks(end_lsn));
                        member.state = State::Live(lsn);
                    }
                }
                State::Silent(..) | State::Live(_) => {}
            }
            if member.paying.is_some_and(|order| plan.oldest().is_none_or(|oldest| oldest > order))
            {
                member.paying = None;
                if let Some(debt) = debt.as_deref_mut() {
                    debt.paid_to_replica(&member.name);
                }
            }
        }
        self.tell(plan, now);
    }

    /// Tells the plan how far all are that are waited for.
    fn tell(&self, plan: &mut Plan, now: Instant) {
        let lsn = |member: &Member| match member.state {
            State::Live(lsn) | State::Silent(_, lsn) => Some(lsn),
            State::Lost | State::Back(_) => None,
        };
        let all = self.members.iter().filter_map(lsn).min();
        plan.replayed(all.unwrap_or(Lsn(u64::MAX)), now, self.max_wait);
    }
}

impl Member {
    /// The debt is on disk before anything is confirmed that would have waited. Fallbacks that are
    /// under way do not pay it: nothing lets them wait for this replica any more.
    fn write_off(&mut self, why: &str, debt: Option<&mut Debt>) {
        let replica = &self.name;
        error!(
            replica,
            hint = "mend it, or take it out of postgres.replicas.urls",
            "a replica is not waited for any more, and every rule's fallback runs when it is back: {why}"
        );
        self.paying = None;
        if let Some(debt) = debt {
            debt.owe_to_replica(replica);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use super::*;
    use crate::config;
    use crate::pipeline::{Dispatcher, Hidden, LaneId, LaneSpec, Routes, Stage};
    use crate::postgres::{PgError, PgErrorKind, ServerIdentity, SystemIdentity};
    use crate::sinks::{DryRunLane, Lane};
    use crate::state::Owed;

    const WAIT: Duration = Duration::from_secs(5);

    /// Replicas of which none is ever reached.
    fn replicas(debt: &mut Debt) -> Replicas {
        let connect = ConnectConfig::parse("postgres://w@127.0.0.1:1/d").unwrap();
        let settings = ReplicaSettings { connects: vec![connect], max_wait: WAIT };
        let (system_id, timeline, start) = ("1".to_owned(), "1".to_owned(), "1".to_owned());
        let upstream = Upstream {
            history: SystemIdentity {
                system_id: system_id.clone(),
                timeline: 1,
                flushed_lsn: Lsn(1),
                dbname: "d".to_owned(),
            },
            server: ServerIdentity { system_id, timeline, postmaster_start: start },
        };
        Replicas::start(&settings, upstream, Some(debt))
    }

    fn dispatcher() -> Dispatcher {
        let text = "[postgres]\nurl = 'postgres://h/d'\n[redis.c]\nurl = 'redis://h'\n\
            [[rule]]\ntable = 's.t'\ndelete = ['product:{id}']\n";
        let rules = std::sync::Arc::new(config::parse("t", text).unwrap().rules);
        let routes = Routes {
            actions: Box::new(|_, _, _| LaneId(0)),
            lookups: std::collections::HashMap::new(),
        };
        let lane = LaneSpec::new("c", Lane::DryRun(DryRunLane::new("c")), Stage::Remove);
        let parked = crate::parked::Parked::default();
        let mut dispatcher = Dispatcher::new(vec![lane], routes, rules.clone(), parked);
        dispatcher.plan_mut().await_replicas(&rules);
        dispatcher
    }

    fn unreachable() -> News {
        let error = PgError::new(PgErrorKind::ConnectionLost, "connect");
        News { member: 0, replayed: Err(error.into()) }
    }

    fn replayed(lsn: u64) -> News {
        News { member: 0, replayed: Ok(Lsn(lsn)) }
    }

    #[tokio::test]
    async fn who_is_lost_before_it_has_caught_up_is_still_owed() {
        let (mut debt, mut dispatcher) =
            (Debt::new(Owed::open(None), Default::default()), dispatcher());
        debt.owe_to_replica("w@127.0.0.1:1/d");
        let mut replicas = replicas(&mut debt);
        let plan = dispatcher.plan_mut();
        replicas.take(replayed(10), plan, Some(&mut debt));
        replicas.tick(plan, Some(&mut debt), Some(Lsn(100)));
        // It is gone again.
        replicas.take(unreachable(), plan, Some(&mut debt));
        replicas.members[0].state = State::Silent(Instant::now() - WAIT, Lsn(10));
        replicas.take(unreachable(), plan, Some(&mut debt));
        assert_eq!(replicas.members[0].state, State::Lost);
        while !dispatcher.plan().is_idle() {
            dispatcher.turn().await;
        }
        replicas.tick(dispatcher.plan_mut(), Some(&mut debt), Some(Lsn(100)));
        assert!(debt.is_owed_to_replica("w@127.0.0.1:1/d"), "it never had its fallbacks");
        // It comes back, and has replayed all.
        let plan = dispatcher.plan_mut();
        replicas.take(replayed(10), plan, Some(&mut debt));
        replicas.tick(plan, Some(&mut debt), Some(Lsn(100)));
        replicas.take(replayed(100), plan, Some(&mut debt));
        while !dispatcher.plan().is_idle() {
            dispatcher.turn().await;
        }
        replicas.tick(dispatcher.plan_mut(), Some(&mut debt), Some(Lsn(100)));
        assert!(!debt.is_owed_to_replica("w@127.0.0.1:1/d"));
    }

    #[tokio::test]
    async fn who_was_not_asked_for_long_is_not_late() {
        let (mut debt, mut dispatcher) =
            (Debt::new(Owed::open(None), Default::default()), dispatcher());
        let mut replicas = replicas(&mut debt);
        let plan = dispatcher.plan_mut();
        replicas.ask(plan.wants_replicas());
        replicas.members[0].state = State::Silent(Instant::now() - 3 * WAIT, Lsn::ZERO);
        plan.begin_until(Some((10, Hidden::All)), Lsn(100));
        replicas.ask(plan.wants_replicas());
        replicas.tick(plan, Some(&mut debt), None);
        assert!(matches!(replicas.members[0].state, State::Silent(..)), "it is asked just now");
        replicas.take(unreachable(), plan, Some(&mut debt));
        assert!(matches!(replicas.members[0].state, State::Silent(..)), "a moment ago");
        assert!(!debt.is_owed_to_replica("w@127.0.0.1:1/d"));
        // But it is when it stays so.
        replicas.members[0].state = State::Silent(Instant::now() - 3 * WAIT, Lsn::ZERO);
        replicas.ask(plan.wants_replicas());
        replicas.take(unreachable(), plan, Some(&mut debt));
        assert_eq!(replicas.members[0].state, State::Lost);
    }
}
