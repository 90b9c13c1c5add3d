//! `[cloudfront.NAME]`.

use std::path::Path;

use super::{Kept, check_base, check_id, required};
use crate::config::table::Table;
use crate::rules::{PathPurges, Purges};
use crate::sinks::cdn::cloudfront::CloudFrontOptions;

/// Keys that are no names of sinks.
pub(super) const KEYS: &[&str] = &["distribution_id", "endpoint", "paths_per_month", "after"];

const DISTRIBUTION_EXAMPLE: &str = "distribution_id = \"E2QWRUHAPOMQZL\"";

/// A distribution of Amazon CloudFront.
#[derive(Clone, Debug)]
pub struct CloudFrontConfig {
    /// `distribution_id`.
    pub distribution_id: String,
    /// `endpoint`.
    pub endpoint: Option<String>,
    /// `paths_per_month`: how many paths and tags may be charged.
    pub paths_per_month: Option<u64>,
}

impl CloudFrontConfig {
    pub(super) fn purges(&self) -> Purges {
        Purges { keys: true, paths: PathPurges::Wildcards, all: true }
    }

    /// What the sink is made of.
    pub(super) fn options(
        &self,
        name: &str,
        max_requests_per_second: Option<u32>,
        kept: Kept<'_>,
    ) -> CloudFrontOptions {
        CloudFrontOptions {
            name: name.to_owned(),
            distribution_id: self.distribution_id.clone(),
            endpoint: self.endpoint.clone(),
            max_requests_per_second,
            paths_per_month: self.paths_per_month,
            count_dir: kept.count_dir().map(Path::to_owned),
            state_dir: kept.state_dir().map(Path::to_owned),
            repeats: false,
            credentials: None,
        }
    }
}

pub(super) fn read(name: &str, table: &mut Table<'_>) -> CloudFrontConfig {
    let path = format!("cloudfront.{name}");
    let distribution_id = required(table, &path, "distribution_id", DISTRIBUTION_EXAMPLE);
    if let Some(text) = &distribution_id {
        check_id(&format!("{path}.distribution_id"), text, table);
    }
    let endpoint = table.entry("endpoint").and_then(|entry| {
        let text = entry.text()?.value;
        check_base(&entry, &text);
        Some(text)
    });
    let paths_per_month = table
        .entry("paths_per_month")
        .and_then(|entry| super::whole_number(&entry, 1, u32::MAX))
        .map(u64::from);
    CloudFrontConfig {
        distribution_id: distribution_id.map(|text| text.value).unwrap_or_default(),
        endpoint,
        paths_per_month,
    }
}
