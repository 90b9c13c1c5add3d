//! The status page, in a real browser.

use serde_json::{Value, json};
use testkit::browser::{Browser, key};
use testkit::{free_port, holds_within, wait_until};

use super::{http, world};
use crate::world::{PATIENCE, World};

/// A rule and a table whose names are markup.
const HOSTILE: &str = r#"
[[rule]]
name = "<img src=x onerror='window.hacked=1'>"
table = "public.\"<b onclick=alert(1)>\""
delete = ["<script>window.hacked=2</script>:{id}"]
"#;

/// A world with a page at an address that stays, and the address.
fn world_with_page() -> (World, String) {
    let mut world = world();
    world.edit("delete = [\"key:{id}\"]\n", &format!("delete = [\"key:{{id}}\"]\n{HOSTILE}"));
    world.sql("CREATE TABLE \"<b onclick=alert(1)>\" (id int PRIMARY KEY)");
    let address = format!("127.0.0.1:{}", free_port());
    world.edit("[postgres]", &format!("[admin]\nlisten = \"{address}\"\n[postgres]"));
    (world, format!("http://{address}"))
}

pub fn start(world: &mut World, url: &str) {
    world.start();
    let address = url.trim_start_matches("http://").to_owned();
    wait_until("it can be asked", PATIENCE, || {
        http::ask_tcp(&address, "/readyz", None).is_some_and(|got| got.is_ok())
    });
}

/// Waits until a text of the page is as it should be.
#[track_caller]
pub fn wait_for(browser: &Browser, selector: &str, is_so: impl Fn(&str) -> bool) {
    let mut text = String::new();
    let held = holds_within(PATIENCE, || {
        text = browser.text(selector);
        is_so(&text)
    });
    assert!(held, "{selector} stays {text:?}");
}

/// All texts whose contrast with what is behind them is less than 4.5 to 1, which WCAG 2.2 asks for.
const PALE: &str = r#"
    const parts = (color) => color.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const found = parts(getComputedStyle(node).backgroundColor);
            if (found.length === 3 || found[3] === 1) return found;
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll("body *")]
        .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
        .filter((node) => node.checkVisibility() && !["SCRIPT", "STYLE"].includes(node.tagName))
        .map((node) => {
            const [one, two] = [light(parts(getComputedStyle(node).color)), light(behind(node))];
            return [(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), node.outerHTML];
        })
        .filter(([contrast]) => contrast < 4.5).map(([contrast, html]) => `${contrast} ${html}`);
"#;

/// What the keyboard comes to, one Tab after another, until it leaves the page.
fn reached_by_keyboard(browser: &Browser) -> Vec<String> {
    browser.script("document.activeElement.blur(); window.getSelection().removeAllRanges()");
    let mut reached = Vec::new();
    while reached.len() < 50 {
        browser.press(key::TAB);
        let at = browser.script(
            "const at = document.activeElement;
             const outline = getComputedStyle(at).outlineStyle;
             return at === document.body ? null
                 : `${at.id || at.tagName.toLowerCase()} ${outline}`;",
        );
        match at.as_str().map(str::to_owned) {
            Some(at) if reached.first() != Some(&at) => reached.push(at),
            _ => break,
        }
    }
    reached
}

#[test]
fn the_page_shows_what_happens() {
    let (mut world, url) = world_with_page();
    start(&mut world, &url);
    let browser = Browser::start();
    browser.open(&url);
    wait_for(&browser, "#state", |text| text == "streaming");
    wait_for(&browser, "#heard", |text| text.starts_with("None since"));
    assert_eq!(browser.text("#where").split_whitespace().nth(1), Some("walpurge"));

    // Numbers move, and what moves them is told without its keys.
    world.sql("UPDATE t SET n = 1 WHERE id <= 3");
    wait_for(&browser, "#rules tr", |text| text.contains("3 update"));
    wait_for(&browser, "#sinks td:nth-child(4)", |text| text == "3");
    wait_for(&browser, "#latest", |text| text.lines().count() >= 3 && text.contains("public.t"));
    let told = browser.text("#latest");
    assert!(told.contains("update") && told.contains("delete") && told.contains('#'), "{told}");
    assert!(!told.contains("key:"), "{told}");
    wait_for(&browser, "#tiles", |text| text.contains("3 since the daemon started"));
    let is_drawn = "return [...document.querySelectorAll('svg path')].filter((path) => \
                    (path.getAttribute('d') ?? '').includes('L')).length";
    wait_until("it is drawn", PATIENCE, || browser.script(is_drawn).as_u64() >= Some(5));

    // Names are text, whatever they look like.
    world.sql("INSERT INTO \"<b onclick=alert(1)>\" VALUES (1)");
    wait_for(&browser, "#latest", |text| text.contains("<img src=x onerror='window.hacked=1'>"));
    wait_for(&browser, "#latest", |text| text.contains("public.<b onclick=alert(1)>"));
    wait_for(&browser, "#rules", |text| text.contains("<img src=x onerror='window.hacked=1'>"));
    let made = "return [window.hacked ?? null, document.querySelectorAll('main img, main b[onclick], \
                main script').length]";
    assert_eq!(browser.script(made), json!([null, 0]));

    // A sink that is down, and that comes back.
    world.redis.pause();
    world.sql("UPDATE t SET n = 2 WHERE id = 1");
    wait_for(&browser, "#sinks td:nth-child(2)", |text| text == "✗ down");
    wait_for(&browser, "#sinks td:nth-child(8)", |text| text.contains("since "));
    wait_for(&browser, "#sinks td:nth-child(3)", |text| text == "1");
    wait_for(&browser, "#state", |text| text == "streaming, 1 sink is not working");
    world.redis.resume();
    wait_for(&browser, "#sinks td:nth-child(2)", |text| text == "✓ up");
    wait_for(&browser, "#sinks td:nth-child(8)", |text| text.contains("over since "));
    wait_for(&browser, "#state", |text| text == "streaming");

    // Without a mouse, and in both schemes.
    assert_eq!(reached_by_keyboard(&browser), ["summary solid", "pause solid"]);
    browser.script("document.activeElement.blur()");
    browser.press(&key::TAB.repeat(2));
    browser.press(" ");
    wait_for(&browser, "#heard", |text| text.starts_with("Paused."));
    world.sql("UPDATE t SET n = 3 WHERE id = 1");
    wait_for(&browser, "#heard", |text| text == "Paused. 1 more are not shown.");
    browser.press(" ");
    wait_for(&browser, "#heard", |text| text.starts_with("The latest 5"));
    browser.script("document.querySelector('summary').focus()");
    browser.press(key::ENTER);
    wait_for(&browser, "#minute-rows", |text| text.contains("until"));
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        assert_eq!(browser.script(PALE), json!([]), "{scheme}");
    }
    assert_eq!(browser.console(), Vec::<Value>::new());

    // Who opens it now sees how it came to this.
    browser.reload();
    wait_for(&browser, "#state", |text| text == "streaming");
    let begins = "const points = document.querySelector('svg path.area').getAttribute('d')
        .match(/[ML][\\d.]+/g).map((point) => Number(point.slice(1)));
        return points.at(-1) - points[0] - performance.now() / 1000";
    // One unit is a second.
    let earlier = browser.script(begins).as_f64().unwrap();
    assert!(earlier > 2.0, "it begins {earlier} s before it was opened");

    // The daemon goes away, and comes back.
    world.stop();
    wait_for(&browser, "#state", |text| text == "no answer");
    wait_for(&browser, "#gone", |text| text.starts_with("The daemon has not answered since "));
    wait_for(&browser, "#gone-for", |text| text.contains("What is below is from then."));
    start(&mut world, &url);
    wait_for(&browser, "#state", |text| text == "streaming");
    assert_eq!(browser.text("#gone"), "");
    wait_for(&browser, "#heard", |text| text.starts_with("None since"));
    world.sql("UPDATE t SET n = 4 WHERE id = 2");
    wait_for(&browser, "#latest", |text| text.contains("public.t"));
    wait_for(&browser, "#sinks td:nth-child(4)", |text| text == "1");

    let mut said = browser.console();
    // Browsers note by themselves what is not answered.
    said.retain(|line| line["source"] != "network");
    assert_eq!(said, Vec::<Value>::new());
    let asked = browser.requests();
    assert!(asked.iter().any(|asked| *asked == format!("{url}/status")), "{asked:?}");
    for asked in asked {
        assert!(asked.starts_with(&format!("{url}/")) || asked.starts_with("data:"), "{asked}");
    }
    world.stop();
}

#[test]
fn the_page_asks_for_the_token_and_keeps_it_as_long_as_the_tab() {
    let (mut world, url) = world_with_page();
    world.edit("[admin]\n", "[admin]\ntoken = \"s3cret\"\n");
    start(&mut world, &url);
    let browser = Browser::start();
    browser.open(&url);
    wait_for(&browser, "#state", |text| text == "locked");
    assert_eq!(browser.text("#shown"), "", "nothing is shown before");
    // The field has the focus.
    browser.press("wrong");
    browser.press(key::ENTER);
    wait_for(&browser, "#unlock-why", |text| text == "The daemon refuses this token.");
    browser.press("s3cret");
    browser.press(key::ENTER);
    wait_for(&browser, "#state", |text| text == "streaming");
    wait_for(&browser, "#heard", |text| text.starts_with("None since"));
    world.sql("UPDATE t SET n = 1 WHERE id = 1");
    wait_for(&browser, "#latest", |text| text.contains("public.t"));
    browser.reload();
    wait_for(&browser, "#state", |text| text == "streaming");
    let kept = "return [localStorage.length, document.cookie, location.href.includes('s3cret')]";
    assert_eq!(browser.script(kept), json!([0, "", false]));
    assert_eq!(reached_by_keyboard(&browser).last().map(String::as_str), Some("forget solid"));
    browser.press(key::ENTER);
    browser.script("document.getElementById('forget').click()");
    wait_for(&browser, "#state", |text| text == "locked");
    assert_eq!(browser.script("return sessionStorage.length"), json!(0));
    world.stop();
}

#[test]
fn the_page_is_the_same_for_everybody_and_the_socket_has_it_too() {
    let (mut world, url) = world_with_page();
    world.edit("[admin]\n", "[admin]\ntoken = \"s3cret\"\n");
    start(&mut world, &url);
    world.sql("UPDATE t SET n = 1 WHERE id <= 3");
    world.wait_confirmed();
    let address = url.trim_start_matches("http://");
    let page = http::ask_tcp(address, "/", None).unwrap();
    assert_eq!(page.code, 200);
    assert!(page.body.starts_with("<!doctype html>"), "{}", page.body);
    for word in ["key:", "hacked", "public.t", "s3cret", "onclick"] {
        assert!(!page.body.contains(word), "{word}");
    }
    assert_eq!(http::ask(&world, "/").unwrap().body, page.body);
    assert_eq!(http::ask_tcp(address, "/history", None).unwrap().code, 401);
    let history = http::ask(&world, "/history").unwrap();
    let history: Value = serde_json::from_str(&history.body).unwrap();
    assert!(history["age_seconds"][0].is_f64(), "{history}");
    // What the page shows of rules is in the status.
    let status = http::ask(&world, "/status").unwrap();
    let status: Value = serde_json::from_str(&status.body).unwrap();
    assert_eq!(status["rules"][0]["changes"]["update"], 3, "{status}");
    assert_eq!(status["rules"][0]["actions"], 3, "{status}");
    assert_eq!(status["rules"][0]["fallbacks"]["truncate"], 0, "{status}");
    world.stop();
}
