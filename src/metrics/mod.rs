//! What is counted of the daemon's work, and how it is shown to Prometheus.
//!
//! [`Counts`] are added to where the work is done, by the daemon's only thread; the admin endpoint
//! reads them whenever somebody asks. What is no count (a lag, what waits) comes from the
//! [`Status`](crate::status::Status) that the daemon publishes twice a second.

mod arrivals;
mod counter;
mod counts;
mod exposition;
mod tally;

pub use arrivals::Arrivals;
pub use counter::{Counter, Histogram};
pub use counts::{Counts, Ended, RuleCounts, SinkCounts, Target, Why};
pub use exposition::{CONTENT_TYPE, exposition};
pub use tally::Tally;
