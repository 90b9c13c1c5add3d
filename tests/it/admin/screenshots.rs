//! Pictures of the status page, for whoever changes it to look at: `cargo test --test it
//! screenshots -- --ignored` writes them to `target/screenshots`.

use std::path::Path;

use testkit::browser::Browser;
use testkit::free_port;

use super::page::{start, wait_for};
use super::world;
use crate::world::World;

const MORE: &str = r#"
[[rule]]
name = "orders of every shop"
table = "public.t"
on = ["update", "delete"]
delete = ["order:{id}", "orders:recent"]
bump = ["orders:{id}:version"]

[http.varnish]
url = "http://127.0.0.1:9/"
headers = { "xkey-purge" = "{keys}" }
purge_all = { headers = { "xkey-purge" = "all" } }

[[rule]]
name = "pages"
table = "public.t"
on = ["update", "truncate"]
purge_keys = ["t-{id}"]
"#;

struct Camera {
    browser: Browser,
    directory: std::path::PathBuf,
}

impl Camera {
    /// In both schemes, and narrow.
    fn take(&self, name: &str) {
        for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)] {
            self.browser.prefer(scheme);
            self.browser.resize(width, 800);
            let size = if width < 800 { "narrow" } else { "wide" };
            let encoded = self.browser.screenshot();
            let picture = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, encoded);
            let file = self.directory.join(format!("{name}-{scheme}-{size}.png"));
            std::fs::write(file, picture.unwrap()).unwrap();
        }
    }
}

fn load(world: &World, rounds: u32) {
    for round in 0..rounds {
        let rows = 5 + (round * 7) % 60;
        world.sql(&format!("UPDATE t SET n = n + 1 WHERE id <= {rows}; SELECT pg_sleep(0.2)"));
    }
}

#[test]
#[ignore = "its pictures are for people"]
fn every_state_of_the_page() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
    std::fs::create_dir_all(&directory).unwrap();
    let mut world = world();
    let address = format!("127.0.0.1:{}", free_port());
    world.edit("[postgres]", &format!("[admin]\nlisten = \"{address}\"\n[postgres]"));
    let url = format!("http://{address}");
    start(&mut world, &url);
    let camera = Camera { browser: Browser::start(), directory };
    camera.browser.open(&url);
    wait_for(&camera.browser, "#heard", |text| text.starts_with("None since"));
    camera.take("empty");
    world.stop();

    world.edit("[[rule]]", &format!("{MORE}\n[[rule]]"));
    world.edit("[http.varnish]", "[postgres.replay]\n[http.varnish]");
    world.edit("url = \"http://127.0.0.1:9/\"", "mode = \"off\"\nurl = \"http://127.0.0.1:9/\"");
    start(&mut world, &url);
    wait_for(&camera.browser, "#state", |text| text == "streaming");
    load(&world, 120);
    wait_for(&camera.browser, "#latest", |text| text.contains("public.t"));
    camera.take("busy");
    world.stop();

    world.edit("mode = \"off\"\n", "");
    start(&mut world, &url);
    world.redis.pause();
    load(&world, 40);
    world.sql("TRUNCATE t");
    world.sql("SELECT pg_logical_emit_message(true, 'walpurge', 'nonsense')");
    wait_for(&camera.browser, "#sinks", |text| text.matches("✗ down").count() == 2);
    camera.take("failing");
    world.kill_9();
    wait_for(&camera.browser, "#gone-for", |text| text.contains("from then"));
    camera.take("gone");
    world.redis.resume();

    world.edit("[admin]\n", "[admin]\ntoken = \"s3cret\"\n");
    start(&mut world, &url);
    wait_for(&camera.browser, "#state", |text| text == "locked");
    camera.take("locked");
}
