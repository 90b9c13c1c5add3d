//! How are requests written and replies read? Redis' protocol RESP2, without I/O.
//!
//! A [`Request`] packs any number of commands into one reused buffer, with no allocation for a
//! key. [`parse`] takes one reply from the front of what has arrived; "not all here yet" is a
//! value, not an error. Layout: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

/// The most bytes that one reply may have. The largest that walpurge asks for, a page of
/// about 1,000 keys, is far below; beyond it the peer is no Redis, or its keys are absurd.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// How deep arrays may nest. `EXEC` around `SSCAN` would be three.
const DEPTH_MAX: usize = 4;

/// Commands that go out together.
#[derive(Default)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Starts a command of `args` arguments, its name counted.
    pub(super) fn command(&mut self, name: &str, args: usize) -> &mut Self {
        self.header(b'*', args);
        self.arg(name.as_bytes())
    }

    /// Adds an argument.
    pub(super) fn arg(&mut self, arg: &[u8]) -> &mut Self {
        self.arg_joined(&[arg])
    }

    /// Adds arguments.
    pub(super) fn args<'a>(&mut self, args: impl IntoIterator<Item = &'a [u8]>) -> &mut Self {
        for arg in args {
            self.arg(arg);
        }
        self
    }

    /// Adds an argument that is its parts joined: a key is a prefix and a value.
    pub(super) fn arg_joined(&mut self, parts: &[&[u8]]) -> &mut Self {
        self.header(b'$', parts.iter().map(|part| part.len()).sum());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.extend_from_slice(b"\r\n");
        self
    }

    /// Adds a command of which all arguments are at hand.
    pub(super) fn simple(&mut self, args: &[&[u8]]) -> &mut Self {
        self.header(b'*', args.len());
        for arg in args {
            self.arg(arg);
        }
        self
    }

    /// Adds commands that another request holds.
    pub(super) fn add_written(&mut self, commands: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(commands);
        self
    }

    /// What to put on the wire.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Empties the request and keeps its memory, unless a rare giant made that large.
    pub(super) fn clear(&mut self) {
        const KEPT_BYTES_MAX: usize = 1 << 20;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
    }

    fn header(&mut self, kind: u8, count: usize) {
        self.bytes.push(kind);
        push_decimal(&mut self.bytes, count as u64);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// Appends `number` in decimal, without the allocation of `to_string`.
pub(super) fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// What the server answered to one command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// `+OK` and its like.
    Status(String),
    /// `-CODE text`.
    Error(String),
    /// `:1`.
    Int(i64),
    /// A binary string.
    Bulk(Vec<u8>),
    /// The absent value, of a string or of an array.
    Nil,
    /// `*2`.
    Array(Vec<Reply>),
}

impl Reply {
    /// The number that an integer reply carries.
    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Reply::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The number of things out of at most `max` that an integer reply carries.
    pub(super) fn count(&self, max: usize) -> Option<u64> {
        self.int().and_then(|int| u64::try_from(int).ok()).filter(|&count| count <= max as u64)
    }
}

/// The peer's bytes are no RESP2.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reply is not Redis' protocol: {0}")]
pub(super) struct ProtocolError(pub(super) &'static str);

/// Takes the first reply of `input`: the reply and its length, or `None` if more must arrive.
pub(super) fn parse(input: &[u8]) -> Result<Option<(Reply, usize)>, ProtocolError> {
    // Measured first and built only when complete: a large page that arrives in pieces would
    // otherwise allocate its keys again with each piece.
    match measure(input, 0, 0)? {
        None if input.len() > REPLY_BYTES_MAX => Err(ProtocolError("too long")),
        None => Ok(None),
        Some(end) => {
            let mut at = 0;
            let reply = build(input, &mut at, 0)?;
            Ok(Some((reply, end)))
        }
    }
}

/// Where the reply that starts at `at` ends.
fn measure(input: &[u8], at: usize, depth: usize) -> Result<Option<usize>, ProtocolError> {
    let Some((kind, rest, line_end)) = line(input, at)? else { return Ok(None) };
    match kind {
        b'+' | b'-' => Ok(Some(line_end)),
        b':' => number(rest).map(|_| Some(line_end)),
        b'$' => match length(rest)? {
            None => Ok(Some(line_end)),
            Some(length) => {
                let end = line_end + length + 2;
                Ok((end <= input.len()).then_some(end))
            }
        },
        b'*' => {
            if depth == DEPTH_MAX {
                return Err(ProtocolError("arrays nest too deep"));
            }
            let mut end = line_end;
            for _ in 0..length(rest)?.unwrap_or(0) {
                match measure(input, end, depth + 1)? {
                    Some(element_end) => end = element_end,
                    None => return Ok(None),
                }
            }
            Ok(Some(end))
        }
        _ => Err(ProtocolError("unknown type")),
    }
}

/// Builds the reply at `at`, which [`measure`] found complete, and moves `at` behind it.
fn build(input: &[u8], at: &mut usize, depth: usize) -> Result<Reply, ProtocolError> {
    const INCOMPLETE: ProtocolError = ProtocolError("incomplete");
    let (kind, rest, line_end) = line(input, *at)?.ok_or(INCOMPLETE)?;
    *at = line_end;
    Ok(match kind {
        b'+' => Reply::Status(String::from_utf8_lossy(rest).into_owned()),
        b'-' => Reply::Error(String::from_utf8_lossy(rest).into_owned()),
        b':' => Reply::Int(number(rest)?),
        b'$' => match length(rest)? {
            None => Reply::Nil,
            Some(length) => {
                let bytes = input.get(line_end..line_end + length).ok_or(INCOMPLETE)?;
                *at = line_end + length + 2;
                Reply::Bulk(bytes.to_vec())
            }
        },
        b'*' => match length(rest)? {
            None => Reply::Nil,
            Some(length) if depth < DEPTH_MAX => {
                let elements = (0..length).map(|_| build(input, at, depth + 1));
                Reply::Array(elements.collect::<Result<_, _>>()?)
            }
            Some(_) => return Err(ProtocolError("arrays nest too deep")),
        },
        _ => return Err(ProtocolError("unknown type")),
    })
}

/// A line's type, what follows that, and where the next line starts.
type Line<'a> = (u8, &'a [u8], usize);

/// The line that starts at `at`, if all of it has arrived.
fn line(input: &[u8], at: usize) -> Result<Option<Line<'_>>, ProtocolError> {
    /// Server errors are the longest lines, and Redis cuts them far earlier.
    const LINE_BYTES_MAX: usize = 64 << 10;
    let Some(tail) = input.get(at..).filter(|tail| !tail.is_empty()) else { return Ok(None) };
    let Some(newline) = memchr::memchr(b'\n', tail) else {
        return if tail.len() > LINE_BYTES_MAX {
            Err(ProtocolError("a line does not end"))
        } else {
            Ok(None)
        };
    };
    match tail[..newline].strip_suffix(b"\r").and_then(<[u8]>::split_first) {
        Some((&kind, rest)) => Ok(Some((kind, rest, at + newline + 1))),
        None => Err(ProtocolError("an empty line")),
    }
}

fn number(digits: &[u8]) -> Result<i64, ProtocolError> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(ProtocolError("not a number"))
}

/// A length; −1 stands for the absent value.
fn length(digits: &[u8]) -> Result<Option<usize>, ProtocolError> {
    match number(digits)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= REPLY_BYTES_MAX => Ok(Some(length)),
            _ => Err(ProtocolError("a length out of range")),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(input in "([*$:+-]?-?[0-9]{0,3}(\r\n)?|[^a]{0,3}){0,20}") {
            let _ = parse(input.as_bytes());
        }

        #[test]
        fn an_argument_is_one_whatever_it_holds(
            args in prop::collection::vec(
                prop::collection::vec(
                    prop::sample::select(&b"a\r\n$*1-\0\xff \""[..]), 0..9), 1..5),
        ) {
            let mut request = Request::default();
            request.simple(&args.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let length = request.bytes().len();
            let expected = Reply::Array(args.into_iter().map(Reply::Bulk).collect());
            prop_assert_eq!(parse(request.bytes()), Ok(Some((expected, length))));
        }
    }

    #[test]
    fn a_request_is_an_array_of_counted_strings() {
        let mut request = Request::default();
        request.command("UNLINK", 3).arg(b"a\r\n").arg_joined(&[b"p:", b"\xff"]);
        request.simple(&[b"PING"]);
        let expected = b"*3\r\n$6\r\nUNLINK\r\n$3\r\na\r\n\r\n$3\r\np:\xff\r\n*1\r\n$4\r\nPING\r\n";
        assert_eq!(request.bytes(), expected);
        request.clear();
        assert_eq!(request.bytes(), b"");
    }

    #[test]
    fn a_reply_is_taken_only_when_all_of_it_has_arrived() {
        let input = b"*4\r\n$2\r\n1\n\r\n*2\r\n+OK\r\n-ERR no\r\n$-1\r\n:-7\r\n+next";
        let reply = Reply::Array(vec![
            Reply::Bulk(b"1\n".to_vec()),
            Reply::Array(vec![Reply::Status("OK".into()), Reply::Error("ERR no".into())]),
            Reply::Nil,
            Reply::Int(-7),
        ]);
        let end = input.len() - b"+next".len();
        for cut in 0..end {
            assert_eq!(parse(&input[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(parse(input), Ok(Some((reply, end))));
    }

    #[test]
    fn what_is_no_redis_is_an_error_and_no_panic() {
        let nested = b"*1\r\n".repeat(100);
        for input in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b":x\r\n",
            b"$-2\r\n",
            b"$99999999999999999999\r\n",
            b"*9223372036854775807\r\n",
            &nested,
            &vec![b'+'; 1 << 20],
        ] {
            assert!(
                parse(input).is_err(),
                "{:?}",
                String::from_utf8_lossy(&input[..9.min(input.len())])
            );
        }
    }
}
