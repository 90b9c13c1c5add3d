//! Which transactions others can see: what is asked for it, and what becomes of the answers.

use super::Session;
use crate::daemon::replicas::News;
use crate::metrics::Target;
use crate::postgres::Wanted;
use crate::snapshot::Snapshot;

impl Session<'_> {
    /// Takes what other sessions can see.
    pub(super) fn show(&mut self, snapshot: Snapshot) {
        let plan = self.dispatcher.plan_mut();
        // Fallbacks are a transaction of their own, between two others.
        if !self.reader.is_in_transaction() {
            self.purpose.show(&snapshot, self.reader.rules(), plan);
        }
        let waited = plan.oldest_unseen();
        plan.show(snapshot);
        if waited.is_some() && plan.oldest_unseen() != waited {
            self.waited(Target::Primary, waited);
        }
    }

    /// The transaction at a place in the stream was waited for until now.
    fn waited(&self, target: Target, order: Option<u64>) {
        let came = order.and_then(|order| self.dispatcher.arrival_of(order));
        if let Some(came) = came {
            self.dispatcher.counts().waited(target, came.elapsed().as_secs_f64());
        }
    }

    pub(super) fn ask_for_visibility(&mut self) {
        let plan_wants = self.dispatcher.plan().wants_snapshot().then_some(Wanted::Visible);
        match self.purpose.wanted().max(plan_wants) {
            Some(wanted) => self.barrier.ask(wanted),
            None => self.barrier.rest(),
        }
        self.replicas.ask(self.dispatcher.plan().wants_replicas());
    }

    /// Takes what is heard of a replica.
    pub(super) fn take_news(&mut self, news: News) {
        let waited = self.dispatcher.plan().oldest_unreplayed();
        self.replicas.take(news, self.dispatcher.plan_mut(), self.purpose.debt());
        if waited.is_some() && self.dispatcher.plan().oldest_unreplayed() != waited {
            self.waited(Target::Replicas, waited);
        }
    }

    pub(super) fn look_at_replicas(&mut self) {
        let is_between = !self.reader.is_in_transaction();
        let end_lsn = is_between.then(|| self.status.received_lsn.max(self.course.start_lsn()));
        self.replicas.tick(self.dispatcher.plan_mut(), self.purpose.debt(), end_lsn);
    }
}
