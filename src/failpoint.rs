//! Deliberate breakage, for tests that must be able to fail.
//!
//! A debug build obeys `WALPURGE_FAILPOINT`; a release build has none of this.

/// Names of what can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// `confirm_early`: confirms what was received, whether or not it is done.
    ConfirmEarly,
    /// `act_early`: acts as if every transaction were visible.
    ActEarly,
}

/// Ends the program on the spot, as `kill -9` does, if `WALPURGE_FAILPOINT` is `kill_at=` and this
/// name.
pub fn kill_at(name: &str) {
    #[cfg(debug_assertions)]
    if set().and_then(|set| set.strip_prefix("kill_at=")) == Some(name) {
        std::process::abort();
    }
    let _ = name;
}

/// What is to be broken.
#[cfg(debug_assertions)]
fn set() -> Option<&'static str> {
    use std::sync::OnceLock;
    static SET: OnceLock<Option<String>> = OnceLock::new();
    SET.get_or_init(|| std::env::var("WALPURGE_FAILPOINT").ok()).as_deref()
}

impl Failpoint {
    fn name(self) -> &'static str {
        match self {
            Failpoint::ConfirmEarly => "confirm_early",
            Failpoint::ActEarly => "act_early",
        }
    }

    /// Whether this is to be broken.
    #[cfg(debug_assertions)]
    pub fn is_set(self) -> bool {
        set() == Some(self.name())
    }

    /// Nothing is broken.
    #[cfg(not(debug_assertions))]
    pub fn is_set(self) -> bool {
        let _ = Self::name;
        false
    }
}
