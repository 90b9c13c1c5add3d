//! How are the bytes inside a backend message read without trusting them?
//!
//! A cursor that answers `None` past the end, and the one layout that several messages share:
//! the fields of ErrorResponse and NoticeResponse. Pure: no I/O, and nothing here can panic on
//! what a server sent.

use std::fmt;

use crate::lsn::Lsn;

/// The most of a server's text that is kept: messages are read by people.
const TEXT_BYTES_MAX: usize = 2048;

/// Reads integers and strings off the front of a slice.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn lsn(&mut self) -> Option<Lsn> {
        self.array().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// A string up to its terminating zero byte. Servers speak UTF-8 to us, except before the
    /// client encoding is settled, so anything else is replaced and not refused.
    pub(crate) fn text(&mut self) -> Option<std::borrow::Cow<'a, str>> {
        let end = memchr::memchr(0, self.0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(String::from_utf8_lossy(text))
    }
}

/// What a server reported: an ErrorResponse, or the same fields of a NoticeResponse.
///
/// The detail is left out, since Postgres puts row values there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `WARNING`, … never translated.
    pub severity: String,
    /// Five characters, as in Appendix A of Postgres' manual.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// What the server suggests.
    pub hint: Option<String>,
    /// The function of the server's source that reports it; never translated.
    pub routine: String,
    /// Where logical decoding was, if the server said so: the LSN that an output plugin's
    /// callback was called with.
    pub associated_lsn: Option<Lsn>,
}

/// A NoticeResponse, which the stream delivers in its place between the changes.
pub type Notice = ServerError;

impl ServerError {
    /// Reads the body of an ErrorResponse or NoticeResponse; what is missing stays empty.
    pub(crate) fn parse(body: &[u8]) -> ServerError {
        let mut error = ServerError::default();
        let mut cursor = Cursor(body);
        while let Some(code) = cursor.u8() {
            if code == 0 {
                break;
            }
            let Some(text) = cursor.text() else { break };
            match code {
                // `V` is `S` untranslated, sent since 9.6; it comes after `S` and replaces it.
                b'S' | b'V' => error.severity = capped(&text),
                b'C' => error.sqlstate = capped(&text),
                b'M' => error.message = capped(&text),
                b'H' => error.hint = Some(capped(&text)),
                b'R' => error.routine = capped(&text),
                b'W' => error.associated_lsn = associated_lsn(&text),
                _ => {}
            }
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)
    }
}

impl std::error::Error for ServerError {}

fn capped(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_string()
}

/// `slot "s", output plugin "p", in the change callback, associated LSN 0/16B3748`, as
/// `output_plugin_error_callback` of Postgres' logical.c writes it. The prefix is localised, so
/// the LSN is taken from the last word of a line.
fn associated_lsn(context: &str) -> Option<Lsn> {
    context.lines().filter_map(|line| line.rsplit(' ').next()).find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_of_an_error() {
        let body = b"SFEHLER\0VERROR\0C55006\0Mslot \"s\" is active for PID 7\0Dsecret row\0\
            RReplicationSlotAcquire\0Wslot \"s\", output plugin \"p\", in the change callback, associated LSN 0/16B3748\0\0";
        let error = ServerError::parse(body);
        assert_eq!(error.severity, "ERROR");
        assert_eq!(error.sqlstate, "55006");
        assert_eq!(error.message, "slot \"s\" is active for PID 7");
        assert_eq!(error.routine, "ReplicationSlotAcquire");
        assert_eq!(error.associated_lsn, Some(Lsn(0x16B3748)));
        assert!(!format!("{error} {error:?}").contains("secret"), "details may hold row values");
    }

    #[test]
    fn caps_what_it_keeps_at_a_character() {
        let mut body = vec![b'M'];
        body.extend("é".repeat(TEXT_BYTES_MAX).bytes());
        body.push(b'x');
        body.extend([0, 0]);
        let error = ServerError::parse(&body);
        assert_eq!(error.message.len(), TEXT_BYTES_MAX);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(body: Vec<u8>) {
            ServerError::parse(&body);
        }
    }
}
