//! Which server is this, and is it a master? Read from INFO, without I/O.

/// What INFO's section `replication` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) is_master: bool,
    /// The id of the history of its writes: another one after each restart and each promotion. A
    /// replica has its master's.
    pub(super) history: Option<String>,
}

impl Identity {
    /// Reads `name:value` lines.
    pub(super) fn parse(info: &str) -> Identity {
        let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
        let history = value("master_replid:").map(str::trim).filter(|id| !id.is_empty());
        Identity {
            is_master: value("role:").is_none_or(|role| role.trim() == "master"),
            history: history.map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_and_history_are_read_from_their_lines() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:8f3a\r\n\
                    master_replid2:0000\r\n";
        let expected = Identity { is_master: true, history: Some("8f3a".into()) };
        assert_eq!(Identity::parse(info), expected);
        assert!(!Identity::parse("role:slave\r\nmaster_host:h\r\n").is_master);
        assert_eq!(Identity::parse("").history, None);
    }
}
