//! What goes wrong when: made from a seed alone.

use std::time::Duration;

use fastrand::Rng;
use testkit::postgres::StopMode;

/// Something that begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    KillDaemon(usize),
    /// SIGTERM.
    StopDaemon(usize),
    StartDaemon(usize),
    KillRedis,
    StartRedis,
    FreezeRedis,
    ThawRedis,
    RestartPostgres(StopMode),
    KillPostgres,
    PauseWalsenders,
    ResumeWalsenders,
    Cut(Link),
    CutAfter(Link, u64),
    Stall(Link),
    /// Requests pass, answers do not.
    Mute(Link),
    Resume(Link),
    /// What is committed is streamed, and nobody sees it yet.
    HideCommits,
    ShowCommits,
    /// A partition that the stream's options do not know.
    NewPartition,
}

/// What the daemons reach through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Postgres,
    Redis,
}

impl Step {
    /// The fault that it is counted as; `None`: it mends one.
    pub fn fault(self) -> Option<&'static str> {
        Some(match self {
            Step::KillDaemon(_) => "daemon killed",
            Step::StopDaemon(_) => "daemon stopped",
            Step::KillRedis => "Redis killed",
            Step::FreezeRedis => "Redis frozen",
            Step::RestartPostgres(StopMode::Immediate) => "Postgres restarted at once",
            Step::RestartPostgres(_) => "Postgres restarted",
            Step::KillPostgres => "Postgres killed",
            Step::PauseWalsenders => "walsender paused",
            Step::Cut(Link::Postgres) | Step::CutAfter(Link::Postgres, _) => "Postgres cut off",
            Step::Cut(Link::Redis) | Step::CutAfter(Link::Redis, _) => "Redis cut off",
            Step::Stall(Link::Postgres) => "Postgres stalled",
            Step::Stall(Link::Redis) => "Redis stalled",
            Step::Mute(Link::Postgres) => "Postgres mute",
            Step::Mute(Link::Redis) => "Redis mute",
            Step::HideCommits => "commits hidden",
            Step::NewPartition => "partition added",
            Step::StartDaemon(_)
            | Step::StartRedis
            | Step::ThawRedis
            | Step::ResumeWalsenders
            | Step::ShowCommits
            | Step::Resume(_) => return None,
        })
    }
}

impl Step {
    fn keeps_redis_away(self) -> bool {
        let stops = [Step::Stall(Link::Redis), Step::Mute(Link::Redis)];
        matches!(self, Step::KillRedis | Step::FreezeRedis) || stops.contains(&self)
    }
}

/// The steps of one round, in order.
pub fn plan(rng: &mut Rng, length: Duration) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    let mut at = Duration::from_millis(300);
    // From some time on there is a standby.
    steps.push((length.mul_f64(rng.f64()), Step::StartDaemon(1)));
    while at < length {
        let (fault, end) = fault(rng);
        // With all in its memory that it cannot do, and after it could have confirmed that.
        let kills = fault.keeps_redis_away() && rng.bool();
        let lasts = Duration::from_millis(match rng.u8(..12) {
            // Longer than any patience with an answer.
            0 => 6000,
            _ if kills => rng.u64(1000..2000),
            _ => rng.u64(50..1500),
        });
        steps.push((at, fault));
        steps.extend(end.map(|end| (at + lasts, end)));
        if kills {
            let dies = lasts.mul_f64(0.6 + 0.4 * rng.f64());
            let lives = dies + Duration::from_millis(rng.u64(..500));
            for daemon in 0..2 {
                steps.push((at + dies, Step::KillDaemon(daemon)));
                steps.push((at + lives, Step::StartDaemon(daemon)));
            }
        }
        at += Duration::from_millis(rng.u64(50..900));
    }
    steps.sort_by_key(|&(at, _)| at);
    steps
}

/// A fault, and what ends it.
fn fault(rng: &mut Rng) -> (Step, Option<Step>) {
    let link = if rng.bool() { Link::Postgres } else { Link::Redis };
    let daemon = rng.usize(..2);
    match rng.u8(..28) {
        0..6 => (Step::KillDaemon(daemon), Some(Step::StartDaemon(daemon))),
        6..8 => (Step::StopDaemon(daemon), Some(Step::StartDaemon(daemon))),
        8..10 => (Step::KillRedis, Some(Step::StartRedis)),
        10..13 => (Step::FreezeRedis, Some(Step::ThawRedis)),
        13 => (Step::RestartPostgres(StopMode::Fast), None),
        14 => (Step::RestartPostgres(StopMode::Immediate), None),
        15 => (Step::KillPostgres, None),
        16 => (Step::PauseWalsenders, Some(Step::ResumeWalsenders)),
        17 => (Step::NewPartition, None),
        18..20 => (Step::Cut(link), None),
        20..22 => (Step::CutAfter(link, rng.u64(1..20_000)), None),
        22..24 => (Step::Stall(link), Some(Step::Resume(link))),
        24..26 => (Step::HideCommits, Some(Step::ShowCommits)),
        _ => (Step::Mute(link), Some(Step::Resume(link))),
    }
}

#[test]
fn the_same_seed_makes_the_same_plan() {
    let plan_of = |seed| plan(&mut Rng::with_seed(seed), Duration::from_secs(60));
    assert_eq!(plan_of(7), plan_of(7));
    assert_ne!(plan_of(7), plan_of(8));
    let every = (0..20).flat_map(plan_of).filter_map(|(_, step)| step.fault());
    let kinds: std::collections::BTreeSet<_> = every.collect();
    assert_eq!(kinds.len(), 16, "{kinds:?}");
}
