//! A small HTTP/1.1 server that can hang, stall and cut its answers.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A request that came in.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path and query, as they were sent.
    pub target: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value; the last one if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().rev().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer without headers of its own.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Response { status, headers: Vec::new(), body: body.into() }
    }

    /// Adds a header.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// What goes wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is done, and the answer ends after half of it.
    CutReply,
    /// It is not done, and the connection is closed.
    Refuse,
    /// It is done, and no answer comes until the server is dropped.
    Hang,
    /// It is done, and the answer takes so long.
    Slow(Duration),
    /// It is not done, and this status comes back.
    Status(u16),
}

/// A server; its threads end on drop.
pub struct HttpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

type Handler = Box<dyn Fn(&Request) -> Response + Send + Sync>;

struct Shared {
    handler: Handler,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    faults: VecDeque<Fault>,
    /// What goes wrong with every request.
    lasting: Option<Fault>,
    connections: Vec<TcpStream>,
    is_over: bool,
}

impl HttpServer {
    /// Answers requests by `handler`, on a port that the system picks.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    #[track_caller]
    pub fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let handler = Box::new(handler);
        let shared = Arc::new(Shared { handler, state: Mutex::default() });
        let worker = Arc::clone(&shared);
        thread::spawn(move || worker.serve(&listener));
        HttpServer { address, shared }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Every request so far, failed ones included.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// How many requests there were so far, failed ones included.
    pub fn count(&self) -> usize {
        self.shared.lock().requests.len()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.shared.lock().requests.clear();
    }

    /// The next requests go wrong, each in its way.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.lock().faults.extend(faults);
    }

    /// Every request goes wrong, or none any more.
    pub fn fail_always(&self, fault: Option<Fault>) {
        self.shared.lock().lasting = fault;
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_over = true;
        for connection in state.connections.drain(..) {
            // One that the peer has closed already is closed.
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(state);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: &Arc<Self>, listener: &TcpListener) {
        for connection in listener.incoming() {
            let mut state = self.lock();
            if state.is_over {
                return;
            }
            let Ok(connection) = connection else { continue };
            if let Ok(copy) = connection.try_clone() {
                state.connections.push(copy);
            }
            let shared = Arc::clone(self);
            thread::spawn(move || {
                // Whatever goes wrong on a connection ends it.
                let _ = shared.converse(&connection);
                let _ = connection.shutdown(Shutdown::Both);
            });
        }
    }

    fn converse(&self, connection: &TcpStream) -> std::io::Result<()> {
        connection.set_nodelay(true)?;
        let mut reader = BufReader::new(connection.try_clone()?);
        let mut writer = connection.try_clone()?;
        while let Some(request) = read(&mut reader)? {
            let fault = {
                let mut state = self.lock();
                state.requests.push(request.clone());
                state.faults.pop_front().or_else(|| state.lasting.clone())
            };
            let response = match fault {
                Some(Fault::Refuse) => return Ok(()),
                Some(Fault::Status(status)) => Response::new(status, "no"),
                _ => (self.handler)(&request),
            };
            let bytes = written(&response);
            match fault {
                Some(Fault::CutReply) => return writer.write_all(&bytes[..bytes.len() - 1]),
                // The other side gives up, or the server is dropped.
                Some(Fault::Hang) => return reader.read(&mut [0]).map(drop),
                Some(Fault::Slow(wait)) => thread::sleep(wait),
                _ => {}
            }
            writer.write_all(&bytes)?;
        }
        Ok(())
    }
}

fn written(response: &Response) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} X\r\n", response.status);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = response.body.len();
    head.push_str(&format!("content-length: {length}\r\n\r\n"));
    [head.as_bytes(), &response.body].concat()
}

/// The next request; `None` at the end.
fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or_default().to_owned();
    let mut request = Request { method: word(), target: word(), ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok());
    request.body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}
