//! What is found about Redis.

use walpurge::action::Verb;

use super::Scene;

const VERBS: [Verb; 6] = [
    Verb::Delete,
    Verb::DeleteMatching,
    Verb::Bump,
    Verb::BumpMatching,
    Verb::Tag,
    Verb::TagMatching,
];

#[test]
fn a_redis_that_is_down_fails_and_postgres_is_looked_at_all_the_same() {
    let mut scene = Scene::new();
    scene.redis.stop();
    let findings = scene.findings();
    assert_eq!(findings.code, 1);
    assert_eq!(findings.subjects("failed"), ["cache"]);
    findings.one("ok", "barrier");
    let failed = findings.one("failed", "cache");
    assert!(failed.message.contains(&scene.redis.url()), "{failed:?}");
    assert_eq!(failed.hint, "start the server, or correct redis.cache.url");
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

/// The findings of how many keys the fallbacks match.
fn counts(findings: &super::Findings) -> Vec<&str> {
    let messages = findings.list.iter().map(|finding| finding.message.as_str());
    messages.filter(|message| message.starts_with("fallback ")).collect()
}

#[test]
fn the_keys_that_fallbacks_match_are_counted_and_not_named() {
    let mut scene = Scene::new();
    assert_eq!(counts(&scene.findings()), ["fallback product:* matches 0 of 0 keys of cache"]);
    let url = scene.redis.url();
    scene.edit(
        "[[rule]]",
        &format!(
            "[redis.shop]\nurl = \"{url}\"\nprefix = \"a*:\"\ntag_key = \"t[{{tag}}]\"\n\
             [[rule]]\ntags = [\"item:{{id}}\"]\nbump = [\"version:{{id}}\", \"home\"]\n"
        ),
    );
    super::grant(&scene.redis, &VERBS);
    let fill = "for i = 1, 1200 do redis.call('SET', 'product:secret' .. i, 1) end
        for i = 1, 7 do redis.call('SET', 'a*:product:secret' .. i, 1)
            redis.call('SADD', 'a*:t[item:secret' .. i .. ']', 1) end
        redis.call('SADD', 'tags:item:secret', 1)
        redis.call('SADD', 'tags:item:{secret}', 1)
        redis.call('SET', 'version:secret', 1) redis.call('SET', 'abc:product:secret', 1)
        redis.call('SELECT', 1) redis.call('SET', 'product:secret', 1)";
    scene.redis.cli(&["EVAL", fill, "0"]);
    let checked = scene.check(&[]);
    assert!(!checked.out.contains("secret"), "{}", checked.out);
    let line = "\n✓ rule product: fallback product:* matches 1,200 of 1,218 keys of cache\n";
    assert!(checked.out.contains(line), "{}", checked.out);
    let mut expected = [
        "fallback product:* matches 1,200 of 1,218 keys of cache",
        "fallback version:* matches 1 of 1,218 keys of cache",
        "fallback tags:item:* matches 2 of 1,218 keys of cache",
        r"fallback a\*:product:* matches 7 of 1,218 keys of shop",
        r"fallback a\*:version:* matches 0 of 1,218 keys of shop",
        r"fallback a\*:t\[item:*\] matches 7 of 1,218 keys of shop",
    ];
    let findings = scene.findings();
    let mut found = counts(&findings);
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn so_many_keys_that_a_part_of_them_has_to_do_are_estimated() {
    let scene = Scene::new();
    let fill = "for i = 1, 75000 do redis.call('SET', 'product:' .. i, 1)
        redis.call('SET', 'session:' .. i, 1) end";
    scene.redis.cli(&["EVAL", fill, "0"]);
    let findings = scene.findings();
    let [count] = counts(&findings)[..] else { panic!("{findings:?}") };
    let share = count.strip_prefix("fallback product:* matches about ").expect(count);
    let expected = share.strip_suffix(" of 150,000 keys of cache").expect(count);
    let expected: u64 = expected.replace(',', "").parse().unwrap();
    assert!((70_000..80_000).contains(&expected), "{count}");
}

#[test]
fn keys_that_may_not_be_counted_are_a_note_with_the_line_that_grants_it() {
    let scene = Scene::new();
    scene.redis.cli(&["SET", "product:1", "1"]);
    // Nothing but the share of them all depends on INFO.
    scene.redis.cli(&["ACL", "SETUSER", "app", "-info"]);
    assert_eq!(counts(&scene.findings()), ["fallback product:* matches 1 of 1 keys of cache"]);
    scene.redis.cli(&["ACL", "SETUSER", "app", "-scan"]);
    let findings = scene.findings();
    assert_eq!(counts(&findings), [""; 0]);
    let note = findings.one("note", "cache");
    assert!(note.message.starts_with("the keys of the fallbacks cannot be counted: "), "{note:?}");
    assert!(note.message.contains("NOPERM"), "{note:?}");
    scene.redis.cli(&note.hint.split(' ').collect::<Vec<_>>());
    assert_eq!(counts(&scene.findings()).len(), 1);
    assert_eq!(scene.check(&["--strict"]).code, 0);
}
