//! One transaction with very many paths.

use std::collections::HashSet;

use testkit::cdn::{CloudFront, HttpServer, Response};
use testkit::wait_until;

use super::daemon::with_cloudfront;
use crate::invalidation::PRODUCTS;
use crate::world::{PATIENCE, World};

/// Paths, each its row's own: more than the plan holds. A debug build takes its time for them.
const PATHS: u32 = if cfg!(debug_assertions) { 110_000 } else { 1_000_000 };

/// How many paths go in one request.
const BATCH: usize = 1000;

/// The three rows that are there, and many more.
fn insert_many(world: &World) {
    world.sql(&format!(
        "INSERT INTO products SELECT id, 'p' || id, 1 FROM generate_series(10, {}) id",
        PATHS + 9
    ));
}

#[track_caller]
fn wait_confirmed(world: &World) {
    let end = world.pg.current_lsn();
    let is_confirmed = || world.pg.has_confirmed("walpurge", &end);
    wait_until("everything is confirmed", 6 * PATIENCE, is_confirmed);
}

#[test]
fn more_paths_than_a_rules_bound_become_one_wildcard() {
    let cloudfront = CloudFront::start();
    let mut world = with_cloudfront(&cloudfront);
    let keys = "purge_keys = [\"product:{id}\"]\n";
    world.edit(keys, &format!("bulk_above = {BATCH}\n"));
    world.spawn(&["run"]);
    world.wait_for_log("following the write-ahead log");
    insert_many(&world);
    wait_confirmed(&world);
    let made = cloudfront.invalidations().concat();
    assert!(made.iter().any(|item| item == "/products/*"), "{made:?}");
    assert!(cloudfront.charged() <= BATCH + 1, "{} are charged", cloudfront.charged());
    world.stop();
}

#[test]
fn a_sink_without_a_purge_of_everything_gets_every_path() {
    let edge = HttpServer::start(|_| Response::new(200, ""));
    let rules = format!(
        "[http.edge]\nurl = \"{}\"\nbody = '{{{{\"paths\": {{paths|json}}}}}}'\nbatch = {BATCH}\n\
         [[rule]]\ntable = \"public.products\"\nbulk_above = 1000000\nfallback = \"none\"\n\
         delete = [\"product:{{id}}\"]\npurge_paths = [\"/products/{{slug}}\"]\n",
        edge.url()
    );
    let mut world = World::new(PRODUCTS, &rules);
    world.spawn(&["run"]);
    world.wait_for_log("following the write-ahead log");
    insert_many(&world);
    wait_confirmed(&world);
    let mut purged = HashSet::new();
    // They are full, but for the last of each part that goes out before the transaction's end.
    let fewest = (PATHS as usize).div_ceil(BATCH);
    assert!(edge.count() <= fewest + fewest / 20, "{} requests", edge.count());
    for request in edge.requests() {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let paths = body["paths"].as_array().unwrap();
        assert!(paths.len() <= BATCH);
        purged.extend(paths.iter().map(|path| path.as_str().unwrap().to_owned()));
    }
    let missing = (10..PATHS + 10).find(|id| !purged.contains(&format!("/products/p{id}")));
    assert_eq!((missing, purged.len()), (None, PATHS as usize));
    world.stop();
}
