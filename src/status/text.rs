//! The status for people.

use super::Status;
use crate::config::Style;

/// How it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// In colours or without.
    pub style: Style,
    /// The time, in seconds since 1970.
    pub now_seconds: f64,
}

/// A page.
pub fn text(status: &Status, look: Look) -> String {
    let _ = (status, look);
    String::new()
}

/// A line.
pub fn line(status: &Status) -> String {
    let _ = status;
    String::new()
}
