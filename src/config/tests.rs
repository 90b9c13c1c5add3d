//! Tests of what a configuration means; what is wrong in one is in `tests/golden/config`.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::action::Verb;
use crate::change::Op;
use crate::rules::{FALLBACK_EVERY, FallbackSpec, rule_names};
use crate::sinks::redis::{RedisOptions, TagMode};

const MINIMAL: &str = r#"
[postgres]
url = "postgres://walpurge@localhost/shop"
[redis.cache]
url = "redis://localhost:6379/0"
[[rule]]
table = "public.products"
delete = ["product:{id}"]
"#;

const EXAMPLE: &str = include_str!("../../config.toml.example");

#[track_caller]
fn good(text: &str) -> Config {
    match parse("config.toml", text) {
        Ok(loaded) => loaded.config,
        Err(problems) => {
            let source = Source { name: "config.toml".to_owned(), text: text.to_owned() };
            panic!("{}", render(&source, &problems, Style::Plain))
        }
    }
}

#[track_caller]
fn messages(text: &str) -> Vec<String> {
    let problems = parse("config.toml", text).expect_err("problems");
    problems.into_iter().map(|problem| problem.message).collect()
}

/// What differs between two configs; spans and texts as typed left out.
fn postgres_and_redis(config: &Config) -> String {
    let redis = &config.redis[0];
    let PostgresConfig {
        slot,
        plugin,
        publication,
        create_slot,
        visibility,
        heartbeat,
        on_gap,
        messages,
        url: _,
        lookup_url: _,
        replicas: _,
        replay: _,
    } = &config.postgres;
    let RedisSinkConfig { mode, settings, url: _, sentinel: _, cluster } = redis;
    let RedisOptions { prefix, tag_key, tag_mode, wait_replicas, failover_window, .. } = settings;
    assert!(cluster.is_empty() && settings.max_keys_per_second.is_none());
    let postgres =
        (slot, (plugin, publication), create_slot, visibility, heartbeat, on_gap, messages);
    format!("{postgres:?} {:?}", (prefix, tag_key, tag_mode, mode, wait_replicas, failover_window))
}

#[test]
fn what_is_not_given_has_its_default() {
    let config = good(MINIMAL);
    assert_eq!(config.state_dir, None);
    let postgres = &config.postgres;
    assert_eq!(postgres.slot, "walpurge");
    assert_eq!((postgres.plugin, postgres.publication.as_str()), (Plugin::Wal2json, "walpurge"));
    assert!(postgres.create_slot);
    assert_eq!(postgres.visibility, Visibility::Wait);
    assert_eq!(postgres.heartbeat, Some(Duration::from_secs(30)));
    let redis = &config.redis[0].settings;
    assert_eq!((redis.name.as_str(), redis.prefix.as_str()), ("cache", ""));
    assert_eq!((redis.tag_key.as_str(), redis.tag_mode), ("tags:{tag}", TagMode::Members));
    let rule = &config.rules[0];
    assert!(rule.enabled && rule.name.is_none() && rule.on.is_none() && rule.sinks.is_none());
    assert!(
        matches!(&rule.fallback, FallbackSpec::Actions { derive: true, templates, publish: None }
        if templates.is_empty())
    );
}

#[test]
fn everything_that_is_given_is_meant() {
    let config = good(
        r#"
        state_dir = "/tmp/x"
        [postgres]
        url = "host=localhost dbname=shop"
        slot = "s_1"
        plugin = "wal2json"
        create_slot = false
        visibility = "skip"
        heartbeat = "0s"
        replay = { window = "2h 30m", max_wal = "512MiB" }
        [redis.b]
        url = "rediss://u:p@h:7000/2"
        prefix = "p:"
        tag_key = "{t:{tag}}"
        tag_mode = "version"
        [redis.a]
        url = "unix:///run/redis.sock"
        [[rule]]
        name = "r"
        enabled = false
        table = ["public.a", "*.b"]
        on = ["delete", "insert"]
        tags = ["t"]
        delete = ["k1", "k2"]
        sinks = ["a"]
        [rule.fallback]
        derive = false
        bump = ["c"]
        [[rule]]
        table = "public.a"
        bump = ["x"]
        fallback = "none"
        "#,
    );
    assert_eq!(config.state_dir, Some(PathBuf::from("/tmp/x")));
    assert_eq!((config.postgres.slot.as_str(), config.postgres.create_slot), ("s_1", false));
    assert_eq!(config.postgres.visibility, Visibility::Skip);
    assert_eq!(config.postgres.heartbeat, None);
    let (window, max_wal) = (Duration::from_secs(9000), 512 << 20);
    assert_eq!(config.postgres.replay, Some(ReplayConfig { window, max_wal }));
    let names: Vec<_> = config.redis.iter().map(|sink| sink.settings.name.as_str()).collect();
    assert_eq!(names, ["b", "a"], "the order of the file");
    assert_eq!(
        (config.redis[0].settings.prefix.as_str(), config.redis[0].settings.tag_mode),
        ("p:", TagMode::Version)
    );
    assert_eq!(config.redis[0].settings.tag_key, "{t:{tag}}");
    let rule = &config.rules[0];
    assert!(!rule.enabled);
    assert_eq!(rule.on, Some(vec![Op::Delete, Op::Insert]));
    let templates: Vec<_> =
        rule.templates.iter().map(|(verb, text)| (*verb, text.value.as_str())).collect();
    assert_eq!(templates, [(Verb::Delete, "k1"), (Verb::Delete, "k2"), (Verb::Tag, "t")]);
    assert!(matches!(&rule.fallback, FallbackSpec::Actions { derive: false, templates, .. }
        if templates[0].0 == Verb::Bump && templates[0].1.value == "c"));
    assert!(matches!(config.rules[1].fallback, FallbackSpec::None));
}

#[test]
fn the_example_is_right() {
    let config = good(EXAMPLE);
    let names = ["product", "public.users", "public.categories", "public.orders", "audit.log_*"]
        .map(str::to_owned);
    assert_eq!(rule_names(&config.rules), names);
}

/// The example with its commented keys uncommented.
fn example_with_defaults() -> (String, Vec<&'static str>) {
    let mut keys = Vec::new();
    let default_of = |line: &'static str| {
        let setting = line.strip_prefix("# ")?;
        let (key, _) = setting.split_once(" = ")?;
        let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_key.then_some((key, setting))
    };
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        if let Some((key, setting)) = default_of(line) {
            keys.push(key);
            text.push_str(setting);
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    (text, keys)
}

#[test]
fn the_example_shows_the_defaults_of_the_code() {
    let (text, mut keys) = example_with_defaults();
    let (written, default) = (good(&text), good(EXAMPLE));
    assert_eq!(postgres_and_redis(&written), postgres_and_redis(&default));
    assert_eq!(postgres_and_redis(&written), postgres_and_redis(&good(MINIMAL)));
    // An example, since the section is absent by default; its keys have defaults.
    assert_eq!(default.postgres.replay, Some(ReplayConfig::default()));
    assert_eq!(written.postgres.replay, default.postgres.replay);
    assert_eq!(good(MINIMAL).postgres.replay, None);
    let waits = |config: &Config| config.postgres.replicas.as_ref().map(|of| of.max_wait);
    assert_eq!(waits(&default), Some(Duration::from_secs(5)));
    assert_eq!((waits(&written), waits(&good(MINIMAL))), (waits(&default), None));
    for (written, default) in written.cdn.iter().zip(&default.cdn) {
        assert_eq!(format!("{written:?}"), format!("{default:?}"));
    }
    let rule = &written.rules[0];
    assert!(rule.enabled);
    assert_eq!(rule.fallback_every, Some(FALLBACK_EVERY));
    assert_eq!(rule.on.as_deref(), Some(&Op::ALL[..]));
    assert!(matches!(rule.fallback, FallbackSpec::Actions { derive: true, .. }));
    let admin = [&written, &good(MINIMAL)].map(|config| config.admin.show_keys);
    assert_eq!(admin, [false; 2]);
    assert!(good(MINIMAL).admin.listen.is_none() && good(MINIMAL).admin.token.is_none());
    keys.sort_unstable();
    let expected = [
        "batch",
        "create_slot",
        "derive",
        "enabled",
        "endpoint",
        "fallback_every",
        "heartbeat",
        "max_wait",
        "max_wal",
        "messages",
        "mode",
        "mode",
        "mode",
        "mode",
        "on",
        "on_gap",
        "plugin",
        "prefix",
        "show_keys",
        "slot",
        "soft",
        "tag_key",
        "tag_mode",
        "visibility",
        "wait_replicas",
        "window",
    ];
    assert_eq!(keys, expected, "every key with a default is shown with it");
}

#[test]
fn a_secret_is_fetched_when_it_is_asked_for_and_not_before() {
    let text = MINIMAL
        .replace("\"redis://localhost:6379/0\"", "{ env = \"WALPURGE_TEST_THAT_NOBODY_SETS\" }");
    let url = &good(&text).redis[0].url;
    let error = url.resolve().expect_err("not set");
    let expected = "`redis.cache.url`: environment variable `WALPURGE_TEST_THAT_NOBODY_SETS` is \
                    not set";
    assert_eq!(error.to_string(), expected);
    // Cargo sets this one.
    let url = &good(&text.replace("WALPURGE_TEST_THAT_NOBODY_SETS", "CARGO_PKG_NAME")).redis[0].url;
    assert_eq!(url.resolve().expect("set").expose_secret(), "walpurge");
}

#[test]
fn a_file_loses_one_newline_and_is_relative_to_the_config() {
    let directory = tempfile::tempdir().expect("a directory");
    for (written, read) in [("x", "x"), ("x\n", "x"), ("x\r\n", "x"), ("x\n\n", "x\n"), ("", "")] {
        std::fs::write(directory.path().join("secret"), written).expect("written");
        let text = MINIMAL.replace("\"redis://localhost:6379/0\"", "{ file = \"secret\" }");
        let path = directory.path().join("config.toml");
        std::fs::write(&path, text).expect("written");
        let config = load(&path).expect("good").config;
        assert_eq!(config.redis[0].url.resolve().expect("there").expose_secret(), read);
    }
    std::fs::remove_file(directory.path().join("secret")).expect("removed");
    let config = load(&directory.path().join("config.toml")).expect("good").config;
    let error = config.redis[0].url.resolve().expect_err("missing");
    assert!(error.to_string().starts_with("`redis.cache.url`: cannot read file `"), "{error}");
}

#[test]
fn a_credential_outside_of_a_unit_says_how_to_get_one() {
    let text = MINIMAL.replace("\"redis://localhost:6379/0\"", "{ credential = \"cache\" }");
    let error = good(&text).redis[0].url.resolve().expect_err("no unit");
    let (hint, loaded) =
        (error.hint(), "--property=LoadCredential=cache:/etc/walpurge/cache.token");
    assert!(hint.contains("systemd-run") && hint.contains(loaded), "{hint}");
}

#[test]
fn a_string_that_is_no_secret_may_be_kept_elsewhere_too() {
    let text =
        MINIMAL.replace("[redis.cache]", "[redis.cache]\nprefix = { env = \"CARGO_PKG_NAME\" }");
    assert_eq!(good(&text).redis[0].settings.prefix, "walpurge");
    let text = text.replace("CARGO_PKG_NAME", "WALPURGE_TEST_THAT_NOBODY_SETS");
    let expected = "`redis.cache.prefix`: environment variable `WALPURGE_TEST_THAT_NOBODY_SETS` \
                    is not set";
    assert_eq!(messages(&text), [expected]);
}

#[test]
fn debug_shows_no_secret() {
    let text = MINIMAL.replace("walpurge@", "walpurge:hunter2@");
    let loaded = parse("config.toml", &text).expect("good");
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn a_config_with_problems_still_gives_its_rules() {
    let text = MINIMAL.replace("[postgres]", "[postgres]\nslot = 3");
    let (config, problems) = read(&Source { name: "config.toml".to_owned(), text });
    assert_eq!(problems.len(), 1);
    assert_eq!(config.expect("a config").rules.len(), 1);
}

#[test]
fn a_file_that_cannot_be_read_says_which_and_why() {
    let error = load(Path::new("/nowhere/config.toml")).expect_err("missing");
    let expected = "error: cannot read the configuration file `/nowhere/config.toml`: No such file \
                    or directory (os error 2)\n";
    assert_eq!(error.render(Style::Plain), expected);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.toml");
    std::fs::write(&path, b"# \xff").expect("written");
    assert!(matches!(load(&path), Err(ConfigError::NotUtf8 { byte: 2, .. })));
    std::fs::write(&path, vec![b' '; FILE_BYTES_MAX as usize + 1]).expect("written");
    assert!(matches!(load(&path), Err(ConfigError::TooLarge { .. })));
}

#[test]
fn a_sink_gets_what_its_section_says() {
    let text = MINIMAL.replace("[redis.cache]", "[redis.cache]\nprefix = 'p:'\ntag_key = 't{tag}'");
    let options = good(&text).redis[0].options().expect("a literal");
    assert_eq!((options.name.as_str(), options.prefix.as_str()), ("cache", "p:"));
    assert_eq!(options.tag_key, "t{tag}");
    assert_eq!(options.url.expose_secret(), "redis://localhost:6379/0");
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_mistakes() {
    good(&format!("\u{feff}{}", MINIMAL.replace('\n', "\r\n")));
}
