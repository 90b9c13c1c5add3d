//! The credentials that a file names, and how one has them without a unit.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The file that is read where none is named.
const USUAL_FILE: &str = "/etc/walpurge/config.toml";

/// The credentials of one file. Clones are of the same, so that one that is missing can be told
/// with all the others that are needed beside it.
#[derive(Clone, Debug)]
pub(super) struct Credentials(Arc<Named>);

#[derive(Debug)]
struct Named {
    file: PathBuf,
    names: Mutex<BTreeSet<String>>,
}

impl Credentials {
    /// Those of `file`, none of which is known yet.
    pub(super) fn of(file: &str) -> Self {
        Credentials(Arc::new(Named { file: file.into(), names: Mutex::default() }))
    }

    /// Takes one more.
    pub(super) fn note(&self, name: &str) {
        let mut names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.to_owned());
    }

    /// The command that checks the file with all of them, as a unit has them (systemd-run(1)).
    pub(super) fn by_hand(&self) -> String {
        let names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = names.iter().map(|name| {
            let file = stored(name);
            format!(" --property={}", quoted(&format!("LoadCredential={name}:{file}")))
        });
        let loaded: String = loaded.collect();
        // The new unit has a working directory of its own.
        let file = std::path::absolute(&self.0.file).unwrap_or_else(|_| self.0.file.clone());
        let config = match file == Path::new(USUAL_FILE) {
            true => String::new(),
            false => format!(" --config {}", quoted(&file.display().to_string())),
        };
        format!("systemd-run --pipe --wait --collect --uid=walpurge{loaded} walpurge check{config}")
    }
}

/// Where `systemd/README.md` keeps a credential.
pub(super) fn stored(name: &str) -> String {
    format!("/etc/walpurge/{name}.token")
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-=:@+,".contains(&byte);
    match word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_every_credential_and_the_file() {
        let credentials = Credentials::of(USUAL_FILE);
        credentials.note("redis url");
        credentials.note("fastly");
        assert_eq!(
            credentials.by_hand(),
            "systemd-run --pipe --wait --collect --uid=walpurge \
             --property=LoadCredential=fastly:/etc/walpurge/fastly.token \
             --property='LoadCredential=redis url:/etc/walpurge/redis url.token' walpurge check"
        );
        let other = Credentials::of("/etc/walpurge/it's.toml").by_hand();
        assert!(
            other.ends_with(r"walpurge check --config '/etc/walpurge/it'\''s.toml'"),
            "{other}"
        );
    }
}
