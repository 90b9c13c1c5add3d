//! Redis' protocol, version 2, over a Unix socket: just enough for a test.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long a reply may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A reply; its `Display` is its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status such as `OK`.
    Simple(String),
    /// An error, with its code in front.
    Error(String),
    /// An integer.
    Int(i64),
    /// A string of bytes, or nil.
    Bulk(Option<Vec<u8>>),
    /// Several replies, or nil.
    Array(Option<Vec<Reply>>),
}

impl Reply {
    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) | Self::Error(text) => f.write_str(text),
            Self::Int(number) => write!(f, "{number}"),
            Self::Bulk(bytes) => {
                f.write_str(&String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()))
            }
            Self::Array(items) => {
                for (index, item) in items.iter().flatten().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{item}")?;
                }
                Ok(())
            }
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the server behind a Unix socket.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// How long a reply may take; `None`: for ever.
    ///
    /// # Errors
    ///
    /// When `timeout` is zero.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        Ok(self.stream.get_ref().set_read_timeout(timeout)?)
    }

    /// Runs one command.
    ///
    /// # Errors
    ///
    /// When the connection breaks; an error reply is a [`Reply::Error`].
    pub fn cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply> {
        let mut request = Vec::new();
        encode(&mut request, args);
        self.stream.get_mut().write_all(&request).context("cannot send to redis")?;
        self.read_reply()
    }

    /// Runs many commands with one round trip a thousand; errors are replies.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Result<Vec<Reply>> {
        let mut replies = Vec::with_capacity(commands.len());
        for chunk in commands.chunks(1000) {
            let mut request = Vec::new();
            for args in chunk {
                encode(&mut request, args);
            }
            self.stream.get_mut().write_all(&request).context("cannot send to redis")?;
            for _ in chunk {
                replies.push(self.read_reply()?);
            }
        }
        Ok(replies)
    }

    /// Reads the next reply, or the next message after SUBSCRIBE or MONITOR.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or nothing comes before the timeout.
    pub fn read_reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("no reply from redis")?;
        let Some(line) = line.strip_suffix("\r\n") else { bail!("redis closed the connection") };
        let (Some(kind), Some(rest)) = (line.get(..1), line.get(1..)) else {
            bail!("an empty reply from redis");
        };
        Ok(match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(rest.parse()?),
            "$" if rest == "-1" => Reply::Bulk(None),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bulk(Some(bytes))
            }
            "*" if rest == "-1" => Reply::Array(None),
            "*" => Reply::Array(Some(
                (0..rest.parse::<usize>()?).map(|_| self.read_reply()).collect::<Result<_>>()?,
            )),
            _ => bail!("redis sent an unknown kind of reply: {line}"),
        })
    }
}

/// Appends one command.
fn encode<A: AsRef<[u8]>>(request: &mut Vec<u8>, args: &[A]) {
    request.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        request.extend_from_slice(arg);
        request.extend_from_slice(b"\r\n");
    }
}
