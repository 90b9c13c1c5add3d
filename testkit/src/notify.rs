//! A service manager's notification socket, as sd_notify(3) describes it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The socket: takes what comes, until it is dropped.
#[derive(Debug)]
pub struct NotifySocket {
    path: PathBuf,
    heard: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl NotifySocket {
    /// Listens at `path`.
    ///
    /// # Panics
    ///
    /// When it cannot.
    #[track_caller]
    pub fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let worker = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = socket.recv(&mut buffer) {
                // Its own word for the end; everybody else's messages are fields.
                if count == 0 {
                    break;
                }
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let mut heard = worker.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push((Instant::now(), text));
            }
        });
        NotifySocket { path: path.to_owned(), heard }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every message, each with the lines that it has, in the order in which they came.
    pub fn heard(&self) -> Vec<(Instant, String)> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many messages have this line.
    pub fn count(&self, line: &str) -> usize {
        self.heard().iter().filter(|(_, text)| text.lines().any(|found| found == line)).count()
    }

    /// What was said last in lines that begin so.
    pub fn last(&self, start: &str) -> Option<String> {
        let heard = self.heard();
        let mut lines = heard.iter().rev().flat_map(|(_, text)| text.lines());
        lines.find_map(|line| line.strip_prefix(start)).map(str::to_owned)
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        if let Ok(socket) = UnixDatagram::unbound() {
            let _ = socket.send_to(b"", &self.path);
        }
    }
}
