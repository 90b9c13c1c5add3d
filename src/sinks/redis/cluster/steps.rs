//! What is to be sent to some nodes, before it is known to which: commands that belong together,
//! each such step with the slot that they are about; and what has come back.

use super::super::wire::{Reply, Request};

/// Steps that may be done in any order, at any nodes.
#[derive(Default)]
pub(super) struct Steps {
    request: Request,
    steps: Vec<Step>,
    replies: usize,
}

/// Commands about one slot: one, or a MULTI up to its EXEC. So one ASKING before it suffices.
pub(super) struct Step {
    pub(super) slot: u16,
    /// Its commands' names, one for each reply.
    pub(super) commands: &'static [&'static str],
    /// Whether it is one command of several keys which can be done key by key.
    pub(super) can_split: bool,
    start: usize,
    end: usize,
    /// The place of its first reply.
    first_reply: usize,
}

impl Steps {
    /// Adds a step, whose commands `write` writes.
    pub(super) fn add(
        &mut self,
        slot: u16,
        commands: &'static [&'static str],
        write: impl FnOnce(&mut Request),
    ) -> &mut Step {
        let start = self.request.bytes().len();
        write(&mut self.request);
        let (end, first_reply) = (self.request.bytes().len(), self.replies);
        self.replies += commands.len();
        self.steps.push(Step { slot, commands, can_split: false, start, end, first_reply });
        let last = self.steps.len() - 1;
        &mut self.steps[last]
    }

    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn get(&self, index: usize) -> &Step {
        &self.steps[index]
    }

    /// A step as it goes over the wire.
    pub(super) fn bytes(&self, index: usize) -> &[u8] {
        let Step { start, end, .. } = self.steps[index];
        &self.request.bytes()[start..end]
    }

    pub(super) fn clear(&mut self) {
        self.request.clear();
        self.steps.clear();
        self.replies = 0;
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is answered, with no error that concerns more than this step.
    Answered,
    /// Its keys are on two nodes just now: each is to be asked for by itself.
    Split,
    /// Its node could not do it, which is noted as the errand's failure.
    Failed,
}

/// What became of [`Steps`].
pub(super) struct Answers {
    replies: Vec<Reply>,
    outcomes: Vec<Outcome>,
}

impl Answers {
    pub(super) fn to(steps: &Steps) -> Self {
        let mut replies = Vec::new();
        replies.resize_with(steps.replies, || Reply::Nil);
        Answers { replies, outcomes: vec![Outcome::Failed; steps.len()] }
    }

    pub(super) fn set(&mut self, step: usize, outcome: Outcome) {
        self.outcomes[step] = outcome;
    }

    pub(super) fn outcome(&self, step: usize) -> Outcome {
        self.outcomes[step]
    }

    /// The replies to a step, one for each of its commands.
    pub(super) fn replies_mut(&mut self, steps: &Steps, step: usize) -> &mut [Reply] {
        let Step { first_reply, commands, .. } = steps.get(step);
        &mut self.replies[*first_reply..first_reply + commands.len()]
    }

    /// The replies to a step that is answered.
    pub(super) fn answered(&self, steps: &Steps, step: usize) -> Option<&[Reply]> {
        let Step { first_reply, commands, .. } = steps.get(step);
        let is_answered = self.outcomes[step] == Outcome::Answered;
        is_answered.then(|| &self.replies[*first_reply..first_reply + commands.len()])
    }
}
