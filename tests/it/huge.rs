//! Very many keys under one tag, and very many that one pattern matches: no command of ours is so
//! large that Redis keeps others waiting, and what else is invalidated goes on meanwhile.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use testkit::postgres::Postgres;
use testkit::redis::{Client, Redis, Reply};
use testkit::wait_until;

use crate::world::{PATIENCE, World};

/// Keys under the tag, and as many that match the pattern.
const KEYS: usize = 100_000;

/// Keys of one command, and its other arguments.
const ARGUMENTS_MAX: usize = 512 + 2;

/// What Redis calls slow, in microseconds.
const SLOW_MICROS: &str = "10000";

/// A machine that is too busy stops Redis in the middle of a command now and then. A kind of command
/// that is slow by itself is so most of the time, and in every attempt.
const ATTEMPTS: usize = 3;

const TABLES: &str = "CREATE TABLE tags (id int PRIMARY KEY, n int);
    CREATE TABLE lists (id int PRIMARY KEY, n int);
    CREATE TABLE items (id int PRIMARY KEY, n int);
    INSERT INTO tags VALUES (1, 0); INSERT INTO lists VALUES (1, 0);
    INSERT INTO items SELECT id, 0 FROM generate_series(1, 1000) id";

const RULES: &str = "
[[rule]]\ntable = \"public.tags\"\ntags = [\"{id}\"]\nfallback = \"none\"
[[rule]]\ntable = \"public.lists\"\ndelete_matching = [\"list:*\"]
[[rule]]\ntable = \"public.items\"\ndelete = [\"item:{id}\"]
";

/// Caches everything, in fewer commands than readers would.
fn fill(redis: &Redis) {
    let count = KEYS.to_string();
    for prefix in ["page", "list"] {
        redis.cli(&["DEBUG", "POPULATE", &count, prefix]);
    }
    let members: Vec<String> = (0..KEYS).map(|number| format!("page:{number}")).collect();
    let add = |members: &[String]| {
        let mut command = vec!["SADD".to_owned(), "tags:1".to_owned()];
        command.extend_from_slice(members);
        command
    };
    let commands: Vec<_> = members.chunks(1000).map(add).collect();
    redis.client().unwrap().pipeline(&commands).unwrap();
    redis.cli(&["SLOWLOG", "RESET"]);
    redis.cli(&["CONFIG", "RESETSTAT"]);
}

/// The kinds of commands of which most were slow, with how many of how many.
fn slow(redis: &Redis) -> Vec<(String, usize, usize)> {
    let mut slow: BTreeMap<String, usize> = BTreeMap::new();
    let Reply::Array(Some(entries)) = redis.cmd(&["SLOWLOG", "GET", "-1"]) else { return vec![] };
    for entry in entries {
        let Reply::Array(Some(parts)) = entry else { panic!("{entry}") };
        // Its number, when, for how long, and the command.
        let Reply::Array(Some(command)) = &parts[3] else { panic!("{}", parts[3]) };
        *slow.entry(command[0].to_string().to_lowercase()).or_default() += 1;
    }
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = |command: &str| -> usize {
        let start = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|line| line.strip_prefix(&start)?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    };
    let kinds = slow.into_iter().map(|(command, count)| (calls(&command), command, count));
    let kinds = kinds.filter(|(calls, _, count)| 2 * count > *calls);
    kinds.map(|(calls, command, count)| (command, count, calls)).collect()
}

/// The most arguments that a command had until the word `over` comes by.
fn watch(mut monitor: Client) -> thread::JoinHandle<usize> {
    thread::spawn(move || {
        let mut most = 0;
        loop {
            let line = match monitor.read_reply().expect("Redis tells of every command") {
                Reply::Simple(line) => line,
                reply => panic!("{reply}"),
            };
            if line.ends_with("\"ECHO\" \"over\"") {
                return most;
            }
            most = most.max(line.split("\" \"").count());
        }
    })
}

/// One after the other, each from its commit's reply until its key is gone.
fn invalidate_single_keys(world: &World, is_over: impl Fn() -> bool) -> Vec<Duration> {
    let mut session = world.pg.session("postgres", "postgres");
    let mut times = Vec::new();
    for id in (1..=1000).cycle() {
        if is_over() {
            break;
        }
        let key = format!("item:{id}");
        world.fill(&[&key]);
        session.run(&format!("UPDATE items SET n = n + 1 WHERE id = {id}"));
        let committed = Instant::now();
        wait_until("a single key is gone", PATIENCE, || !world.redis.exists(&key));
        times.push(committed.elapsed());
    }
    times
}

#[test]
fn neither_a_huge_tag_nor_a_huge_pattern_keeps_others_waiting() {
    let redis = Redis::builder()
        .config("enable-debug-command", "yes")
        .config("slowlog-log-slower-than", SLOW_MICROS)
        .config("slowlog-max-len", "10000")
        .start();
    let mut world = World::with(Postgres::start(), redis, TABLES, RULES);
    // A line for each key would take longer than the keys.
    world.spawn(&["run"]);
    world.wait_for_log("following the write-ahead log");
    let mut were_slow = Vec::new();
    for attempt in 1..=ATTEMPTS {
        fill(&world.redis);
        let mut monitor = world.redis.client().unwrap();
        monitor.cmd(&["MONITOR"]).unwrap();
        let watching = watch(monitor);
        world.sql("BEGIN; UPDATE tags SET n = n + 1; UPDATE lists SET n = n + 1; COMMIT");
        let left = || world.redis.cli(&["DBSIZE"]).parse::<usize>().unwrap();
        let mut times = invalidate_single_keys(&world, || left() < 10);
        wait_until("all of them are gone", 3 * PATIENCE, || left() == 0);
        world.wait_confirmed();
        world.redis.cli(&["ECHO", "over"]);
        let most = watching.join().unwrap();
        assert!((400..=ARGUMENTS_MAX).contains(&most), "a command of {most} arguments");
        times.sort();
        assert!(times.len() > 1, "all of it was gone before anything else");
        let p99 = times[(times.len() * 99).div_ceil(100) - 1];
        eprintln!("{} single keys meanwhile, p99 {p99:?}", times.len());
        were_slow = slow(&world.redis);
        if were_slow.is_empty() {
            world.stop();
            return;
        }
        eprintln!("attempt {attempt}: {were_slow:?}");
    }
    panic!("slow each time: {were_slow:?}");
}
