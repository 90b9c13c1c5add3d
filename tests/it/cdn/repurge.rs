//! Purges that are done again, later, by the whole daemon.

use serde_json::Value;
use testkit::cdn::{CloudFront, Fastly, HttpServer, Response};
use testkit::wait_until;

use super::daemon::with_cloudfront;
use crate::invalidation::PRODUCTS;
use crate::world::{PATIENCE, World};

/// A delay that no test lives to see.
const NEVER: &str = "repurge_after = [\"1h\"]\n";

fn with_fastly(fastly: &Fastly, repurge: &str) -> World {
    let rules = format!(
        "[fastly.edge]\n{}{repurge}[[rule]]\ntable = \"public.products\"\n\
         delete = [\"product:{{id}}\"]\npurge_keys = [\"product-{{id}}\"]\n",
        fastly.settings()
    );
    World::new(PRODUCTS, &rules)
}

/// Changes a row, and waits until its first purge is done.
#[track_caller]
fn purge_once(world: &World, fastly: &Fastly) {
    let before = fastly.keys().len();
    world.sql("UPDATE products SET category = category + 1 WHERE id = 1");
    wait_until("it is purged", PATIENCE, || fastly.keys().len() > before);
    assert_eq!(fastly.keys().len(), before + 1);
}

#[test]
fn a_purge_is_confirmed_after_the_last_time_and_not_lost_by_a_kill_before() {
    let fastly = Fastly::start();
    let mut world = with_fastly(&fastly, NEVER);
    world.start();
    purge_once(&world, &fastly);
    let end = world.pg.current_lsn();
    // A later transaction goes its way, and is not confirmed either.
    purge_once(&world, &fastly);
    assert!(!world.pg.has_confirmed("walpurge", &end));
    world.kill_9();
    assert!(!world.pg.has_confirmed("walpurge", &end), "it was to be purged again");

    world.edit(NEVER, "repurge_after = [\"100ms\", \"1s\"]\n");
    world.start();
    world.wait_confirmed();
    // Both transactions once more, together or one after the other, and again after each delay, or
    // after the last one, if that has passed before.
    let purged = fastly.keys().len() - 2;
    assert!((2..=6).contains(&purged), "{purged} times");
    assert_eq!(fastly.all(), 0);
    world.stop();
    assert_eq!(fastly.keys().len() - 2, purged, "no more than that");
}

#[test]
fn a_stop_does_not_wait_for_the_second_time() {
    let fastly = Fastly::start();
    let mut world = with_fastly(&fastly, NEVER);
    world.start();
    purge_once(&world, &fastly);
    let end = world.pg.current_lsn();
    world.stop();
    assert!(!world.pg.has_confirmed("walpurge", &end));
    let before = fastly.keys().len();
    world.edit(NEVER, "");
    world.start();
    world.wait_confirmed();
    assert_eq!(fastly.keys().len(), before + 1, "the next start repeats it");
    world.stop();
}

#[test]
fn an_edge_that_filled_from_its_shield_just_before_is_mended_by_the_second_time() {
    // The edge asks its shield, which is purged a moment after it: the first purge leaves the edge
    // with what the shield had, the second one does not.
    let purges = std::sync::atomic::AtomicUsize::new(0);
    let page = std::sync::Arc::new(std::sync::Mutex::new("old"));
    let held = std::sync::Arc::clone(&page);
    let edge = HttpServer::start(move |_| {
        let is_first = purges.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        *held.lock().unwrap() = if is_first { "old" } else { "new" };
        Response::new(200, "")
    });
    let rules = format!(
        "[http.edge]\nurl = \"{}\"\nheaders = {{ \"xkey-purge\" = \"{{keys}}\" }}\n\
         purge_all = {{ headers = {{ \"xkey-purge\" = \"all\" }} }}\nrepurge_after = [\"50ms\"]\n\
         [[rule]]\ntable = \"public.products\"\npurge_keys = [\"product-{{id}}\"]\n",
        edge.url()
    );
    let mut world = World::new(PRODUCTS, &rules);
    world.start();
    world.sql("UPDATE products SET category = 7 WHERE id = 1");
    world.wait_confirmed();
    assert_eq!(*page.lock().unwrap(), "new");
    let keys: Vec<_> =
        edge.requests().iter().map(|r| r.header("xkey-purge").map(str::to_owned)).collect();
    assert_eq!(keys, [Some("product-1".to_owned()), Some("product-1".to_owned())]);
    world.stop();
}

/// What `status` says, as JSON.
pub fn status(world: &World) -> Value {
    let output = world.command(&["status", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn cloudfront_is_asked_again_after_it_has_completed_and_charges_twice() {
    let cloudfront = CloudFront::start();
    cloudfront.allow(|rules| rules.looks = usize::MAX);
    let mut world = with_cloudfront(&cloudfront);
    let settings = "repurge_after = [\"50ms\"]\npaths_per_month = 100\n[[rule]]";
    world.edit("[[rule]]", settings);
    world.runtime = Some(world.dir.join("."));
    world.start();
    world.sql("UPDATE products SET category = 4 WHERE id = 1");
    // It looks after half a second, and again after twice that: far later than the delay.
    wait_until("it looks twice", PATIENCE, || cloudfront.server().count() >= 3);
    assert_eq!(cloudfront.invalidations().len(), 1, "the first one is in progress");
    let end = world.pg.current_lsn();
    cloudfront.complete_all();
    wait_until("it is asked again", PATIENCE, || cloudfront.invalidations().len() == 2);
    assert!(!world.pg.has_confirmed("walpurge", &end));
    cloudfront.complete_all();
    world.wait_confirmed();
    let sorted = |mut items: Vec<String>| {
        items.sort();
        items
    };
    let made: Vec<_> = cloudfront.invalidations().into_iter().map(sorted).collect();
    assert_eq!(made[0], made[1]);

    let charged = cloudfront.charged() as u64;
    assert_eq!(charged, 4, "a key and a path, twice");
    let site = |world: &World| {
        let sinks = status(world)["sinks"].as_array().unwrap().clone();
        sinks.into_iter().find(|sink| sink["name"] == "site").unwrap()
    };
    wait_until("it is shown", 2 * PATIENCE, || site(&world)["charges"]["charged"] == charged);
    assert_eq!(site(&world)["charges"]["most"], 100);
    world.stop();
    assert_eq!(site(&world)["charges"]["charged"], charged, "without a daemon, too");
}
