//! What does a Sentinel say of the server? The reply to SENTINEL MASTER, without I/O.

use crate::sinks::redis::wire::Reply;

/// What one Sentinel says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::sinks::redis) struct Answer {
    /// The server's address or name.
    pub(in crate::sinks::redis) host: String,
    /// Its port.
    pub(in crate::sinks::redis) port: u16,
    /// How many failovers its Sentinels have counted when they last made one.
    pub(in crate::sinks::redis) epoch: u64,
    /// How many replicas it knows.
    pub(in crate::sinks::redis) replicas: u64,
    /// How long the server must be silent before it counts as down, in milliseconds.
    pub(in crate::sinks::redis) down_after_ms: u64,
}

impl Answer {
    /// Reads what SENTINEL MASTER and SENTINEL GET-MASTER-ADDR-BY-NAME say.
    ///
    /// While a failover is under way the first has the new epoch and the old address already.
    pub(super) fn parse(master: Reply, address: Reply) -> Option<Answer> {
        let (Reply::Array(fields), Reply::Array(address)) = (master, address) else { return None };
        let mut answer = Answer::default();
        let mut texts = address.into_iter().map(text);
        answer.host = texts.next()??;
        answer.port = texts.next()??.parse().ok()?;
        // Names and values in turn; those that it does not know are left out.
        let mut fields = fields.into_iter();
        while let (Some(Reply::Bulk(name)), Some(value)) = (fields.next(), fields.next()) {
            let value = text(value)?;
            match &name[..] {
                b"config-epoch" => answer.epoch = value.parse().ok()?,
                b"num-slaves" => answer.replicas = value.parse().ok()?,
                b"down-after-milliseconds" => answer.down_after_ms = value.parse().ok()?,
                _ => {}
            }
        }
        (!answer.host.is_empty() && answer.port != 0).then_some(answer)
    }
}

fn text(reply: Reply) -> Option<String> {
    match reply {
        Reply::Bulk(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(fields: &[&str]) -> Reply {
        Reply::Array(fields.iter().map(|field| Reply::Bulk(field.as_bytes().to_vec())).collect())
    }

    #[test]
    fn the_epoch_is_read_by_its_name_and_the_address_from_the_other_reply() {
        let fields = ["name", "main", "ip", "old", "port", "7", "config-epoch", "3", "odd"];
        let expected = Answer { host: "::1".into(), port: 8, epoch: 3, ..Answer::default() };
        assert_eq!(Answer::parse(reply(&fields), reply(&["::1", "8"])), Some(expected));
    }

    #[test]
    fn nonsense_is_no_answer() {
        for address in [&[][..], &["h"], &["", "7"], &["h", "0"], &["h", "70000"], &["h", "x"]] {
            assert_eq!(Answer::parse(reply(&[]), reply(address)), None, "{address:?}");
        }
        assert_eq!(Answer::parse(Reply::Int(1), reply(&["h", "7"])), None);
        assert_eq!(Answer::parse(reply(&["name", "main"]), Reply::Nil), None);
        assert_eq!(Answer::parse(reply(&["config-epoch", "x"]), reply(&["h", "7"])), None);
    }
}
