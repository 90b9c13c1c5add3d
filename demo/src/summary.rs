//! Was everything as it should be, and how fast?

use std::collections::BTreeSet;

use anyhow::Result;

use crate::attribution::Effect;
use crate::cache::Cache;
use crate::screen::Screen;
use crate::shop;
use crate::story::Step;
use crate::watch::Kind;

/// How many of the survivors that belong to no rule are named.
const FOREIGN_NAMED: usize = 4;

/// What was seen over the whole story.
#[derive(Default)]
pub(crate) struct Summary {
    transactions: usize,
    bumps: usize,
    /// Every key that was seen to go.
    gone: BTreeSet<String>,
    /// Every key that had to go.
    due: BTreeSet<String>,
    removals: usize,
    /// For each transaction, the milliseconds until its last key went.
    delays_ms: Vec<f64>,
    /// What is cached at the end.
    left: BTreeSet<String>,
    faults: Vec<String>,
}

impl Summary {
    /// Compares what followed from a step with what should have: the faults.
    pub(crate) fn take(&mut self, step: &Step, effects: &[Effect]) -> Vec<String> {
        let mut faults = Vec::new();
        let has = |kind, key: &String| effects.iter().any(|e| e.kind == kind && e.key == *key);
        for key in step.gone.iter().filter(|key| !has(Kind::Gone, key)) {
            faults.push(format!("{key} is still cached"));
        }
        for key in step.bumped.iter().filter(|key| !has(Kind::Bumped, key)) {
            faults.push(format!("{key} has not moved"));
        }
        for effect in effects {
            let (due, what) = match effect.kind {
                Kind::Gone => (&step.gone, "went"),
                Kind::Bumped => (&step.bumped, "moved"),
            };
            if !due.contains(&effect.key) {
                faults.push(format!("{} {what} and should not have", effect.key));
            } else if effect.cause.is_none() {
                faults.push(format!("{} {what}, and the log has no reason", effect.key));
            }
        }
        self.transactions += 1;
        self.removals += effects.iter().filter(|effect| effect.kind == Kind::Gone).count();
        self.bumps += effects.iter().filter(|effect| effect.kind == Kind::Bumped).count();
        let gone = effects.iter().filter(|effect| effect.kind == Kind::Gone);
        self.gone.extend(gone.map(|effect| effect.key.clone()));
        self.due.extend(step.gone.iter().cloned());
        self.delays_ms.extend(effects.iter().map(|effect| effect.ms).max_by(f64::total_cmp));
        self.faults.extend(faults.iter().cloned());
        faults
    }

    /// Looks at everything that was ever cached: what was not due must be there.
    pub(crate) fn survey(&mut self, cache: &mut Cache) -> Result<()> {
        let (filled, left) = cache.filled_and_left()?;
        for key in filled.difference(&left).filter(|key| !self.due.contains(*key)) {
            self.faults.push(format!("{key} is gone and should not be"));
        }
        self.left = left;
        Ok(())
    }

    /// Whether everything was as it should be.
    pub(crate) fn is_right(&self) -> bool {
        self.faults.is_empty() && !self.gone.is_empty()
    }

    pub(crate) fn show(&self, screen: &Screen) {
        let mut sorted = self.delays_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let max = sorted.last().copied().unwrap_or_default();
        screen.heading("Summary");
        screen.success(&format!(
            "{} transactions: {} keys removed, {} counters raised",
            self.transactions, self.removals, self.bumps
        ));
        screen.success(&format!(
            "from a commit's reply to its last key: median {median:.1} ms, at most {max:.1} ms"
        ));
        let foreign = shop::FOREIGN.iter().filter(|key| self.left.contains(**key));
        let foreign: Vec<_> = foreign.copied().take(FOREIGN_NAMED).collect();
        screen.success(&format!(
            "{} keys that no change concerned are still cached, among them {}",
            self.left.len(),
            foreign.join(", ")
        ));
        for fault in &self.faults {
            screen.fault(fault);
        }
        if !self.is_right() {
            screen.fault("not everything was as it should be");
        }
    }
}
