//! What `check` says of CDN sinks.

use testkit::cdn::{CloudFront, Fastly, Fault, HttpServer, Response};

use super::Scene;

const RULE: &str = "[[rule]]\nname = \"page\"\ntable = \"public.products\"\n\
                    purge_keys = [\"product-{id}\"]\nsinks = [\"edge\"]\n";

fn with(section: &str) -> Scene {
    let mut scene = Scene::new();
    scene.edit("[[rule]]", &format!("{section}{RULE}[[rule]]"));
    scene
}

#[test]
fn a_token_of_fastly_is_asked_what_it_may_do_and_nothing_is_purged() {
    let fastly = Fastly::start();
    let scene = with(&format!("[fastly.edge]\n{}", fastly.settings()));
    let findings = scene.findings();
    let said: Vec<_> = findings.list.iter().filter(|finding| finding.subject == "edge").collect();
    assert!(said.iter().all(|finding| finding.status == "ok"), "{said:#?}");
    assert!(said.iter().any(|finding| finding.message.ends_with("the scope purge_all")));
    fastly.allow(|rules| rules.scopes = vec!["purge_select"]);
    let failed = scene.findings();
    assert!(failed.one("failed", "edge").message.contains("purge_all"));
    fastly.server().fail_always(Some(Fault::Status(401)));
    let failed = scene.findings();
    assert!(failed.one("failed", "edge").hint.contains("fastly.edge.token"));
    assert_eq!((fastly.keys().len(), fastly.all()), (0, 0));
    assert!(!scene.check(&[]).out.contains(fastly.token()), "the token is shown");
}

#[test]
fn an_endpoint_that_answers_is_good_and_what_it_does_is_not_known() {
    let server = HttpServer::start(|_| Response::new(405, ""));
    let section = format!(
        "[http.edge]\nurl = \"{}/purge\"\nheaders = {{ x = \"{{keys}}\" }}\n\
         purge_all = {{ headers = {{ x = \"all\" }} }}\n",
        server.url()
    );
    let scene = with(&section);
    assert!(scene.findings().one("note", "edge").message.contains("whether it lets us purge"));
    assert!(server.requests().iter().all(|request| request.method == "HEAD"));
    drop(server);
    assert!(scene.findings().one("failed", "edge").message.starts_with("connect: "));
}

#[test]
fn cloudfront_is_asked_for_an_invalidation_that_is_not_there() {
    let cloudfront = CloudFront::start();
    let mut scene = with(&format!("[cloudfront.edge]\n{}", cloudfront.settings()));
    scene.env.extend([("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "x")]);
    let findings = scene.findings();
    assert!(findings.one("ok", "edge").message.contains("may look at"));
    assert!(findings.one("note", "edge").hint.contains("cloudfront:CreateInvalidation"));
    cloudfront.allow(|rules| rules.error = Some(("AccessDenied", 403)));
    let failed = scene.findings();
    assert!(failed.one("failed", "edge").hint.contains("cloudfront:GetInvalidation"));
    assert_eq!(cloudfront.charged(), 0);
}
