//! The whole daemon: a row changes, and the CDN purges what shows it.

use testkit::cdn::{CloudFront, Fastly, Fault, HttpServer, Response};
use testkit::wait_until;

use crate::invalidation::PRODUCTS;
use crate::world::{PATIENCE, World};

#[test]
fn a_changed_row_purges_its_keys_and_paths_at_every_cdn() {
    let fastly = Fastly::start();
    let varnish = HttpServer::start(|_| Response::new(200, ""));
    let rules = format!(
        "[fastly.edge]\n{}hosts = [\"www.example.com\"]\n\
         [http.varnish]\nurl = \"{}\"\nmethod = \"PURGE\"\n\
         headers = {{ \"xkey-purge\" = \"{{keys}}\" }}\npurge_all = {{ method = \"BAN\", headers = {{ \"xkey-purge\" = \"all\" }} }}\n\
         [[rule]]\nname = \"product\"\ntable = \"public.products\"\n\
         delete = [\"product:{{id}}\"]\npurge_keys = [\"product-{{id}}\"]\n\
         purge_paths = [\"/products/{{slug}}\"]\n",
        fastly.settings(),
        varnish.url()
    );
    let mut world = World::new(PRODUCTS, &rules);
    world.start();
    world.fill(&["product:1", "product:2"]);
    world.sql("UPDATE products SET slug = 'a b' WHERE id = 1");
    world.wait_gone(&["product:1"]);
    world.wait_confirmed();
    assert_eq!(fastly.keys(), ["product-1"]);
    let mut urls = fastly.urls();
    urls.sort();
    assert_eq!(urls, ["www.example.com/products/a%20b", "www.example.com/products/one"]);
    let sent = varnish.requests();
    assert_eq!(
        sent.iter().filter_map(|r| r.header("xkey-purge")).collect::<Vec<_>>(),
        ["product-1"]
    );
    assert_eq!(fastly.all(), 0);
    world.assert_cached(&["product:2"]);

    world.sql("TRUNCATE products");
    world.wait_confirmed();
    assert_eq!(fastly.all(), 1);
    assert_eq!(varnish.requests().last().unwrap().method, "BAN");
    let log = world.log();
    assert!(!log.contains(fastly.token()), "the log holds the token");
    world.stop();
}

#[test]
fn nothing_is_confirmed_while_the_cdn_is_down_and_nothing_is_lost_by_a_kill() {
    let fastly = Fastly::start();
    let rules = format!(
        "[fastly.edge]\n{}[[rule]]\ntable = \"public.products\"\n\
         delete = [\"product:{{id}}\"]\npurge_keys = [\"product-{{id}}\"]\n",
        fastly.settings()
    );
    let mut world = World::new(PRODUCTS, &rules);
    fastly.server().fail_always(Some(Fault::Status(503)));
    world.start();
    world.fill(&["product:1"]);
    world.sql("UPDATE products SET category = 1 WHERE id = 1");
    world.wait_gone(&["product:1"]);
    world.wait_for_log("the sink is down");
    let end = world.pg.current_lsn();
    world.kill_9();
    assert!(!world.pg.has_confirmed("walpurge", &end));
    fastly.server().fail_always(None);
    world.start();
    wait_until("the key is purged", PATIENCE, || fastly.keys().contains(&"product-1".to_owned()));
    world.wait_confirmed();
}

#[test]
fn what_the_cdn_rejects_is_parked() {
    let fastly = Fastly::start();
    let rules = format!(
        "[fastly.edge]\n{}[[rule]]\ntable = \"public.products\"\n\
         purge_keys = [\"product-{{slug}}\"]\n",
        fastly.settings()
    );
    let mut world = World::new(PRODUCTS, &rules);
    world.start();
    world.sql("UPDATE products SET slug = 'two words' WHERE id = 1");
    world.wait_confirmed();
    assert_eq!(fastly.keys(), ["product-one"]);
    world.wait_for_log("an action can never succeed and was given up");
    assert!(!world.news().contains("two words"), "{}", world.news());
}

/// What stands for an account.
pub const AWS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "not-a-secret")];

pub fn with_cloudfront(cloudfront: &CloudFront) -> World {
    let rules = format!(
        "[cloudfront.site]\n{}[[rule]]\ntable = \"public.products\"\n\
         delete = [\"product:{{id}}\"]\npurge_keys = [\"product:{{id}}\"]\n\
         purge_paths = [\"/products/{{slug}}\"]\n",
        cloudfront.settings()
    );
    let mut world = World::new(PRODUCTS, &rules);
    world.env.extend(AWS);
    let state_dir = world.dir.join("state");
    std::fs::create_dir(&state_dir).unwrap();
    world.edit("[postgres]", &format!("state_dir = {state_dir:?}\n[postgres]"));
    world
}

#[test]
fn a_changed_row_is_confirmed_when_cloudfront_has_completed_its_invalidation() {
    let cloudfront = CloudFront::start();
    cloudfront.allow(|rules| rules.looks = usize::MAX);
    let mut world = with_cloudfront(&cloudfront);
    world.start();
    world.sql("UPDATE products SET slug = 'uno' WHERE id = 1");
    wait_until("it looks", PATIENCE, || cloudfront.server().requests().len() > 1);
    let end = world.pg.current_lsn();
    assert!(!world.pg.has_confirmed("walpurge", &end));
    cloudfront.complete_all();
    world.wait_confirmed();
    let made = cloudfront.invalidations().concat();
    for item in ["#product:1", "/products/one", "/products/uno"] {
        assert!(made.iter().any(|known| known == item), "{item}: {made:?}");
    }
    world.stop();
}

#[test]
fn a_kill_while_cloudfront_works_loses_nothing() {
    let cloudfront = CloudFront::start();
    cloudfront.allow(|rules| rules.looks = usize::MAX);
    let mut world = with_cloudfront(&cloudfront);
    world.start();
    world.sql("UPDATE products SET category = 1 WHERE id = 1");
    wait_until("it looks", PATIENCE, || cloudfront.server().requests().len() > 1);
    let made = cloudfront.invalidations().len();
    world.kill_9();
    world.sql("UPDATE products SET category = 2 WHERE id = 1");
    cloudfront.complete_all();
    cloudfront.allow(|rules| rules.looks = 0);
    world.start();
    world.wait_confirmed();
    assert!(
        cloudfront.invalidations().len() > made,
        "the second update is younger than the first purge"
    );
}

#[test]
fn a_dry_run_shows_the_requests_and_sends_none() {
    let (fastly, cloudfront) = (Fastly::start(), CloudFront::start());
    let rules = format!(
        "[fastly.edge]\n{}hosts = [\"www.example.com\"]\n[cloudfront.site]\n{}\
         [[rule]]\ntable = \"public.products\"\npurge_keys = [\"p-{{id}}\"]\n\
         purge_paths = [\"/products/{{id}}\"]\n",
        fastly.settings(),
        cloudfront.settings()
    );
    let mut world = World::new(PRODUCTS, &rules);
    world.spawn(&["run", "--dry-run"]);
    world.wait_for_log("following the write-ahead log");
    world.sql("UPDATE products SET category = 1 WHERE id = 1");
    world.wait_for_log("/purge/www.example.com/products/1");
    world.wait_for_log("2 paths and tags charged");
    assert!(!world.log().contains(fastly.token()));
    assert_eq!((fastly.server().requests().len(), cloudfront.server().requests().len()), (0, 0));
}
