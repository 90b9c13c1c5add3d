//! The derived fallback of purges: what does a CDN purge where the exact keys and paths cannot be
//! known?
//!
//! Paths have a coarser form where the sink has wildcards; everything else ends in a purge of all
//! that the sink has, unless the rule says what to purge instead. Pure.

use super::fallback::{Coarse, LITERAL_BYTES_MIN};
use super::rule_set::{SinkId, Step};
use super::spec::{PathPurges, SinkSpec};
use super::template::{Segment, Template};
use crate::action::{EVERYTHING, Verb};

/// Why nothing can be derived from a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Underivable {
    /// It starts with too few literal bytes to be sure what would match.
    TooBroad,
    /// A sink that it goes to cannot purge everything.
    NoPurgeAll(SinkId),
}

/// The coarse purges of a rule.
pub(super) struct Purges<'a> {
    sinks: &'a [SinkSpec],
    /// The sinks for which something is written.
    given: Vec<SinkId>,
    coarse: Vec<Coarse>,
    /// The sinks in which everything is to be purged.
    all: Vec<SinkId>,
}

impl<'a> Purges<'a> {
    /// None yet, beside what is written.
    pub(super) fn new(sinks: &'a [SinkSpec], written: &[Coarse]) -> Self {
        let purges = written.iter().filter(|coarse| coarse.verb.is_purge());
        let given = purges.flat_map(|coarse| coarse.sinks.iter().copied()).collect();
        Purges { sinks, given, coarse: Vec::new(), all: Vec::new() }
    }

    /// Adds what stands for a template.
    ///
    /// # Errors
    /// Where nothing does, and nothing is written for its sink.
    pub(super) fn add(&mut self, step: &Step) -> Result<(), Underivable> {
        let has_wildcards =
            |id: &&SinkId| self.sinks[id.0 as usize].purges.paths == PathPurges::Wildcards;
        let mut rest: Vec<SinkId> = step.sinks.clone();
        if let Some(value) = step.template.as_literal() {
            self.put(step.verb, value.to_vec(), std::mem::take(&mut rest));
        } else if step.verb == Verb::PurgePath {
            let able: Vec<SinkId> = rest.iter().filter(has_wildcards).copied().collect();
            rest.retain(|id| !able.contains(id));
            match beginning(&step.template) {
                Some(path) => self.put(step.verb, path, able),
                None if able.iter().all(|id| self.given.contains(id)) => {}
                None => return Err(Underivable::TooBroad),
            }
        }
        for id in rest {
            if self.given.contains(&id) || self.all.contains(&id) {
                continue;
            }
            if !self.sinks[id.0 as usize].purges.all {
                return Err(Underivable::NoPurgeAll(id));
            }
            self.all.push(id);
        }
        Ok(())
    }

    /// All of them, each once. What is purged as a whole is not purged in parts too.
    pub(super) fn into_coarse(mut self) -> impl Iterator<Item = Coarse> {
        for coarse in &mut self.coarse {
            coarse.sinks.retain(|id| !self.all.contains(id));
        }
        self.coarse.push(Coarse {
            verb: Verb::PurgeAll,
            value: EVERYTHING.to_vec(),
            sinks: self.all,
        });
        self.coarse.into_iter().filter(|coarse| !coarse.sinks.is_empty())
    }

    fn put(&mut self, verb: Verb, value: Vec<u8>, sinks: Vec<SinkId>) {
        let is_known = self.coarse.iter().any(|known| (known.verb, &known.value) == (verb, &value));
        if !is_known {
            self.coarse.push(Coarse { verb, value, sinks });
        }
    }
}

/// Everything that starts as the template does, if that is enough to go by.
fn beginning(template: &Template) -> Option<Vec<u8>> {
    match template.segments.first() {
        Some(Segment::Literal(literal)) if literal.len() >= LITERAL_BYTES_MIN => {
            Some([literal.as_slice(), b"*"].concat())
        }
        _ => None,
    }
}
