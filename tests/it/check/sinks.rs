//! What is found about Redis.

use super::Scene;

#[test]
fn a_redis_that_is_down_fails_and_postgres_is_looked_at_all_the_same() {
    let mut scene = Scene::new();
    scene.redis.stop();
    let findings = scene.findings();
    assert_eq!(findings.code, 1);
    assert_eq!(findings.subjects("failed"), ["cache"]);
    findings.one("ok", "barrier");
    let message = &findings.one("failed", "cache").message;
    assert!(message.contains(&scene.redis.url()), "{message}");
}

#[test]
fn a_missing_right_is_named_and_its_line_mends_it() {
    let scene = Scene::new();
    scene.redis.cli(&["ACL", "SETUSER", "app", "-unlink"]);
    let findings = scene.findings();
    assert_eq!(findings.code, 1);
    let failed: Vec<_> = findings.list.iter().filter(|f| f.status == "failed").collect();
    assert_eq!(failed.len(), 2, "delete and delete_matching: {failed:#?}");
    assert!(failed[0].message.contains("NOPERM"), "{failed:#?}");
    let line: Vec<_> = failed[0].hint.split(' ').collect();
    assert_eq!(line[..3], ["ACL", "SETUSER", "app"], "{line:?}");
    scene.redis.cli(&line);
    assert_eq!(scene.check(&["--strict"]).code, 0);
}

#[test]
fn a_wrong_password_fails_and_is_not_shown() {
    let mut scene = Scene::new();
    scene.edit("app:geheim@", "app:geheimer@");
    let findings = scene.findings();
    let failed = findings.one("failed", "cache");
    assert!(failed.message.contains("WRONGPASS"), "{failed:?}");
}

#[test]
fn a_sink_that_no_rule_uses_is_warned_about() {
    let mut scene = Scene::new();
    let url = scene.redis.url();
    scene.edit(
        "[[rule]]",
        &format!("[redis.spare]\nurl = \"{url}\"\n[[rule]]\nsinks = [\"cache\"]"),
    );
    let findings = scene.findings();
    assert_eq!(findings.code, 0, "{:#?}", findings.list);
    assert_eq!(findings.subjects("warning"), ["spare"]);
}
