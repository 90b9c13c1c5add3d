//! A client of a few lines, that can also misbehave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::world::World;

const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug)]
pub struct Got {
    pub code: u16,
    pub body: String,
}

impl Got {
    pub fn is_ok(&self) -> bool {
        self.code == 200
    }
}

pub fn socket(world: &World) -> PathBuf {
    world.runtime.as_ref().unwrap().join("admin.sock")
}

/// The daemon's TCP address, from its log.
pub fn address(world: &World) -> String {
    let log = world.log();
    let (_, rest) = log.split_once("the admin endpoint listens address=").unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

/// Asks through the socket; `None`: nobody answers.
pub fn ask(world: &World, path: &str) -> Option<Got> {
    ask_socket(&socket(world), path)
}

pub fn ask_socket(socket: &Path, path: &str) -> Option<Got> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    exchange(stream, path, None)
}

pub fn ask_tcp(address: &str, path: &str, token: Option<&str>) -> Option<Got> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    exchange(stream, path, token)
}

/// Sends a request.
pub fn request(stream: &mut impl Write, path: &str, token: Option<&str>) -> std::io::Result<()> {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n").as_bytes())
}

fn exchange(mut stream: impl Read + Write, path: &str, token: Option<&str>) -> Option<Got> {
    request(&mut stream, path, token).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some(Got { code, body: body.to_owned() })
}

/// The value of the first metric whose line begins so.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}
