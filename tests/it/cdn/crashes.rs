//! The daemon is killed at each step of a purge, and what changed is purged all the same.

use std::os::unix::process::ExitStatusExt;

use testkit::cdn::{CloudFront, Fastly};

use super::daemon::AWS;
use crate::invalidation::PRODUCTS;
use crate::world::{PATIENCE, World};

/// A product comes before each crash, and one that nobody touched is there all the time.
#[track_caller]
fn assert_survives(kills: &[&'static str]) {
    let (fastly, cloudfront) = (Fastly::start(), CloudFront::start());
    let rules = format!(
        "[fastly.edge]\n{}[cloudfront.site]\n{}[[rule]]\ntable = \"public.products\"\n\
         delete = [\"product:{{id}}\"]\npurge_keys = [\"product-{{id}}\"]\n",
        fastly.settings(),
        cloudfront.settings()
    );
    let mut world = World::new(PRODUCTS, &rules);
    world.env.extend(AWS);
    let ids: Vec<usize> = (100..100 + kills.len()).collect();
    for (&id, &kill_at) in ids.iter().zip(kills) {
        world.sql(&format!("INSERT INTO products VALUES ({id}, 'new', 7)"));
        world.failpoint = Some(kill_at);
        world.spawn(&["run", "--log", "debug"]);
        let daemon = world.daemon.as_mut().unwrap();
        let status = daemon.wait(PATIENCE);
        let killed = status.is_some_and(|status| status.signal() == Some(9));
        assert!(killed, "{kill_at}: {status:?}\n{}", daemon.report());
    }
    world.failpoint = None;
    world.start();
    world.wait_confirmed();
    let (edge, site) = (fastly.keys(), cloudfront.invalidations().concat());
    for id in ids {
        assert!(edge.contains(&format!("product-{id}")), "{id}: {edge:?}");
        assert!(site.contains(&format!("#product-{id}")), "{id}: {site:?}");
    }
    assert!(!edge.contains(&"product-1".to_owned()) && !site.contains(&"#product-1".to_owned()));
    world.stop();
}

#[test]
fn killed_before_an_answer_is_taken() {
    assert_survives(&["kill_at=sent", "kill_at=sent:2", "kill_at=sent:2"]);
}

#[test]
fn killed_when_cloudfront_is_about_to_be_asked() {
    assert_survives(&["kill_at=purge_noted", "kill_at=purge_noted"]);
}

#[test]
fn killed_when_cloudfront_has_begun_and_nobody_has_noted_so() {
    assert_survives(&["kill_at=purge_accepted", "kill_at=purge_accepted"]);
}

#[test]
fn killed_when_a_sink_is_done_and_others_are_not() {
    assert_survives(&["kill_at=answered", "kill_at=answered:2", "kill_at=answered:3"]);
}

#[test]
fn killed_before_and_after_a_purge_is_confirmed() {
    assert_survives(&[
        "kill_at=before_confirm",
        "kill_at=after_confirm",
        "kill_at=before_position",
        "kill_at=after_position",
    ]);
}
