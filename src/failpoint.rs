//! Deliberate breakage, for tests that must be able to fail, and deliberate crashes.
//!
//! A debug build obeys `WALPURGE_FAILPOINT`; a release build has none of this.

/// Names of what can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// `confirm_early`: confirms what was received, whether or not it is done.
    ConfirmEarly,
    /// `act_early`: acts as if every transaction were visible.
    ActEarly,
    /// `merge_newest`: of equal actions that wait, the newest transaction's is kept.
    MergeNewest,
    /// `merge_in_flight`: an action merges with its equal that was sent already.
    MergeInFlight,
    /// `own_position`: starts the stream where it has come itself, whatever the slot says.
    OwnPosition,
    /// `stall_thread`: at the first commit the daemon's thread stops for ever.
    StallThread,
    /// `stall_loop`: at the first commit the daemon's loop stops for ever, and its thread does not.
    StallLoop,
    /// `stall_reader`: after the first commit nothing is read any more, and the rest goes on.
    StallReader,
}

impl Failpoint {
    const ALL: [Failpoint; 8] = [
        Failpoint::ConfirmEarly,
        Failpoint::ActEarly,
        Failpoint::MergeNewest,
        Failpoint::MergeInFlight,
        Failpoint::OwnPosition,
        Failpoint::StallThread,
        Failpoint::StallLoop,
        Failpoint::StallReader,
    ];

    fn name(self) -> &'static str {
        match self {
            Failpoint::ConfirmEarly => "confirm_early",
            Failpoint::ActEarly => "act_early",
            Failpoint::MergeNewest => "merge_newest",
            Failpoint::MergeInFlight => "merge_in_flight",
            Failpoint::OwnPosition => "own_position",
            Failpoint::StallThread => "stall_thread",
            Failpoint::StallLoop => "stall_loop",
            Failpoint::StallReader => "stall_reader",
        }
    }

    /// What is to be broken.
    pub fn set() -> Option<Failpoint> {
        Self::ALL.into_iter().find(|failpoint| failpoint.is_set())
    }

    /// Whether this is to be broken.
    pub fn is_set(self) -> bool {
        setting() == Some(self.name())
    }
}

/// A place at which a crash matters: `kill_at=NAME` kills the process there, `kill_at=NAME:5` when
/// it comes there for the fifth time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `sent`: a request has gone to a sink, its reply is not taken.
    Sent,
    /// `purge_noted`: CloudFront is about to be asked for what is on disk.
    PurgeNoted,
    /// `purge_accepted`: it has begun that, and nobody has noted so.
    PurgeAccepted,
    /// `answered`: a sink has done a batch, and nobody knows but its lane.
    Answered,
    /// `before_confirm`: something is done, and the server is about to be told.
    BeforeConfirm,
    /// `after_confirm`: the server has just been told.
    AfterConfirm,
    /// `between_sinks`: one sink is done, another is not.
    BetweenSinks,
    /// `in_transaction`: part of a transaction has arrived.
    InTransaction,
    /// `before_park`: something is given up on, and not kept yet.
    BeforePark,
    /// `after_park`: it is kept, and not confirmed.
    AfterPark,
    /// `retry_marked`: what is to be tried again is marked, and not tried.
    RetryMarked,
    /// `retry_tried`: it is, and what became of it is not noted.
    RetryTried,
    /// `retry_noted`: it is.
    RetryNoted,
    /// `before_answer`: the database has answered lookups, and nothing of it is planned.
    BeforeAnswer,
    /// `amid_answer`: one action of several that lookups ask for is planned.
    AmidAnswer,
    /// `after_answer`: all of them are planned, and the lookups count as unfinished.
    AfterAnswer,
    /// `before_position`: something is done, and its position is about to be written.
    BeforePosition,
    /// `after_position`: the position has just been written.
    AfterPosition,
    /// `gap_slot_created`: there is a new slot, and its stream has not started.
    GapSlotCreated,
    /// `gap_stream_started`: it has, and no fallback of its is done.
    GapStreamStarted,
    /// `gap_fallbacks_done`: they are, and the slot is still a temporary one.
    GapFallbacksDone,
    /// `gap_slot_copied`: it is permanent, and nobody has noted that.
    GapSlotCopied,
    /// `publication_locked`: a publication is about to be made or changed, under its locks.
    PublicationLocked,
    /// `publication_changed`: it is, and transactions from before are not waited for yet.
    PublicationChanged,
    /// `switch_slot_created`: the new slot is there for a switch, and temporary.
    SwitchSlotCreated,
    /// `switch_passed`: the former slot is past its start, and it is still temporary.
    SwitchPassed,
    /// `switch_slot_copied`: it is permanent, and nobody has said so.
    SwitchSlotCopied,
}

impl Place {
    #[cfg(debug_assertions)]
    fn name(self) -> &'static str {
        match self {
            Place::Sent => "sent",
            Place::PurgeNoted => "purge_noted",
            Place::PurgeAccepted => "purge_accepted",
            Place::Answered => "answered",
            Place::BeforeConfirm => "before_confirm",
            Place::AfterConfirm => "after_confirm",
            Place::BetweenSinks => "between_sinks",
            Place::InTransaction => "in_transaction",
            Place::BeforePark => "before_park",
            Place::AfterPark => "after_park",
            Place::RetryMarked => "retry_marked",
            Place::RetryTried => "retry_tried",
            Place::RetryNoted => "retry_noted",
            Place::BeforeAnswer => "before_answer",
            Place::AmidAnswer => "amid_answer",
            Place::AfterAnswer => "after_answer",
            Place::BeforePosition => "before_position",
            Place::AfterPosition => "after_position",
            Place::GapSlotCreated => "gap_slot_created",
            Place::GapStreamStarted => "gap_stream_started",
            Place::GapFallbacksDone => "gap_fallbacks_done",
            Place::GapSlotCopied => "gap_slot_copied",
            Place::PublicationLocked => "publication_locked",
            Place::PublicationChanged => "publication_changed",
            Place::SwitchSlotCreated => "switch_slot_created",
            Place::SwitchPassed => "switch_passed",
            Place::SwitchSlotCopied => "switch_slot_copied",
        }
    }

    /// Comes by this place.
    #[cfg(debug_assertions)]
    pub fn pass(self) {
        use std::sync::atomic::{AtomicU64, Ordering};
        static PASSED: AtomicU64 = AtomicU64::new(0);
        let Some(place) = setting().and_then(|set| set.strip_prefix("kill_at=")) else { return };
        let (name, count) = place.split_once(':').unwrap_or((place, "1"));
        if name == self.name() {
            let passed = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
            if count.parse() == Ok(passed) {
                die();
            }
        }
    }

    /// Nothing happens.
    #[cfg(not(debug_assertions))]
    pub fn pass(self) {}
}

/// Ends this process as `kill -9` does: nothing is finished, told or written any more.
#[cfg(debug_assertions)]
fn die() -> ! {
    let id = std::process::id().to_string();
    let _ = std::process::Command::new("sh").args(["-c", "kill -KILL \"$0\"", &id]).status();
    std::process::abort();
}

#[cfg(debug_assertions)]
fn setting() -> Option<&'static str> {
    use std::sync::OnceLock;
    static SET: OnceLock<Option<String>> = OnceLock::new();
    SET.get_or_init(|| std::env::var("WALPURGE_FAILPOINT").ok()).as_deref()
}

#[cfg(not(debug_assertions))]
fn setting() -> Option<&'static str> {
    None
}
