//! A headless Chromium, driven over [WebDriver](https://www.w3.org/TR/webdriver2/) through
//! ChromeDriver.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::TestDir;
use crate::cdn::{Request, exchange};
use crate::install::{install_unless, program};
use crate::process::{Process, Signal};

/// How long the start may take on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);

/// What Chromium is told: nothing that talks to anybody else, and no sandbox, which root has not.
const ARGUMENTS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    // It ends with whoever drives it.
    "--remote-debugging-pipe",
];

/// A browser with one window, and with a profile of its own.
#[derive(Debug)]
pub struct Browser {
    // Before the directory, so that it ends before its files go.
    driver: Process,
    port: u16,
    session: String,
    _dir: TestDir,
}

impl Browser {
    /// Starts one; installs Chromium where it is missing.
    ///
    /// # Panics
    ///
    /// When it does not start; the message holds its log.
    #[track_caller]
    pub fn start() -> Self {
        match Self::try_start() {
            Ok(browser) => browser,
            Err(error) => panic!("{error:#}"),
        }
    }

    fn try_start() -> Result<Self> {
        let is_there = || program("chromium").is_some() && program("chromedriver").is_some();
        install_unless(is_there)?;
        let driver = program("chromedriver").context("no ChromeDriver: run scripts/install.sh")?;
        let dir = TestDir::new("browser");
        let mut command = Command::new(driver);
        // What it writes beside its profile goes there too.
        command.arg("--port=0").env("HOME", dir.path()).env("TMPDIR", dir.path());
        let mut driver = Process::spawn("chromedriver", command, &dir.join("log"), Signal::TERM)?;
        let mut port = None;
        crate::holds_within(START_WITHIN, || {
            port = port_in(&driver.log());
            port.is_some() || !driver.is_running()
        });
        let port = port.with_context(|| format!("no port: {}", driver.report()))?;
        let mut browser = Browser { driver, port, session: String::new(), _dir: dir };
        let profile = format!("--user-data-dir={}", browser._dir.join("profile").display());
        let arguments: Vec<&str> =
            ARGUMENTS.iter().copied().chain([profile.as_str(), "--window-size=1280,900"]).collect();
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let made = browser.ask("POST", "/session", &wanted);
        let made = made.with_context(|| browser.driver.report())?;
        let session = made["sessionId"].as_str().context("no session")?;
        browser.session = format!("/session/{session}");
        // The page that it begins with asks for things of its own.
        browser.ask("POST", "/url", &json!({"url": "about:blank"}))?;
        browser.ask("POST", "/se/log", &json!({"type": "performance"}))?;
        Ok(browser)
    }

    /// Asks the driver, and returns the value of its answer.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if method == "GET" { Vec::new() } else { body.to_string().into_bytes() };
        let (method, target) = (method.to_owned(), format!("{}{path}", self.session));
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let request = Request { method, target, headers, body };
        let answer = exchange(self.port, &request)?;
        let mut told: Value = serde_json::from_slice(&answer.body)?;
        let value = told["value"].take();
        ensure!(answer.status == 200, "{path}: {}", value["message"].as_str().unwrap_or("?"));
        Ok(value)
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", path, body).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Opens a page, and returns when it is loaded.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({"url": url}));
    }

    /// Opens the same page again.
    #[track_caller]
    pub fn reload(&self) {
        self.post("/refresh", &json!({}));
    }

    /// Runs the body of a function in the page, and returns what it returns.
    ///
    /// # Panics
    ///
    /// When it throws.
    #[track_caller]
    pub fn script(&self, body: &str) -> Value {
        self.post("/execute/sync", &json!({"script": body, "args": []}))
    }

    /// The text of the first element that a selector finds, as it is seen; empty where there is none
    /// or it is hidden.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let found = format!(
            "const found = document.querySelector({});
             return found?.checkVisibility() ? found.innerText : ''",
            json!(selector)
        );
        self.script(&found).as_str().unwrap_or_default().to_owned()
    }

    /// Presses and lets go of keys, one after another; those without a character have one of
    /// [`key`].
    #[track_caller]
    pub fn press(&self, keys: &str) {
        let of = |kind: &str, key: char| json!({"type": kind, "value": key.to_string()});
        let steps = keys.chars().flat_map(|key| [of("keyDown", key), of("keyUp", key)]);
        let steps: Vec<Value> = steps.collect();
        let keyboard = json!([{"type": "key", "id": "keyboard", "actions": steps}]);
        self.post("/actions", &json!({"actions": keyboard}));
    }

    /// Makes the window so large, in pixels of CSS.
    #[track_caller]
    pub fn resize(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// What the user prefers: dark or light.
    #[track_caller]
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Sends a command of the DevTools protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, params: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": params}))
    }

    /// The whole page as a PNG.
    #[track_caller]
    pub fn screenshot(&self) -> String {
        let whole = json!({"format": "png", "captureBeyondViewport": true});
        let taken = self.devtools("Page.captureScreenshot", &whole);
        taken["data"].as_str().expect("a picture in base64").to_owned()
    }

    /// What the console has said since this was asked last.
    #[track_caller]
    pub fn console(&self) -> Vec<Value> {
        self.log("browser")
    }

    /// The addresses of everything that the page has asked for since this was asked last.
    #[track_caller]
    pub fn requests(&self) -> Vec<String> {
        let events = self.log("performance").into_iter().filter_map(|entry| {
            let told: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let event = &told["message"];
            (event["method"] == "Network.requestWillBeSent").then(|| event["params"].clone())
        });
        events
            .map(|params| params["request"]["url"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    #[track_caller]
    fn log(&self, kind: &str) -> Vec<Value> {
        match self.post("/se/log", &json!({"type": kind})) {
            Value::Array(entries) => entries,
            other => panic!("no log: {other}"),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Whatever is left of it ends with its driver.
        let ended = self.ask("DELETE", "", &json!({}));
        if ended.is_err() && !std::thread::panicking() {
            eprintln!("{}", self.driver.report());
        }
    }
}

/// The port that the driver says it has.
fn port_in(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once("was started successfully on port ")?;
    rest.split('.').next()?.trim().parse().ok()
}

/// Keys without a character, by
/// [the standard's numbers](https://www.w3.org/TR/webdriver2/#keyboard-actions).
pub mod key {
    /// Tab.
    pub const TAB: &str = "\u{E004}";
    /// Enter.
    pub const ENTER: &str = "\u{E007}";
}
