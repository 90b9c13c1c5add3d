//! A TCP proxy that breaks connections on request.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Forwards one port to another; its threads end on drop.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    listening: Listening,
    stalled: bool,
    /// Whether nothing of the server's passes.
    muted: bool,
    /// How many bytes from the server may still pass before all connections are cut.
    bytes_left: Option<u64>,
    /// Both sockets of every connection, by number.
    connections: Vec<(u64, [TcpStream; 2])>,
    accepted: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listening {
    Accept,
    Refuse,
    End,
}

impl Proxy {
    /// Listens on a free port and forwards to `port` on 127.0.0.1.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    #[track_caller]
    pub fn to(port: u16) -> Self {
        let own = crate::free_port();
        let state = State {
            listening: Listening::Accept,
            stalled: false,
            muted: false,
            bytes_left: None,
            connections: Vec::new(),
            accepted: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let listener = TcpListener::bind(local(own)).expect("a free port");
        let worker = Arc::clone(&shared);
        thread::spawn(move || worker.serve(listener, local(port)));
        Self { port: own, shared }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections have come so far.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.lock().connections.len()
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.shared.lock().cut();
    }

    /// Closes every connection after `bytes` more from the server have passed.
    pub fn cut_after_bytes(&self, bytes: u64) {
        self.shared.lock().bytes_left = Some(bytes);
    }

    /// Lets nothing through, while connections stay open and new ones are taken.
    pub fn stall(&self) {
        self.shared.lock().stalled = true;
    }

    /// Lets requests through, and no answer.
    pub fn mute(&self) {
        self.shared.lock().muted = true;
    }

    /// Ends [`Proxy::stall`] and [`Proxy::mute`].
    pub fn resume(&self) {
        let mut state = self.shared.lock();
        state.stalled = false;
        state.muted = false;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Stops listening: a new connection is refused, open ones go on.
    pub fn refuse(&self) {
        self.set_listening(Listening::Refuse);
        crate::wait_until(
            "the proxy has stopped listening",
            std::time::Duration::from_secs(10),
            || TcpStream::connect(local(self.port)).is_err(),
        );
    }

    /// Listens again.
    pub fn accept(&self) {
        self.set_listening(Listening::Accept);
        crate::wait_until("the proxy listens", std::time::Duration::from_secs(10), || {
            TcpStream::connect(local(self.port)).is_ok()
        });
    }

    fn set_listening(&self, listening: Listening) {
        self.shared.lock().listening = listening;
        self.shared.changed.notify_all();
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect(local(self.port));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set_listening(Listening::End);
        self.resume();
        self.cut();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state is as `wanted`.
    fn wait(&self, wanted: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_while(self.lock(), |state| !wanted(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes connections until the end.
    fn serve(self: &Arc<Self>, first: TcpListener, server: SocketAddr) {
        let Ok(address) = first.local_addr() else { return };
        let mut listener = Some(first);
        loop {
            let wanted = self.lock().listening;
            match (wanted, &listener) {
                (Listening::End, _) => return,
                (Listening::Refuse, _) => {
                    listener = None;
                    drop(self.wait(|state| state.listening != Listening::Refuse));
                }
                (Listening::Accept, None) => listener = TcpListener::bind(address).ok(),
                (Listening::Accept, Some(open)) => {
                    let Ok((client, _)) = open.accept() else { continue };
                    if self.lock().listening == Listening::Accept {
                        // A server that is away closes the client's connection.
                        let _ = self.connect(client, server);
                    }
                }
            }
        }
    }

    /// Joins a client to the server and starts both directions.
    fn connect(self: &Arc<Self>, client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
        let server = TcpStream::connect(server)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut state = self.lock();
        state.accepted += 1;
        let number = state.accepted;
        state.connections.push((number, [client.try_clone()?, server.try_clone()?]));
        drop(state);
        let directions = [
            (client.try_clone()?, server.try_clone()?, Direction::ToServer),
            (server, client, Direction::ToClient),
        ];
        for (from, to, direction) in directions {
            let shared = Arc::clone(self);
            thread::spawn(move || {
                // Whatever ends one direction ends the connection.
                let _ = shared.forward(from, to, direction);
                shared.lock().close(number);
            });
        }
        Ok(())
    }

    fn forward(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        direction: Direction,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let is_answer = direction == Direction::ToClient;
            let mut state = self.wait(|state| !(state.stalled || state.muted && is_answer));
            let mut pass = count;
            if let (Direction::ToClient, Some(left)) = (direction, state.bytes_left) {
                pass = count.min(usize::try_from(left).unwrap_or(usize::MAX));
                state.bytes_left = Some(left - pass as u64);
            }
            drop(state);
            to.write_all(&buffer[..pass])?;
            if pass < count {
                let mut state = self.lock();
                state.bytes_left = None;
                state.cut();
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl State {
    fn cut(&mut self) {
        for (_, sockets) in self.connections.drain(..) {
            close(&sockets);
        }
    }

    fn close(&mut self, number: u64) {
        self.connections.retain(|(other, sockets)| {
            if *other == number {
                close(sockets);
            }
            *other != number
        });
    }
}

/// Closes both directions, for the threads that hold copies too.
fn close(sockets: &[TcpStream; 2]) {
    for socket in sockets {
        // One that the peer has closed already is closed.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
