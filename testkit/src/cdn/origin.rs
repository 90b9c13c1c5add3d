//! An application behind an edge: it reads through Redis, as cache-aside reads do.

use std::sync::{Mutex, PoisonError};

use super::server::{HttpServer, Response};
use crate::redis::{Redis, Reply};

/// Where its pages are.
const PAGES: &str = "/products/";

/// A server of `/products/ID`, which shows what Redis holds under `product:ID`. Where that is
/// nothing, it asks the database and fills Redis.
pub struct Origin {
    server: HttpServer,
}

impl Origin {
    /// `load` is what the database has of an ID, if it has it.
    ///
    /// # Panics
    ///
    /// When Redis does not answer.
    #[track_caller]
    pub fn start(
        redis: &Redis,
        mut load: impl FnMut(&str) -> Option<String> + Send + 'static,
    ) -> Self {
        let mut redis = redis.client().expect("redis answers");
        let read = move |id: &str| {
            let key = format!("product:{id}");
            if let Ok(Reply::Bulk(Some(value))) = redis.cmd(&["GET", &key]) {
                return Some(String::from_utf8_lossy(&value).into_owned());
            }
            let value = load(id)?;
            redis.cmd(&["SET", &key, &value]).expect("redis answers");
            Some(value)
        };
        let read = Mutex::new(read);
        let server = HttpServer::start(move |request| {
            let Some(id) = request.target.strip_prefix(PAGES) else {
                return Response::new(404, "no such page");
            };
            let found = read.lock().unwrap_or_else(PoisonError::into_inner)(id);
            let response = match found {
                Some(value) => Response::new(200, value),
                None => Response::new(404, "no such product"),
            };
            response.with("xkey", format!("product-{id}")).with("cache-control", "max-age=3600")
        });
        Origin { server }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// How often the page of an ID was asked for.
    pub fn asked(&self, id: u32) -> usize {
        let page = format!("{PAGES}{id}");
        self.server.requests().iter().filter(|request| request.target == page).count()
    }
}
