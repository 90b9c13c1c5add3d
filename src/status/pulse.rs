//! Do the daemon's own stages still turn?
//!
//! `/livez` and systemd's watchdog ask this. Nothing here depends on a server or a sink: whoever
//! waits for one turns all the same, and says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

/// How often a stage that waits shows that it turns.
const BEAT_EVERY: Duration = Duration::from_millis(500);

/// What has to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The daemon's one thread, which runs whatever is ready.
    Thread,
    /// The loop that reads the stream, dispatches batches, and hears what became of them; without a
    /// stream, what tries to get one.
    Loop,
}

impl Stage {
    /// What to say where it does not.
    pub fn stands(self) -> &'static str {
        match self {
            Stage::Thread => "the daemon's thread has not moved",
            Stage::Loop => "the daemon's loop has not turned",
        }
    }
}

/// When each stage has turned last. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Marks>);

#[derive(Debug)]
struct Marks {
    start: Instant,
    /// In nanoseconds since the start, by [`Stage`].
    turned: [AtomicU64; 2],
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse(Arc::new(Marks { start: Instant::now(), turned: Default::default() }))
    }
}

impl Pulse {
    /// A stage has turned.
    pub fn turned(&self, stage: Stage) {
        let nanos = self.0.start.elapsed().as_nanos() as u64;
        self.0.turned[stage as usize].store(nanos, Ordering::Relaxed);
    }

    /// When a stage turned last that has not done so for longest, and which one it is.
    pub fn slowest(&self) -> (Stage, Instant) {
        let turned = |stage: Stage| {
            let nanos = self.0.turned[stage as usize].load(Ordering::Relaxed);
            self.0.start + Duration::from_nanos(nanos)
        };
        let (thread, turn) = (turned(Stage::Thread), turned(Stage::Loop));
        // A thread that stands still takes its loop with it, whichever of them was first.
        let stage = if thread > turn + 2 * BEAT_EVERY { Stage::Loop } else { Stage::Thread };
        (stage, thread.min(turn))
    }

    /// Shows for ever that the thread that polls this turns.
    pub async fn beat(self) {
        let thread = self.clone();
        thread.show(Stage::Thread, std::future::pending::<()>()).await
    }

    /// Waits for something that is not ours, or has a bound of its own, and shows meanwhile that
    /// the loop turns. `work` is always polled to its end.
    pub fn waiting<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        // A future within futures would be copied from one to the next.
        self.show(Stage::Loop, Box::pin(work))
    }

    async fn show<T>(&self, stage: Stage, mut work: impl Future<Output = T> + Unpin) -> T {
        let mut clock = interval(BEAT_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = clock.tick() => self.turned(stage),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_stage_counts() {
        let pulse = Pulse::default();
        let mark = |stage: Stage, after: Duration| {
            pulse.0.turned[stage as usize].store(after.as_nanos() as u64, Ordering::Relaxed);
        };
        let at = |seconds| pulse.0.start + Duration::from_secs(seconds);
        mark(Stage::Thread, Duration::from_secs(9));
        mark(Stage::Loop, Duration::from_secs(5));
        assert_eq!(pulse.slowest(), (Stage::Loop, at(5)));
        // Both stopped at about the same time.
        mark(Stage::Loop, Duration::from_millis(8900));
        assert_eq!(pulse.slowest().0, Stage::Thread);
        mark(Stage::Loop, Duration::from_secs(60));
        assert_eq!(pulse.slowest(), (Stage::Thread, at(9)));
    }

    #[tokio::test]
    async fn whoever_waits_turns() {
        let pulse = Pulse::default();
        let before = pulse.slowest().1;
        pulse.turned(Stage::Thread);
        let turning = async {
            while pulse.slowest().1 <= before {
                tokio::task::yield_now().await;
            }
        };
        pulse.waiting(turning).await;
    }
}
