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
    /// Reads names and values in turn; names that it does not know are left out.
    pub(super) fn parse(reply: Reply) -> Option<Answer> {
        let Reply::Array(fields) = reply else { return None };
        let (mut answer, mut has_host) = (Answer::default(), false);
        let mut fields = fields.into_iter();
        while let (Some(Reply::Bulk(name)), Some(Reply::Bulk(value))) =
            (fields.next(), fields.next())
        {
            let value = String::from_utf8(value).ok()?;
            match &name[..] {
                b"ip" => (answer.host, has_host) = (value, true),
                b"port" => answer.port = value.parse().ok()?,
                b"config-epoch" => answer.epoch = value.parse().ok()?,
                b"num-slaves" => answer.replicas = value.parse().ok()?,
                b"down-after-milliseconds" => answer.down_after_ms = value.parse().ok()?,
                _ => {}
            }
        }
        (has_host && !answer.host.is_empty() && answer.port != 0).then_some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(fields: &[&str]) -> Reply {
        Reply::Array(fields.iter().map(|field| Reply::Bulk(field.as_bytes().to_vec())).collect())
    }

    #[test]
    fn fields_are_read_by_their_names() {
        let fields = ["name", "main", "ip", "::1", "port", "7", "config-epoch", "3", "odd"];
        let expected = Answer { host: "::1".into(), port: 7, epoch: 3, ..Answer::default() };
        assert_eq!(Answer::parse(reply(&fields)), Some(expected));
    }

    #[test]
    fn nonsense_is_no_answer() {
        for fields in [&[][..], &["ip", "h"], &["port", "7"], &["ip", "", "port", "7"]] {
            assert_eq!(Answer::parse(reply(fields)), None, "{fields:?}");
        }
        assert_eq!(Answer::parse(reply(&["ip", "h", "port", "70000"])), None);
        assert_eq!(Answer::parse(Reply::Int(1)), None);
    }
}
