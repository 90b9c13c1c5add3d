//! `walpurge schema`: does it say what the configuration's own walker says?

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use walpurge::config::{parse, schema};

const EXAMPLE: &str = include_str!("../../config.toml.example");

/// A key that no name resembles.
const UNKNOWN: &str = "qqqqqqqqqqqqqqqq";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_file_in_the_repository_is_what_the_command_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_walpurge")).arg("schema").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let path = root().join("config.schema.json");
    if std::env::var_os("WALPURGE_BLESS").is_some() {
        std::fs::write(&path, &printed).unwrap();
    }
    assert!(printed == std::fs::read_to_string(&path).unwrap(), "WALPURGE_BLESS=1 writes it anew");
    assert!(EXAMPLE.starts_with("#:schema ./config.schema.json\n"), "the example names it");
}

/// Where the schema of each section is, by the name that problems give it.
fn sections(schema: &Value) -> BTreeMap<&'static str, &Value> {
    let rule = &schema["properties"]["rule"]["items"];
    let http = &schema["properties"]["http"]["additionalProperties"];
    let value = &schema["$defs"]["row"]["additionalProperties"]["anyOf"];
    BTreeMap::from([
        ("at the top of the file", schema),
        ("in `admin`", &schema["properties"]["admin"]),
        ("in `postgres`", &schema["properties"]["postgres"]),
        ("in `postgres.replay`", &schema["properties"]["postgres"]["properties"]["replay"]),
        ("in `postgres.url`", &schema["$defs"]["elsewhere"]),
        ("in `redis.cache`", &schema["properties"]["redis"]["additionalProperties"]),
        (
            "in `redis.cache.sentinel`",
            &schema["properties"]["redis"]["additionalProperties"]["properties"]["sentinel"],
        ),
        ("in `fastly.edge`", &schema["properties"]["fastly"]["additionalProperties"]),
        ("in `cloudfront.site`", &schema["properties"]["cloudfront"]["additionalProperties"]),
        ("in `http.varnish`", http),
        ("in `http.varnish.purge_all`", &http["properties"]["purge_all"]),
        ("in `http.varnish.signature`", &http["properties"]["signature"]),
        ("in `rule`", rule),
        (
            "in `rule.delete_matching[0]`",
            &rule["properties"]["delete_matching"]["items"]["anyOf"][1],
        ),
        ("in `rule.fallback`", &rule["properties"]["fallback"]["anyOf"][1]),
        ("in `rule.test`", &rule["properties"]["test"]["items"]),
        ("in `rule.test.old.id`", &value[1]),
        ("in `rule.where.id`", &schema["$defs"]["condition"]["anyOf"][2]),
    ])
}

/// The keys that the walker knows in each section, as it says them of one that it does not know.
fn known_to_the_walker() -> BTreeMap<String, BTreeSet<String>> {
    let text = format!(
        "{UNKNOWN} = 1\n[postgres]\n{UNKNOWN} = 1\nurl = {{ {UNKNOWN} = 1 }}\n\
         [postgres.replay]\n{UNKNOWN} = 1\n\
         [admin]\n{UNKNOWN} = 1\n\
         [redis.cache]\n{UNKNOWN} = 1\nsentinel = {{ {UNKNOWN} = 1 }}\n\
         [fastly.edge]\n{UNKNOWN} = 1\n\
         [cloudfront.site]\n{UNKNOWN} = 1\n\
         [http.varnish]\n{UNKNOWN} = 1\npurge_all = {{ {UNKNOWN} = 1 }}\n\
         signature = {{ {UNKNOWN} = 1 }}\n\
         [[rule]]\n{UNKNOWN} = 1\ndelete_matching = [{{ {UNKNOWN} = 1 }}]\nwhere = {{ id = {{ {UNKNOWN} = 1 }} }}\n\
         [rule.fallback]\n{UNKNOWN} = 1\n\
         [[rule.test]]\n{UNKNOWN} = 1\nold = {{ id = {{ {UNKNOWN} = 1 }} }}\n"
    );
    let mut known = BTreeMap::new();
    for problem in parse("config.toml", &text).unwrap_err() {
        let Some(place) = problem.message.strip_prefix(&format!("unknown key `{UNKNOWN}` ")) else {
            continue;
        };
        let help = problem.help.unwrap();
        let list = help.strip_prefix("known here: ").unwrap();
        let keys = list.split(", ").map(|key| key.trim_matches('`').to_owned()).collect();
        known.insert(place.to_owned(), keys);
    }
    known
}

#[test]
fn it_has_the_keys_that_the_walker_knows_each_with_a_description() {
    let schema = schema();
    let known = known_to_the_walker();
    let sections = sections(&schema);
    assert!(known.keys().map(String::as_str).eq(sections.keys().copied()), "{known:#?}");
    for (place, section) in sections {
        let properties = section["properties"].as_object().unwrap();
        let keys: BTreeSet<_> = properties.keys().cloned().collect();
        assert_eq!(keys, known[place], "{place}");
        assert_eq!(section["additionalProperties"], false, "{place}");
        for (key, property) in properties {
            let description = property["description"].as_str().unwrap_or_default();
            assert!(description.ends_with('.'), "{place}: {key}: {description:?}");
        }
    }
}

/// The words that the walker allows where a key has an unknown one.
#[track_caller]
fn allowed(line: &str) -> Vec<String> {
    let (section, setting) = line.split_once(": ").unwrap();
    let text = format!("{section}\n{}", setting.replace('?', UNKNOWN));
    let problems = parse("config.toml", &text).unwrap_err();
    let helps = problems.iter().filter_map(|problem| problem.help.as_deref());
    let list = helps.filter_map(|help| help.strip_prefix("allowed: ")).next().unwrap();
    list.split(", ").map(|word| word.trim_matches('`').to_owned()).collect()
}

#[test]
fn its_words_are_those_that_the_walker_allows() {
    let schema = schema();
    let sections = sections(&schema);
    let cases = [
        ("in `postgres`", "plugin", "[postgres]: plugin = '?'"),
        ("in `postgres`", "visibility", "[postgres]: visibility = '?'"),
        ("in `postgres`", "messages", "[postgres]: messages = '?'"),
        ("in `redis.cache`", "mode", "[redis.cache]: mode = '?'"),
        ("in `fastly.edge`", "mode", "[fastly.edge]: mode = '?'"),
        ("in `cloudfront.site`", "mode", "[cloudfront.site]: mode = '?'"),
        ("in `http.varnish`", "mode", "[http.varnish]: mode = '?'"),
        ("in `redis.cache`", "tag_mode", "[redis.cache]: tag_mode = '?'"),
        ("in `rule`", "on", "[[rule]]: on = ['?']"),
        ("in `rule.test`", "op", "[[rule]]\n[[rule.test]]: op = '?'"),
    ];
    for (place, key, line) in cases {
        let property = &sections[place]["properties"][key];
        let words = property.get("items").unwrap_or(property)["anyOf"][0]["enum"].clone();
        assert_eq!(words, serde_json::json!(allowed(line)), "{place}: {key}");
    }
}

#[test]
fn its_defaults_are_those_of_the_example() {
    let schema = schema();
    let sections = sections(&schema);
    let mut section = "at the top of the file".to_owned();
    let mut shown = BTreeMap::new();
    for line in EXAMPLE.lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = format!("in `{}`", header.trim_matches(['[', ']']));
        }
        let Some((key, value)) = line.strip_prefix("# ").and_then(|line| line.split_once(" = "))
        else {
            continue;
        };
        if sections.get(section.as_str()).is_some_and(|s| s["properties"].get(key).is_some()) {
            let value: toml::Table = toml::from_str(&format!("x = {value}")).unwrap();
            let value = serde_json::to_value(&value["x"]).unwrap();
            shown.insert((section.clone(), key.to_owned()), value);
        }
    }
    let mut said = BTreeMap::new();
    for (place, section) in &sections {
        for (key, property) in section["properties"].as_object().unwrap() {
            if let Some(default) = property.get("default") {
                said.insert(((*place).to_owned(), key.clone()), default.clone());
            }
        }
    }
    // The example needs it where it shows it.
    said.remove(&("in `rule.test`".to_owned(), "expect_fallback".to_owned()));
    assert_eq!(said, shown);
    assert!(said.len() > 9, "{said:?}");
}

#[test]
fn it_admits_every_configuration_that_loads() {
    let schema = schema();
    let mut count = 0;
    let mut admit = |name: &str, text: &str| {
        if parse(name, text).is_ok() {
            count += 1;
            assert_eq!(faults(&schema, text), Vec::<String>::new(), "{name}");
        }
    };
    admit("config.toml.example", EXAMPLE);
    for path in files("tests/golden/config", "toml").iter().chain(&files("docker", "toml")) {
        admit(&path.to_string_lossy(), &std::fs::read_to_string(path).unwrap());
    }
    for path in files("tests/golden/rules", "toml") {
        let case: toml::Table = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let rules = case["rules"].as_str().unwrap();
        let sink =
            if rules.contains("[redis.") { "" } else { "[redis.cache]\nurl = 'redis://h'\n" };
        let text = format!("[postgres]\nurl = 'postgres://h/d'\n{sink}{rules}");
        admit(&path.to_string_lossy(), &text);
    }
    assert!(count > 50, "only {count} were found");
}

#[test]
fn it_refuses_what_a_schema_can_refuse() {
    let schema = schema();
    let refused = [
        "bad_enum",
        "bad_replicas",
        "bad_rule_test",
        "bad_where",
        "no_postgres",
        "no_postgres_url",
        "no_redis_url",
        "no_rule",
        "no_sink",
        "no_table",
        "no_verb",
        "redis_without_name",
        "unknown_key",
        "unknown_section",
        "unknown_sections_of_rules",
        "wrong_type",
        "wrong_type_section",
    ];
    for name in refused {
        let path = root().join(format!("tests/golden/config/{name}.toml"));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(!faults(&schema, &text).is_empty(), "{name}");
    }
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(directory)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// What a configuration has that the schema does not admit.
fn faults(schema: &Value, text: &str) -> Vec<String> {
    let table: toml::Table = toml::from_str(text).unwrap();
    let mut faults = Vec::new();
    let validator = Validator { root: schema };
    validator.check(&serde_json::to_value(table).unwrap(), schema, "", &mut faults);
    faults
}

/// The part of JSON Schema that the schema uses. A keyword that it does not know is a failure, so
/// that none is ignored.
struct Validator<'a> {
    root: &'a Value,
}

impl Validator<'_> {
    fn check(&self, value: &Value, schema: &Value, at: &str, faults: &mut Vec<String>) {
        let keywords = schema.as_object().unwrap();
        for (keyword, wanted) in keywords {
            let holds = match keyword.as_str() {
                "$schema" | "title" | "$defs" | "description" | "default" => true,
                "$ref" => {
                    let pointer = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                    self.check(value, self.root.pointer(pointer).unwrap(), at, faults);
                    true
                }
                "type" => match wanted {
                    Value::Array(types) => types.iter().any(|wanted| is_of(value, wanted)),
                    wanted => is_of(value, wanted),
                },
                "const" => value == wanted,
                "enum" => wanted.as_array().unwrap().contains(value),
                "anyOf" => wanted.as_array().unwrap().iter().any(|schema| {
                    let mut faults = Vec::new();
                    self.check(value, schema, at, &mut faults);
                    faults.is_empty()
                }),
                "required" => value.as_object().is_none_or(|table| {
                    let names = wanted.as_array().unwrap();
                    names.iter().all(|name| table.contains_key(name.as_str().unwrap()))
                }),
                "minLength" => {
                    value.as_str().is_none_or(|text| text.len() as u64 >= number(wanted))
                }
                "minimum" => value.as_u64().is_none_or(|given| given >= number(wanted)),
                "maximum" => value.as_u64().is_none_or(|given| given <= number(wanted)),
                "minItems" => value.as_array().is_none_or(|i| i.len() as u64 >= number(wanted)),
                "maxItems" => value.as_array().is_none_or(|i| i.len() as u64 <= number(wanted)),
                "minProperties" => {
                    value.as_object().is_none_or(|t| t.len() as u64 >= number(wanted))
                }
                "maxProperties" => {
                    value.as_object().is_none_or(|t| t.len() as u64 <= number(wanted))
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(item, wanted, &format!("{at}[{index}]"), faults);
                    }
                    true
                }
                "properties" | "additionalProperties" => {
                    if keyword == "additionalProperties"
                        || !keywords.contains_key("additionalProperties")
                    {
                        self.properties(value, schema, at, faults);
                    }
                    true
                }
                unknown => panic!("the validator does not know `{unknown}`"),
            };
            if !holds {
                faults.push(format!("{at}: {keyword}: {value}"));
            }
        }
    }

    fn properties(&self, value: &Value, schema: &Value, at: &str, faults: &mut Vec<String>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let at = format!("{at}.{key}");
            let named = schema.get("properties").and_then(|properties| properties.get(key));
            match named.or(schema.get("additionalProperties")) {
                None | Some(Value::Bool(true)) => {}
                Some(Value::Bool(false)) => faults.push(format!("{at}: unknown")),
                Some(schema) => self.check(value, schema, &at, faults),
            }
        }
    }
}

fn is_of(value: &Value, wanted: &Value) -> bool {
    match wanted.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        unknown => panic!("the validator does not know the type `{unknown}`"),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}
