//! Keys of the configuration that this version does not support yet.
//!
//! They are neither ignored, which would silently lose what they ask for, nor reported as typos.
//! A key that gets built leaves its lists here.

use super::table::Table;

/// Sections and keys at the top.
pub(super) const ROOT: &[&str] = &["admin", "cloudfront"];

/// `[postgres]`.
pub(super) const POSTGRES: &[&str] = &["on_gap", "publication", "replicas"];

/// `[redis.NAME]`.
pub(super) const REDIS: &[&str] = &["cluster", "sentinel"];

/// `[[rule]]`.
pub(super) const RULE: &[&str] = &["redelete_after"];

/// Kinds of sinks: `[KIND.NAME]`.
const SINK_KINDS: &[&str] = &["cloudfront"];

/// The names of sinks whose kind is not supported yet.
pub(super) fn sink_names(root: &Table<'_>) -> Vec<String> {
    let keys = SINK_KINDS.iter().flat_map(|kind| root.keys_under(kind));
    keys.map(|(name, _)| name).collect()
}
