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
        use std::sync::OnceLock;
        static SET: OnceLock<Option<String>> = OnceLock::new();
        let set = SET.get_or_init(|| std::env::var("WALPURGE_FAILPOINT").ok());
        set.as_deref() == Some(self.name())
    }

    /// Nothing is broken.
    #[cfg(not(debug_assertions))]
    pub fn is_set(self) -> bool {
        let _ = Self::name;
        false
    }
}
