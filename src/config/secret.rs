//! A string that may be kept outside the configuration file, and that is never shown.

use std::io::Read;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::credentials::{Credentials, stored};

/// The most that a secret's file may hold, in bytes: a URL or a token is far shorter, and a wrong
/// path must not fill the memory.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A string value that is used only by commands that need it: where it comes from.
///
/// `Debug` shows the key and the place, never the string.
#[derive(Clone, Debug)]
pub struct Secret {
    key: String,
    origin: Origin,
}

/// Where a string comes from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// It stands in the file.
    Literal(SecretString),
    /// An environment variable.
    Env(String),
    /// A file's contents, without one newline at the end.
    File(PathBuf),
    /// A file of `$CREDENTIALS_DIRECTORY`, which systemd provides to a unit.
    Credential(String, Credentials),
}

impl Secret {
    /// A secret that is known already, for the key path `key`.
    pub fn literal(key: impl Into<String>, value: impl AsRef<str>) -> Self {
        Secret::new(key, Origin::Literal(value.as_ref().into()))
    }

    pub(super) fn new(key: impl Into<String>, origin: Origin) -> Self {
        Secret { key: key.into(), origin }
    }

    /// The key path, as in `redis.cache.url`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Fetches the string.
    ///
    /// # Errors
    /// When the place does not hold it; the error names the key and the place, not the string.
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        match &self.origin {
            Origin::Literal(value) => Ok(value.clone()),
            _ => self.resolve_text().map(SecretString::from),
        }
    }

    /// The string if it stands in the file.
    pub(super) fn in_file(&self) -> Option<&str> {
        match &self.origin {
            Origin::Literal(value) => Some(value.expose_secret()),
            _ => None,
        }
    }

    /// The string, for values that are no secret.
    pub(super) fn resolve_text(&self) -> Result<String, SecretError> {
        let key = || self.key.clone();
        match &self.origin {
            Origin::Literal(value) => Ok(value.expose_secret().to_owned()),
            Origin::Env(name) => match std::env::var(name) {
                Ok(value) => Ok(value),
                Err(std::env::VarError::NotPresent) => {
                    Err(SecretError::NoVariable { key: key(), name: name.clone() })
                }
                Err(std::env::VarError::NotUnicode(_)) => {
                    let place = format!("environment variable `{name}`");
                    Err(SecretError::NotUtf8 { key: key(), place })
                }
            },
            Origin::File(path) => self.read(path),
            Origin::Credential(name, all) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(directory) => match Path::new(&directory).join(name) {
                    path if path.exists() => self.read(&path),
                    _ => Err(SecretError::NotLoaded { key: key(), name: name.clone() }),
                },
                None => {
                    let by_hand = all.by_hand();
                    Err(SecretError::NoCredentials { key: key(), name: name.clone(), by_hand })
                }
            },
        }
    }

    fn read(&self, path: &Path) -> Result<String, SecretError> {
        let key = || self.key.clone();
        let unreadable =
            |source| SecretError::Unreadable { key: key(), path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > SECRET_BYTES_MAX {
            return Err(SecretError::TooLarge { key: key(), path: path.to_owned() });
        }
        let mut text = String::from_utf8(bytes).map_err(|_| SecretError::NotUtf8 {
            key: key(),
            place: format!("file `{}`", path.display()),
        })?;
        // Editors and `echo` end a file with a newline that nobody means; a second one is meant.
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

/// Why a string that is kept outside the file cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment variable is not set.
    #[error("`{key}`: environment variable `{name}` is not set")]
    NoVariable {
        /// The key path.
        key: String,
        /// The variable.
        name: String,
    },
    /// There is no `$CREDENTIALS_DIRECTORY`.
    #[error("`{key}`: credential `{name}`: $CREDENTIALS_DIRECTORY is not set")]
    NoCredentials {
        /// The key path.
        key: String,
        /// The credential.
        name: String,
        /// The command that checks the configuration with it.
        by_hand: String,
    },
    /// There is a `$CREDENTIALS_DIRECTORY`, and it is not in there.
    #[error("`{key}`: credential `{name}`: the unit does not load it")]
    NotLoaded {
        /// The key path.
        key: String,
        /// The credential.
        name: String,
    },
    /// The file cannot be read.
    #[error("`{key}`: cannot read file `{}`", path.display())]
    Unreadable {
        /// The key path.
        key: String,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is too large for a secret.
    #[error("`{key}`: file `{}` is larger than {SECRET_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The key path.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// What is there is not text.
    #[error("`{key}`: {place} does not hold UTF-8")]
    NotUtf8 {
        /// The key path.
        key: String,
        /// The place.
        place: String,
    },
}

impl SecretError {
    /// What mends it.
    pub fn hint(&self) -> String {
        match self {
            SecretError::NoVariable { name, .. } => {
                format!("set {name} for walpurge, in a unit with Environment= or EnvironmentFile=")
            }
            SecretError::NoCredentials { by_hand, .. } => {
                format!("systemd sets it for units with LoadCredential=; by hand: {by_hand}")
            }
            SecretError::NotLoaded { name, .. } => format!(
                "LoadCredential={name}:{} in the unit's [Service]: systemctl edit walpurge",
                stored(name)
            ),
            SecretError::Unreadable { path, .. } => {
                format!("the user that runs walpurge must be able to read {}", path.display())
            }
            SecretError::TooLarge { .. } | SecretError::NotUtf8 { .. } => {
                "it must hold the plain string and nothing else".to_owned()
            }
        }
    }

    /// The error and its cause in one line.
    pub(super) fn to_line(&self) -> String {
        match self {
            SecretError::Unreadable { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}
