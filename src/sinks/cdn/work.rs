//! A batch as requests: which are still to be sent, and what has become of the others.
//!
//! It outlives a failed attempt. The same batch is sent again until it is done, and what a provider
//! has acknowledged need not be asked for again: under a rate limit that is the difference between
//! progress and none. Pure.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::action::Batch;
use crate::sinks::Rejected;

/// One request to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) kind: JobKind,
    /// The places of its actions in the batch.
    pub(super) items: Vec<usize>,
}

/// What a request purges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobKind {
    /// Surrogate keys.
    Keys,
    /// Paths, at one of the sink's hosts if it has several.
    Paths { host: usize },
    /// Everything.
    All,
}

/// What an answer means for a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it is purged.
    Done,
    /// These of its actions are not: by their places in the batch.
    Refused(Vec<usize>, String),
}

/// A batch under way.
#[derive(Debug)]
pub(super) struct Work {
    batch: u64,
    /// What is to be sent.
    queue: VecDeque<Job>,
    rejected: Vec<Rejected>,
    /// How many items were asked for and acknowledged.
    requested: u64,
}

impl Work {
    /// A batch that nothing has been sent of.
    pub(super) fn new(batch: &Batch, jobs: Vec<Job>, rejected: Vec<Rejected>) -> Self {
        Work { batch: fingerprint(batch), queue: jobs.into(), rejected, requested: 0 }
    }

    /// Whether it is this batch's.
    pub(super) fn is_of(&self, batch: &Batch) -> bool {
        self.batch == fingerprint(batch)
    }

    /// The next job.
    pub(super) fn take(&mut self) -> Option<Job> {
        self.queue.pop_front()
    }

    /// A job that came to nothing comes next.
    pub(super) fn put_back(&mut self, job: Job) {
        self.queue.push_front(job);
    }

    /// A job was answered. Of several items that are refused together each half is tried alone,
    /// until it is known which ones are meant.
    pub(super) fn answered(&mut self, job: Job, verdict: Verdict) {
        let (mut items, reason) = match verdict {
            Verdict::Done => (Vec::new(), String::new()),
            Verdict::Refused(items, reason) => (items, reason),
        };
        self.requested += (job.items.len() - items.len().min(job.items.len())) as u64;
        let kind = job.kind;
        match items.as_slice() {
            [] => {}
            [index] => self.reject(*index, reason),
            several if several.len() < job.items.len() => self.put_back(Job { kind, items }),
            several => {
                let rest = items.split_off(several.len() / 2);
                self.put_back(Job { kind, items: rest });
                self.put_back(Job { kind, items });
            }
        }
    }

    fn reject(&mut self, index: usize, reason: String) {
        // A path may be refused at several hosts.
        if !self.rejected.iter().any(|known| known.index == index) {
            self.rejected.push(Rejected { index, reason });
        }
    }

    /// What became of it: the items that were asked for, and those that never will be purged.
    pub(super) fn finish(mut self) -> (u64, Vec<Rejected>) {
        self.rejected.sort_by_key(|rejected| rejected.index);
        (self.requested, self.rejected)
    }
}

/// What tells a batch from others.
pub(super) fn fingerprint(batch: &Batch) -> u64 {
    let mut hasher = DefaultHasher::new();
    batch.len().hash(&mut hasher);
    batch.iter().for_each(|action| action.hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Action, Verb};

    #[test]
    fn the_items_that_are_refused_are_found_and_the_others_done() {
        let mut batch = Batch::default();
        for at in 0..9 {
            batch.push(Action { verb: Verb::PurgeKey, value: format!("k{at}").as_bytes() });
        }
        let job = Job { kind: JobKind::Keys, items: (0..9).collect() };
        let mut work = Work::new(&batch, vec![job], Vec::new());
        let mut requests = 0;
        while let Some(job) = work.take() {
            requests += 1;
            let is_bad = job.items.iter().any(|item| [3, 7].contains(item));
            let verdict = match is_bad {
                true => Verdict::Refused(job.items.clone(), "bad".into()),
                false => Verdict::Done,
            };
            work.answered(job, verdict);
        }
        let (requested, rejected) = work.finish();
        assert_eq!(rejected.iter().map(|r| r.index).collect::<Vec<_>>(), [3, 7]);
        assert_eq!(requested, 7);
        assert!(requests < 18, "{requests}: no better than one by one");
    }

    #[test]
    fn the_part_that_was_not_acknowledged_is_asked_for_again_alone() {
        let batch = Batch::default();
        let job = Job { kind: JobKind::Keys, items: vec![0, 1, 2, 3] };
        let mut work = Work::new(&batch, vec![], Vec::new());
        work.answered(job, Verdict::Refused(vec![1, 2], "missing".into()));
        let job = work.take().unwrap();
        assert_eq!(job.items, [1, 2]);
        work.answered(job, Verdict::Refused(vec![1], "missing".into()));
        assert_eq!(work.take(), None);
        assert_eq!(work.finish().0, 3);
    }

    #[test]
    fn another_batch_is_another_work() {
        let batch = |value: &str| {
            let mut batch = Batch::default();
            batch.push(Action { verb: Verb::PurgeKey, value: value.as_bytes() });
            batch
        };
        let work = Work::new(&batch("a"), Vec::new(), Vec::new());
        assert!(work.is_of(&batch("a")) && !work.is_of(&batch("b")));
    }
}
