//! Caches before edges: an edge that is purged fills again from what the cache says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use testkit::cdn::{Fastly, Fault, HttpServer, Response};
use testkit::wait_until;

use super::repurge::status;
use crate::invalidation::PRODUCTS;
use crate::world::{PATIENCE, World};

/// How long something is waited for that is not to happen.
const MOMENT: Duration = Duration::from_secs(1);

/// More purges than a sink that is down may have waiting.
const MANY: u32 = 120_000;

/// An edge in front of an application that reads through Redis: purged, it holds what Redis holds.
struct Edge {
    server: HttpServer,
    page: Arc<Mutex<Option<String>>>,
}

impl Edge {
    /// What it holds after a purge comes from `redis`, whose key it reads on its own connection.
    fn start(redis_port: u16) -> Self {
        let page = Arc::new(Mutex::new(Some("old".to_owned())));
        let filled = Arc::clone(&page);
        let server = HttpServer::start(move |_| {
            *filled.lock().unwrap() = read(redis_port);
            Response::new(200, "")
        });
        Edge { server, page }
    }

    fn page(&self) -> Option<String> {
        self.page.lock().unwrap().clone()
    }
}

/// What a Redis holds under the product's key.
fn read(port: u16) -> Option<String> {
    use std::io::{BufRead, BufReader, Write};
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.write_all(b"GET product:1\r\n").unwrap();
    let mut lines = BufReader::new(socket).lines();
    match lines.next().unwrap().unwrap().as_str() {
        "$-1" => None,
        _ => Some(lines.next().unwrap().unwrap()),
    }
}

/// A changed row whose delete does not reach Redis for a while; `after` is the edge's setting.
fn changed_while_redis_is_cut_off(after: &str) -> (World, Edge) {
    let rule = "[[rule]]\ntable = \"public.products\"\ndelete = [\"product:{id}\"]\n\
                purge_keys = [\"product-{id}\"]\n";
    let mut world = World::new(PRODUCTS, rule);
    let edge = Edge::start(world.redis.port());
    let proxy = testkit::proxy::Proxy::to(world.redis.port());
    let (port, through) = (format!(":{}/0", world.redis.port()), format!(":{}/0", proxy.port()));
    world.edit(&port, &through);
    let sink = format!(
        "[http.edge]\nurl = \"{}\"\nmethod = \"PURGE\"\nheaders = {{ \"xkey-purge\" = \"{{keys}}\" }}\n\
         purge_all = {{ headers = {{ \"xkey-purge\" = \"all\" }} }}\n{after}[redis.cache]",
        edge.server.url()
    );
    world.edit("[redis.cache]", &sink);
    world.redis.set("product:1", "old");
    world.start();
    proxy.stall();
    world.sql("UPDATE products SET category = 9 WHERE id = 1");
    world.wait_for_log("product-1");
    testkit::holds_within(MOMENT, || !edge.server.requests().is_empty());
    proxy.resume();
    world.wait_confirmed();
    (world, edge)
}

#[test]
fn an_edge_that_is_purged_before_its_cache_keeps_the_old_page() {
    let (mut world, edge) = changed_while_redis_is_cut_off("after = []\n");
    assert_eq!(edge.page().as_deref(), Some("old"), "this is what the order prevents");
    world.stop();
    let (mut world, edge) = changed_while_redis_is_cut_off("");
    assert_eq!(edge.page(), None);
    assert_eq!(edge.server.requests().len(), 1);
    world.stop();
}

#[test]
fn a_cdn_that_is_down_delays_no_redis_stops_no_reader_and_is_emptied_once() {
    let fastly = Fastly::start();
    let rules = format!(
        "[fastly.edge]\n{}[[rule]]\ntable = \"public.products\"\nbulk_above = 1000000\n\
         delete = [\"product:{{id}}\"]\npurge_keys = [\"product-{{id}}\"]\n",
        fastly.settings()
    );
    let mut world = World::new(PRODUCTS, &rules);
    fastly.server().fail_always(Some(Fault::Status(503)));
    world.runtime = Some(world.dir.join("."));
    world.spawn(&["run"]);
    world.wait_for_log("following the write-ahead log");
    let many =
        format!("INSERT INTO products SELECT id, 'x', 1 FROM generate_series(10, {MANY}) id");
    world.sql(&many);
    world.fill(&["product:1"]);
    world.sql("UPDATE products SET category = 3 WHERE id = 1");
    // Behind all of the others, and a debug build takes its time for those.
    wait_until("the key goes", 3 * PATIENCE, || !world.redis.exists("product:1"));
    assert!(!world.pg.has_confirmed("walpurge", &world.pg.current_lsn()), "WAL is held");
    // It says so, with its size, and what waits is bounded.
    wait_until("it says how much", PATIENCE, || {
        let status = status(&world);
        let edge = &status["sinks"][1];
        assert!(edge["waiting"].as_u64().is_some_and(|waiting| waiting <= 100_100), "{status}");
        let is_down = edge["state"] == "down" && status["role"] == "streaming";
        is_down && status["postgres"]["wal_held_bytes"].as_u64() > Some(1 << 20)
    });
    let before = fastly.all();
    fastly.server().fail_always(None);
    wait_until("it is emptied", PATIENCE, || fastly.all() > before);
    world.wait_confirmed();
    assert!(fastly.keys().len() < MANY as usize, "{}", fastly.keys().len());
    assert!(fastly.all() <= 3, "{}", fastly.all());
    world.stop();
}
