//! A real Varnish in front of an application that reads through Redis.

use std::path::Path;
use std::time::Duration;

use testkit::cdn::{Origin, Page, Varnish};
use testkit::proxy::Proxy;
use testkit::wait_until;

use crate::invalidation::PRODUCTS;
use crate::world::{PATIENCE, World};

/// How long something is waited for that is not to happen.
const MOMENT: Duration = Duration::from_secs(1);

/// Redis and Varnish hold the same product.
const RULE: &str = "[[rule]]\ntable = \"public.products\"\ndelete = [\"product:{id}\"]\n";

/// The blocks of the documentation: how Varnish is configured, and its sink.
struct Recipe {
    vcl: String,
    sink: String,
}

/// The recipe under a heading of `docs/cdn.md`.
#[track_caller]
fn recipe(heading: &str) -> Recipe {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cdn.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("no recipe {heading:?}"));
    let block = |fence: &str| {
        let (_, rest) = section.split_once(fence).unwrap();
        rest.split_once("\n```").unwrap().0.to_owned()
    };
    let toml = block("```toml\n");
    let sink = &toml[toml.find("[http.varnish]").unwrap()..toml.find("[[rule]]").unwrap()];
    Recipe { vcl: block("```vcl\n"), sink: sink.to_owned() }
}

/// An application, Varnish in front of it, and the daemon.
struct Site {
    world: World,
    origin: Origin,
    varnish: Varnish,
}

impl Site {
    /// `purges` are those of the rule.
    fn new(Recipe { vcl, sink }: Recipe, purges: &str) -> Self {
        let mut world = World::new(PRODUCTS, &format!("{RULE}{purges}"));
        let mut session = world.pg.session("postgres", "postgres");
        let origin = Origin::start(&world.redis, move |id| {
            let found = session.run(&format!("SELECT category FROM products WHERE id = {id}"));
            Some(found).filter(|found| !found.is_empty())
        });
        let port = format!("\"{}\"", origin.port());
        assert!(vcl.contains("\"8080\"") && sink.contains("http://127.0.0.1:6081/"));
        let varnish = Varnish::start(&vcl.replace("\"8080\"", &port));
        let sink = sink.replace("http://127.0.0.1:6081/", &varnish.url());
        world.edit("[redis.cache]", &format!("{sink}[redis.cache]"));
        Site { world, origin, varnish }
    }

    fn page(&self, id: u32) -> Page {
        self.varnish.get(&format!("/products/{id}"))
    }

    #[track_caller]
    fn assert_shown(&self, id: u32, category: &str) {
        assert_eq!(self.page(id), shown(category), "{id}\n{}", self.world.log());
    }
}

fn shown(category: &str) -> Page {
    Page { status: 200, body: category.to_owned() }
}

/// Rows change; so do their pages, and no others are asked for again.
fn pages_change_with_their_rows(mut site: Site) {
    site.world.start();
    for _ in 0..2 {
        for (id, category) in [(1, "7"), (2, "7"), (3, "8")] {
            site.assert_shown(id, category);
        }
    }
    assert_eq!([1, 2, 3].map(|id| site.origin.asked(id)), [1, 1, 1], "Varnish holds them");

    site.world.sql("UPDATE products SET category = 9 WHERE id = 1");
    site.world.wait_confirmed();
    site.assert_shown(1, "9");
    site.world.sql("DELETE FROM products WHERE id = 2");
    site.world.wait_confirmed();
    assert_eq!(site.page(2).status, 404);
    site.assert_shown(3, "8");
    assert_eq!([1, 2, 3].map(|id| site.origin.asked(id)), [2, 2, 1], "nothing else is purged");

    site.world.sql("TRUNCATE products");
    site.world.wait_confirmed();
    for id in [1, 2, 3] {
        assert_eq!(site.page(id).status, 404, "{id}");
    }
    assert_eq!([1, 2, 3].map(|id| site.origin.asked(id)), [3, 3, 2], "everything is purged");
    site.world.stop();
}

#[test]
fn a_changed_row_purges_its_page_by_key_and_no_other() {
    let site = Site::new(recipe("Varnish with xkey"), "purge_keys = [\"product-{id}\"]\n");
    pages_change_with_their_rows(site);
}

#[test]
fn a_changed_row_bans_its_page_by_path_and_no_other() {
    let site = Site::new(recipe("Varnish with BAN"), "purge_paths = [\"/products/{id}\"]\n");
    pages_change_with_their_rows(site);
}

/// What is shown at the end, after a change whose delete did not reach Redis for a while, to
/// readers who ask all the time. `after` is the sink's setting.
fn shown_after_a_delete_that_is_late(after: &str) -> Page {
    let mut recipe = recipe("Varnish with xkey");
    recipe.sink = format!("{}\n{after}", recipe.sink.trim_end());
    let mut site = Site::new(recipe, "purge_keys = [\"product-{id}\"]\n");
    let port = site.world.redis.port();
    let proxy = Proxy::to(port);
    site.world.edit(&format!(":{port}/0"), &format!(":{}/0", proxy.port()));
    site.world.start();
    site.assert_shown(1, "7");

    proxy.stall();
    site.world.sql("UPDATE products SET category = 9 WHERE id = 1");
    site.world.wait_for_log("product-1");
    testkit::holds_within(MOMENT, || {
        site.assert_shown(1, "7");
        site.origin.asked(1) > 1
    });
    proxy.resume();
    site.world.wait_confirmed();
    wait_until("redis has lost it or has the new one", PATIENCE, || {
        site.world.redis.get("product:1").is_none_or(|category| category == "9")
    });
    let page = site.page(1);
    site.world.stop();
    page
}

#[test]
fn without_the_order_varnish_fills_again_from_the_stale_cache() {
    assert_eq!(shown_after_a_delete_that_is_late("after = []\n"), shown("7"), "the stale refill");
    assert_eq!(shown_after_a_delete_that_is_late(""), shown("9"));
}
