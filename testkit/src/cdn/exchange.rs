//! One request over a connection of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};

use super::server::{Request, Response};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Sends a request to a port of this machine and returns the answer. Of its headers, those that
/// belong to the connection are left out, as a proxy does.
///
/// # Errors
///
/// When nobody listens, or no answer comes.
pub fn exchange(port: u16, request: &Request) -> Result<Response> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    let length = request.body.len();
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    head.push_str(&format!("connection: close\r\ncontent-length: {length}\r\n"));
    if request.header("host").is_none() {
        head.push_str("host: localhost\r\n");
    }
    for (name, value) in request.headers.iter().filter(|(name, _)| !is_of_connection(name)) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    socket.write_all(&[head.as_bytes(), b"\r\n", &request.body].concat())?;

    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).context("no status")?.parse()?;
    let mut response = Response { status, ..Response::default() };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "content-length" => length = value.parse()?,
            name if is_of_connection(name) => {}
            _ => response.headers.push((name, value.to_owned())),
        }
    }
    response.body = vec![0; length];
    reader.read_exact(&mut response.body)?;
    Ok(response)
}

fn is_of_connection(name: &str) -> bool {
    matches!(name, "connection" | "content-length" | "keep-alive")
}
