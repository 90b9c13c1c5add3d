//! Clients that are broken, slow or too many.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use testkit::wait_until;

use super::http::{address, ask_tcp, socket};
use super::{get, start, world};
use crate::world::{PATIENCE, World};

/// A world with a TCP address, and its address.
fn open_world() -> (World, String) {
    let mut world = world();
    world.edit("[postgres]", "[admin]\nlisten = \"127.0.0.1:0\"\n[postgres]");
    start(&mut world);
    world.wait_for_log("the admin endpoint listens address=");
    let address = address(&world);
    (world, address)
}

/// What comes back for these bytes, until the daemon closes the connection.
fn send(world: &World, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket(world)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed before all of it is written.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn garbage_is_refused_and_does_no_harm() {
    let mut world = world();
    start(&mut world);
    assert!(send(&world, b"\x00\xff\x13garbage\r\n\r\n").starts_with("HTTP/1.1 400"));
    let long = [b"GET /".as_slice(), &[b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n"].concat();
    let refused = send(&world, &long);
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 4"), "{refused}");
    let post =
        b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\nbody";
    assert!(send(&world, post).starts_with("HTTP/1.1 405"));
    let head = send(&world, b"HEAD /status HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(
        send(&world, b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .starts_with("HTTP/1.1 404")
    );
    let filter = b"GET /tail?key=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(send(&world, filter).starts_with("HTTP/1.1 400"));
    assert_eq!(get(&world, "/livez"), "alive\n");
    world.stop();
}

#[test]
fn a_client_that_never_asks_is_disconnected() {
    let (mut world, address) = open_world();
    let mut silent = TcpStream::connect(&address).unwrap();
    let mut slow = TcpStream::connect(&address).unwrap();
    slow.write_all(b"GET /metr").unwrap();
    for stream in [&mut silent, &mut slow] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
    }
    world.stop();
}

#[test]
fn a_thousand_connections_hold_up_neither_the_stream_nor_the_socket() {
    let (mut world, address) = open_world();
    world.fill(&["key:1", "key:2"]);
    let mut flood = Vec::new();
    for _ in 0..1000 {
        // The machine may refuse some itself.
        flood.extend(TcpStream::connect(&address));
    }
    assert!(flood.len() > 500, "only {} connections", flood.len());
    world.sql("UPDATE t SET n = 1 WHERE id = 1");
    world.wait_gone(&["key:1"]);
    assert_eq!(get(&world, "/livez"), "alive\n");
    let pid = world.daemon.as_ref().unwrap().pid();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(descriptors < 150, "{descriptors} open files");
    drop(flood);
    let is_served = || ask_tcp(&address, "/metrics", None).is_some_and(|got| got.is_ok());
    wait_until("others are served again", PATIENCE + Duration::from_secs(10), is_served);
    world.sql("UPDATE t SET n = 1 WHERE id = 2");
    world.wait_gone(&["key:2"]);
    world.stop();
}
