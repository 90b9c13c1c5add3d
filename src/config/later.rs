//! Keys of the configuration that this version does not support yet.
//!
//! They are neither ignored, which would silently lose what they ask for, nor reported as typos.
//! A key that gets built leaves its lists here.

/// Sections and keys at the top.
pub(super) const ROOT: &[&str] = &[];

/// `[postgres]`.
pub(super) const POSTGRES: &[&str] = &[];

/// `[redis.NAME]`.
pub(super) const REDIS: &[&str] = &[];

/// `[[rule]]`.
pub(super) const RULE: &[&str] = &[];
