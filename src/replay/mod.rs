//! Replay: what of the log is kept for it, since when, and which part of it is asked for.
//!
//! Postgres streams nothing that a slot has confirmed. So a second slot stays a window behind the
//! first one: [`Keeper`] moves it, and [`Times`] know when which position was the end of the log.
//! What a replay does with the stream is the daemon's affair.

mod keeper;
mod range;
mod said;
mod slots;
mod times;
mod times_file;

pub use keeper::{Horizon, Keeper, KeeperSettings};
pub(crate) use range::micros_of;
pub use range::{Place, Range};
pub use slots::{Clock, clock};
pub use times::{Pair, Times, shown};
pub use times_file::{Origin, TimesFileError, read_times};
