//! Why there is no configuration.

use std::path::PathBuf;

use super::{FILE_BYTES_MAX, Source, Style, render};
use crate::problem::Problem;

/// Why [`load`](super::load) has no configuration to give. All of it is exit code 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is larger than [`FILE_BYTES_MAX`].
    #[error("the configuration file `{}` is larger than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not text.
    #[error("the configuration file `{}` is not UTF-8 (at byte {byte})", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first byte that is not.
        byte: usize,
    },
    /// The file has problems; [`ConfigError::render`] shows them.
    #[error("the configuration file `{}` has {}", source_text.name, count(problems.len()))]
    Invalid {
        /// The file.
        source_text: Source,
        /// What is wrong in it, sorted by position.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// The error for people: every problem with its place, or one line and its cause.
    pub fn render(&self, style: Style) -> String {
        match self {
            ConfigError::Invalid { source_text, problems } => render(source_text, problems, style),
            ConfigError::Unreadable { source, .. } => format!("error: {self}: {source}\n"),
            ConfigError::TooLarge { .. } | ConfigError::NotUtf8 { .. } => {
                format!("error: {self}\n")
            }
        }
    }
}

/// "1 problem", "3 problems".
pub(super) fn count(problems: usize) -> String {
    match problems {
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    }
}
