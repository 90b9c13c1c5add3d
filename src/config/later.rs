//! Keys of the configuration that this version does not support yet.
//!
//! They are neither ignored, which would silently lose what they ask for, nor reported as typos.
//! A key that gets built leaves its lists here.

use super::table::Table;

/// Sections and keys at the top.
pub(super) const ROOT: &[&str] = &["cloudfront", "fastly", "http"];

/// `[postgres]`.
pub(super) const POSTGRES: &[&str] = &["publication"];

/// `[redis.NAME]`.
pub(super) const REDIS: &[&str] = &["cluster", "sentinel"];

/// `[[rule]]`.
pub(super) const RULE: &[&str] = &["redelete_after"];

/// Kinds of sinks: `[KIND.NAME]`.
const SINK_KINDS: &[&str] = &["cloudfront", "fastly", "http"];

/// The names of sinks whose kind is not supported yet.
pub(super) fn sink_names(root: &Table<'_>) -> Vec<String> {
    SINK_KINDS.iter().flat_map(|kind| root.names_under(kind)).collect()
}
