//! `[http.NAME]`.

use testkit::cdn::{Fault, HttpServer, Request, Response};

use super::*;

fn server() -> HttpServer {
    HttpServer::start(|_| Response::new(200, "ok"))
}

#[track_caller]
fn only(server: &HttpServer) -> Request {
    let mut requests = server.requests();
    assert_eq!(requests.len(), 1, "{requests:#?}");
    server.forget();
    requests.remove(0)
}

#[tokio::test]
async fn keys_go_into_a_header_in_batches() {
    let server = server();
    let mut lane = lane(&format!(
        "[http.varnish]\nurl = '{}/'\nmethod = 'PURGE'\nbatch = 2\n\
         headers = {{ 'xkey-purge' = '{{keys}}', host = 'www.example.com' }}\n\
         purge_all = {{ headers = {{ 'xkey-purge' = 'all' }} }}",
        server.url()
    ));
    let report = lane.send(&keys(["a", "b c", "c", "d"])).await.unwrap();
    assert_eq!((rejected(&report), report.requested), (vec![1], 3));
    let requests = server.requests();
    let mut sent: Vec<_> = requests.iter().filter_map(|r| r.header("xkey-purge")).collect();
    sent.sort();
    assert_eq!(sent, ["a c", "d"]);
    assert!(requests.iter().all(|request| request.method == "PURGE"
        && request.target == "/"
        && request.header("host") == Some("www.example.com")));
    server.forget();
    lane.send(&batch([(Verb::PurgeKey, "a"), (Verb::PurgeAll, "*")])).await.unwrap();
    assert_eq!(only(&server).header("xkey-purge"), Some("all"));
}

#[tokio::test]
async fn a_header_never_grows_beyond_what_servers_take() {
    let server = server();
    let mut lane = lane(&format!(
        "[http.varnish]\nurl = '{}/'\nbatch = 1000\nheaders = {{ 'xkey-purge' = '{{keys}}' }}",
        server.url()
    ));
    let names: Vec<String> = (0..30).map(|at| format!("{at:01000}")).collect();
    let report = lane.send(&keys(names.iter().map(String::as_str))).await.unwrap();
    assert_eq!(report.requested, 30);
    let lengths = server.requests().iter().map(|r| r.header("xkey-purge").unwrap().len()).max();
    assert!(lengths.is_some_and(|longest| longest < 8000), "{lengths:?}");
}

#[tokio::test]
async fn a_path_is_a_request_of_its_own() {
    let server = server();
    let mut lane = lane(&format!("[http.nginx]\nurl = '{}/purge{{path}}'", server.url()));
    let report = lane.send(&paths(["/a b/é?x#y", "/a/*", "/../etc"])).await.unwrap();
    assert_eq!(rejected(&report), [1, 2]);
    let request = only(&server);
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", "/purge/a%20b/%C3%A9?x%23y")
    );
}

#[tokio::test]
async fn a_key_that_would_lead_to_another_place_is_given_up() {
    let server = server();
    let mut lane = lane(&format!("[http.site]\nurl = '{}/tags/.{{key}}'", server.url()));
    let report = lane.send(&keys([".", "%2e", "/..", "x"])).await.unwrap();
    assert_eq!(rejected(&report), [0]);
    let mut targets: Vec<_> = server.requests().into_iter().map(|r| r.target).collect();
    targets.sort();
    assert_eq!(targets, ["/tags/.%252e", "/tags/.%2F..", "/tags/.x"]);
}

#[tokio::test]
async fn wildcards_become_regular_expressions() {
    let server = server();
    let mut lane = lane(&format!(
        "[http.varnish]\nurl = '{}'\nmethod = 'BAN'\nheaders = {{ x-ban-url = '{{path|regex}}' }}",
        server.url()
    ));
    for (path, expected) in [("/a.b/*", r"^/a\.b/"), ("/a(b", r"^/a\(b$")] {
        lane.send(&paths([path])).await.unwrap();
        let request = only(&server);
        assert_eq!((request.method.as_str(), request.header("x-ban-url")), ("BAN", Some(expected)));
    }
}

#[tokio::test]
async fn a_json_body_holds_any_key_as_one() {
    let server = server();
    let mut lane = lane(&format!(
        "[http.cloudflare]\nurl = '{}/purge_cache'\ntoken = 'T'\n\
         body = '{{{{\"tags\":{{keys|json}}}}}}'",
        server.url()
    ));
    let report = lane.send(&keys(["a", "b\",\"c", "d e", "f\n"])).await.unwrap();
    assert_eq!(rejected(&report), [3]);
    let request = only(&server);
    assert_eq!(request.text(), r#"{"tags":["a","b\",\"c","d e"]}"#);
    assert_eq!(request.header("authorization"), Some("Bearer T"));
    assert_eq!(request.header("content-type"), Some("application/json"));
}

/// The second case of RFC 4231.
#[tokio::test]
async fn a_body_is_signed() {
    let server = server();
    let mut lane = lane(&format!(
        "[http.hook]\nurl = '{}/{{key}}'\nbody = 'what do ya want for nothing?'\n\
         signature = {{ header = 'x-hub-signature-256', prefix = 'sha256=', secret = 'Jefe' }}",
        server.url()
    ));
    lane.send(&keys(["a/b"])).await.unwrap();
    let request = only(&server);
    assert_eq!(request.target, "/a%2Fb");
    assert_eq!(
        request.header("x-hub-signature-256"),
        Some("sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    );
}

#[tokio::test]
async fn the_statuses_that_are_accepted_are_those_that_are_configured() {
    let server = HttpServer::start(|_| Response::new(404, ""));
    let section = |more: &str| format!("[http.nginx]\nurl = '{}{{path}}'\n{more}", server.url());
    let (message, hint) = refused(lane(&section("")).send(&paths(["/secret-path"])).await);
    assert!(message.contains("404") && hint.contains("accept"), "{message} {hint}");
    assert!(!message.contains("secret-path"), "{message}");
    lane(&section("accept = [200, 404]")).send(&paths(["/a"])).await.unwrap();
    let mut strict = lane(&section("accept = [200]"));
    server.fail([Fault::Status(204)]);
    refused(strict.send(&paths(["/a"])).await);
}

#[tokio::test]
async fn answers_that_mend_themselves_are_outages_and_others_are_not() {
    let server = server();
    let mut lane = lane(&format!(
        "[http.varnish]\nurl = '{}/'\nheaders = {{ 'xkey-purge' = '{{keys}}' }}",
        server.url()
    ));
    for status in [408, 500, 502, 503, 504] {
        server.fail([Fault::Status(status)]);
        assert!(outage(lane.send(&keys(["a"])).await).contains(&status.to_string()));
    }
    for status in [301, 302, 401, 403, 404, 405, 407] {
        server.fail([Fault::Status(status)]);
        assert!(refused(lane.send(&keys(["a"])).await).0.contains(&status.to_string()));
    }
    // Nothing was accepted yet: that says more about the request than about the key.
    server.fail([Fault::Status(400)]);
    assert!(refused(lane.send(&keys(["a"])).await).0.contains("has accepted nothing yet"));
    lane.send(&keys(["a"])).await.unwrap();
    server.fail([Fault::Status(400)]);
    assert_eq!(rejected(&lane.send(&keys(["a"])).await.unwrap()), [0]);
    let requests = server.requests().len();
    server.fail_always(Some(Fault::Refuse));
    outage(lane.send(&keys(["a"])).await);
    server.fail_always(None);
    lane.send(&keys(["a"])).await.unwrap();
    assert!(server.requests().len() > requests);
}

#[tokio::test]
async fn an_endpoint_that_asks_for_patience_gets_it() {
    let server = HttpServer::start(|_| Response::new(429, "").with("Retry-After", 100));
    let mut lane = lane(&format!(
        "[http.varnish]\nurl = '{}/'\nheaders = {{ 'xkey-purge' = '{{keys}}' }}",
        server.url()
    ));
    assert!(outage(lane.send(&keys(["a"])).await).contains("429"));
    assert!(outage(lane.send(&keys(["a"])).await).contains("wants no request"));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_accepts_nothing_is_held_and_one_that_refuses_an_item_goes_on() {
    let server = HttpServer::start(|request| {
        let is_bad = request.text().contains("bad") || request.text().contains("all-wrong");
        Response::new(if is_bad { 400 } else { 200 }, "")
    });
    let section =
        |body: &str| format!("[http.cloudflare]\nurl = '{}/'\nbody = '{body}'", server.url());
    let mut wrong = lane(&section("{{\"all-wrong\":{keys|json}}}"));
    for _ in 0..3 {
        refused(wrong.send(&keys(["a", "b", "c"])).await);
    }
    let mut right = lane(&section("{{\"tags\":{keys|json}}}"));
    let report = right.send(&keys(["bad1", "a", "bad2", "b"])).await.unwrap();
    assert_eq!((rejected(&report), report.requested), (vec![0, 2], 2));
    assert_eq!(rejected(&right.send(&keys(["bad3"])).await.unwrap()), [0]);
}
