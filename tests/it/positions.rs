//! A sink that is ahead of one that is down does not repeat its work after a restart, unless what
//! it would be asked now may differ from what it has done.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::postgres::StopMode;
use testkit::redis::Redis;
use testkit::wait_until;

use crate::world::{PATIENCE, Plugin, World};

/// How many transactions the fast sink is ahead.
const AHEAD: u32 = 50;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY)";

const RULE: &str = "[[rule]]\ntable = \"public.t\"\ndelete = [\"row:{id}\"]\n";

/// Two sinks, of which the second one can be stopped.
struct Pair {
    world: World,
    slow: Redis,
}

fn rows() -> Vec<String> {
    (1..=AHEAD).map(|id| format!("row:{id}")).collect()
}

fn fill(redis: &Redis) {
    rows().iter().for_each(|key| redis.set(key, "cached"));
}

fn cached(redis: &Redis) -> usize {
    rows().iter().filter(|key| redis.exists(key)).count()
}

/// `0/16B3748` as a number.
fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

impl Pair {
    fn new(tables: &str, rules: &str) -> Self {
        let mut world = World::new(tables, rules);
        let slow = Redis::builder().persistent().start();
        world.edit("[[rule]]", &format!("[redis.slow]\nurl = \"{}\"\n[[rule]]", slow.url()));
        fill(&world.redis);
        fill(&slow);
        Pair { world, slow }
    }

    fn file(&self) -> PathBuf {
        self.world.state.as_ref().unwrap().join("position")
    }

    /// What is remembered.
    fn remembered(&self) -> Option<serde_json::Value> {
        let text = std::fs::read_to_string(self.file()).ok()?;
        serde_json::from_str(text.lines().next()?).ok()
    }

    /// Puts something else into the file, as if walpurge had written it.
    fn forge(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let mut remembered = self.remembered().unwrap();
        change(&mut remembered);
        let line = serde_json::to_string(&remembered).unwrap();
        let checksum = crc32fast::hash(line.as_bytes());
        std::fs::write(self.file(), format!("{line}\n{checksum:08x}\n")).unwrap();
    }

    /// Whether a position in what is remembered has come so far.
    fn has_reached(&self, pointer: &str, end: &str) -> bool {
        let remembered = self.remembered();
        let at = remembered.as_ref().and_then(|remembered| remembered.pointer(pointer)?.as_str());
        at.is_some_and(|at| lsn(at) >= lsn(end))
    }

    /// Writes every row while the slow sink is down, and answers with where that ends. The last
    /// transaction lies behind that.
    fn write_rows(&self) -> String {
        (1..=AHEAD).for_each(|id| drop(self.world.sql(&format!("INSERT INTO t VALUES ({id})"))));
        let end = self.world.pg.current_lsn();
        self.world.sql("INSERT INTO t VALUES (1000)");
        end
    }

    /// The slow sink goes down, the other one does everything, and that is remembered.
    fn get_ahead(&mut self) {
        self.slow.pause();
        self.world.start();
        let end = self.write_rows();
        wait_until("the fast sink is done", PATIENCE, || cached(&self.world.redis) == 0);
        let is_remembered = || self.has_reached("/sinks/cache/done_lsn", &end);
        wait_until("it is remembered", PATIENCE, is_remembered);
        assert!(!self.has_reached("/confirmed_lsn", &end), "the slow one holds the slot");
    }

    /// The daemon is killed, the caches are filled again, and the slow sink is there again.
    fn crash(&mut self) {
        self.world.kill_9();
        fill(&self.world.redis);
        self.slow.resume();
    }

    fn recover(&mut self) {
        self.world.start();
        wait_until("the slow sink is done", PATIENCE, || cached(&self.slow) == 0);
    }

    /// Gets ahead, changes something, and expects that everything is done again and that it is
    /// said once why.
    #[track_caller]
    fn assert_repeats(mut self, change: impl FnOnce(&mut Self), said: &str) {
        self.get_ahead();
        self.crash();
        change(&mut self);
        self.recover();
        wait_until("it is done again", PATIENCE, || cached(&self.world.redis) == 0);
        self.world.wait_confirmed();
        let count = self.world.news().matches(said).count();
        assert_eq!(count, 1, "{said:?}\n{}", self.world.news());
        // And from then on it counts.
        self.world.stop();
        self.world.start();
        self.world.sql("INSERT INTO t VALUES (2000)");
        self.world.wait_confirmed();
        assert_eq!(self.world.news().matches(said).count(), count, "{}", self.world.news());
    }
}

#[test]
fn a_sink_that_was_ahead_does_not_repeat_its_work() {
    let mut pair = Pair::new(TABLES, RULE);
    pair.get_ahead();
    pair.crash();
    pair.recover();
    pair.world.wait_confirmed();
    assert_eq!(cached(&pair.world.redis), AHEAD as usize, "{}", pair.world.log());
    let news = pair.world.news();
    assert_eq!(news.matches("leaving out what the sink has done before").count(), 1, "{news}");
    // What comes then is for both of them.
    pair.world.redis.set("row:2000", "cached");
    pair.slow.set("row:2000", "cached");
    pair.world.sql("INSERT INTO t VALUES (2000)");
    pair.world.wait_gone(&["row:2000"]);
    wait_until("the slow sink is done", PATIENCE, || !pair.slow.exists("row:2000"));
}

#[test]
fn nor_after_the_connection_to_postgres_broke() {
    let mut pair = Pair::new(TABLES, RULE);
    pair.get_ahead();
    fill(&pair.world.redis);
    pair.world.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots");
    pair.world.wait_for_log("leaving out what the sink has done before");
    pair.slow.resume();
    wait_until("the slow sink is done", PATIENCE, || cached(&pair.slow) == 0);
    pair.world.wait_confirmed();
    assert_eq!(cached(&pair.world.redis), AHEAD as usize, "{}", pair.world.log());
}

#[test]
fn nor_what_lookups_find() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE pages (id int, t_id int);
        INSERT INTO pages SELECT n, n FROM generate_series(1, 1000) n;
        GRANT SELECT ON pages TO walpurge";
    let rule = "[[rule]]\ntable = \"public.t\"\non = [\"insert\"]
        lookup = \"SELECT id AS page_id FROM pages WHERE t_id = {id}\"
        delete = [\"row:{page_id}\"]\n";
    let mut pair = Pair::new(tables, rule);
    pair.get_ahead();
    pair.crash();
    pair.recover();
    pair.world.wait_confirmed();
    assert_eq!(cached(&pair.world.redis), AHEAD as usize, "{}", pair.world.log());
}

#[test]
fn a_replay_repeats_everything() {
    let mut pair = Pair::new(TABLES, RULE);
    pair.get_ahead();
    pair.crash();
    let replayed = pair.world.command(&["replay", "--since", "1h"]).output().unwrap();
    // The slot was made an instant ago: what is older cannot be had, and what can is named.
    let told = String::from_utf8_lossy(&replayed.stderr).into_owned();
    if !replayed.status.success() {
        let from = told.split("walpurge replay --from-lsn ").nth(1).expect(&told);
        let from = from.split(';').next().unwrap();
        let output = pair.world.command(&["replay", "--from-lsn", from]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!((cached(&pair.world.redis), cached(&pair.slow)), (0, 0), "{told}");
}

#[test]
fn other_rules_are_other_work() {
    let to = "delete = [\"row:{id}\", \"more:{id}\"]";
    Pair::new(TABLES, RULE).assert_repeats(
        |pair| pair.world.edit("delete = [\"row:{id}\"]", to),
        "the rules that reach it are not what they were sink=\"cache\"",
    );
}

#[test]
fn another_key_space_is_another_sink() {
    Pair::new(TABLES, RULE).assert_repeats(
        |pair| pair.world.edit("[redis.slow]", "tag_key = \"t:{tag}\"\n[redis.slow]"),
        "its address, prefix or tag keys are not what they were",
    );
}

#[test]
fn another_slot_stands_for_itself() {
    let pair = Pair::new(TABLES, RULE);
    let plugin = Plugin::asked().name();
    pair.world.sql(&format!("SELECT pg_create_logical_replication_slot('other', '{plugin}')"));
    let mut pair = pair;
    pair.get_ahead();
    pair.crash();
    pair.world.edit("[postgres]\n", "[postgres]\nslot = \"other\"\n");
    pair.recover();
    wait_until("it is done again", PATIENCE, || cached(&pair.world.redis) == 0);
    let news = pair.world.news();
    assert_eq!(news.matches("it is about another slot").count(), 1, "{news}");
}

#[test]
fn a_torn_file_says_nothing() {
    Pair::new(TABLES, RULE).assert_repeats(
        |pair| {
            let text = std::fs::read(pair.file()).unwrap();
            std::fs::write(pair.file(), &text[..text.len() - 5]).unwrap();
        },
        "its checksum is wrong",
    );
}

#[test]
fn a_file_of_another_version_says_nothing() {
    Pair::new(TABLES, RULE).assert_repeats(
        |pair| pair.forge(|remembered| remembered["version"] = 2.into()),
        "it has format 2",
    );
}

#[test]
fn a_file_of_another_timeline_is_a_gap() {
    Pair::new(TABLES, RULE).assert_repeats(
        |pair| pair.forge(|remembered| remembered["timeline"] = 7.into()),
        "there is a gap",
    );
}

#[test]
fn a_file_of_another_cluster_is_a_gap() {
    Pair::new(TABLES, RULE).assert_repeats(
        |pair| pair.forge(|remembered| remembered["system_id"] = "7".into()),
        "there is a gap: the server is another one than before",
    );
}

#[test]
fn a_file_from_before_sinks_had_positions_says_nothing_of_them() {
    let mut pair = Pair::new(TABLES, RULE);
    pair.get_ahead();
    pair.crash();
    pair.forge(|remembered| drop(remembered.as_object_mut().unwrap().remove("sinks")));
    pair.recover();
    wait_until("it is done again", PATIENCE, || cached(&pair.world.redis) == 0);
}

#[test]
fn without_the_directory_everything_is_repeated() {
    let pair = Pair::new(TABLES, RULE);
    // The first start says it too.
    std::fs::create_dir_all(pair.world.state.as_ref().unwrap()).unwrap();
    let mut pair = pair;
    pair.get_ahead();
    pair.crash();
    std::fs::remove_dir_all(pair.world.state.as_ref().unwrap()).unwrap();
    pair.recover();
    wait_until("it is done again", PATIENCE, || cached(&pair.world.redis) == 0);
    let news = pair.world.news();
    assert_eq!(news.matches("nothing is remembered").count(), 2, "{news}");
}

#[test]
fn a_sink_that_is_off_has_done_nothing() {
    // Nothing but the stream itself brings these keys back.
    let rule = "[[rule]]\ntable = \"public.t\"\ndelete = [\"row:{id}\"]\nfallback = \"none\"\n";
    let mut pair = Pair::new(TABLES, rule);
    pair.world.edit("[redis.slow]", "mode = \"off\"\n[redis.slow]");
    pair.slow.pause();
    pair.world.start();
    let end = pair.write_rows();
    wait_until("it is seen", PATIENCE, || pair.has_reached("/seen/end_lsn", &end));
    let remembered = pair.remembered().unwrap();
    assert!(remembered.pointer("/sinks/cache").is_none(), "{remembered}");
    pair.world.kill_9();
    pair.slow.resume();
    pair.world.edit("mode = \"off\"\n", "");
    pair.recover();
    wait_until("it is done", PATIENCE, || cached(&pair.world.redis) == 0);
}

/// Beyond the last commit that was seen, an older copy of the server may have other transactions at
/// the places that the fast sink has passed.
#[test]
fn a_restored_server_that_holds_the_last_commit_may_go_on_otherwise() {
    let mut pair = Pair::new(TABLES, RULE);
    pair.get_ahead();
    let snapshot = pair.world.dir.join("snapshot");
    let copy = |from: &Path, to: &Path| {
        let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(status.success());
    };
    pair.world.pg.stop(StopMode::Fast);
    copy(&pair.world.pg.data_dir(), &snapshot);
    pair.world.pg.start_again();
    // The log goes on without a commit, and everything of it is received.
    pair.world.sql("SELECT pg_switch_wal()");
    pair.world.sql("CHECKPOINT");
    let end = pair.world.pg.current_lsn();
    let received = "SELECT count(*) FROM pg_stat_replication WHERE write_lsn >= ";
    wait_until("it is received", PATIENCE, || {
        pair.world.sql(&format!("{received} '{end}'::pg_lsn")).trim() == "1"
    });
    pair.world.stop();
    pair.world.pg.stop(StopMode::Immediate);
    std::fs::remove_dir_all(pair.world.pg.data_dir()).unwrap();
    copy(&snapshot, &pair.world.pg.data_dir());
    pair.world.pg.start_again();
    pair.world.redis.set("row:3000", "cached");
    pair.world.sql("INSERT INTO t VALUES (3000)");
    assert!(lsn(&pair.world.pg.current_lsn()) < lsn(&end), "it is behind what was received");
    pair.slow.resume();
    pair.recover();
    pair.world.wait_gone(&["row:3000"]);
    assert!(!pair.world.news().contains("there is a gap"), "{}", pair.world.news());
}
