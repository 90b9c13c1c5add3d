//! The page shows the readers as they are run, and the rights as they are computed.

use std::path::{Path, PathBuf};

use walpurge::action::Verb;
use walpurge::sinks::redis::{Duties, RedisConfig, RedisOptions, TagMode, least_acl};

use super::reader::readers;
use crate::readme::blocks;

/// The languages, by the names of their folders and blocks.
const LANGUAGES: [&str; 3] = ["python", "typescript", "go"];

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/redis.md")
}

/// The lines on the page that make a user.
fn lines_of(user: &str) -> Vec<String> {
    let start = format!("ACL SETUSER {user} ");
    let shown = blocks(&page(), "text");
    let lines = shown.iter().flat_map(|block| block.text.lines());
    lines.filter(|line| line.starts_with(&start)).map(str::to_owned).collect()
}

/// The only line that makes this user.
#[track_caller]
pub fn rights(user: &str) -> String {
    let [line] = &lines_of(user)[..] else { panic!("not one line for {user}") };
    line.clone()
}

#[test]
fn the_page_shows_every_reader_as_it_is_run() {
    for language in LANGUAGES {
        let mut shown: Vec<String> =
            blocks(&page(), language).into_iter().map(|block| block.text).collect();
        let files = std::fs::read_dir(readers().join(language)).unwrap();
        let mut run: Vec<String> =
            files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        shown.sort();
        run.sort();
        assert_eq!(shown, run, "{language}");
        assert!(run.len() >= 5, "only {} readers in {language}", run.len());
    }
}

#[test]
fn the_page_shows_the_rights_of_each_style() {
    let cases: [(&str, &[Verb], TagMode); 4] = [
        ("entity", &[Verb::Delete, Verb::DeleteMatching], TagMode::Members),
        ("versions", &[Verb::Bump, Verb::BumpMatching], TagMode::Members),
        (
            "tags",
            &[Verb::Delete, Verb::DeleteMatching, Verb::Tag, Verb::TagMatching],
            TagMode::Members,
        ),
        ("messages", &[Verb::Delete, Verb::DeleteMatching, Verb::Publish], TagMode::Members),
    ];
    let lines = lines_of("walpurge");
    for (style, verbs, tag_mode) in cases {
        let options =
            RedisOptions { tag_mode, ..RedisOptions::new("cache", "redis://localhost:6379/0") };
        let channels = match style {
            "messages" => vec![b"invalidations".to_vec()],
            _ => Vec::new(),
        };
        let duties = Duties { channels, ..Duties::of(verbs) };
        let line = least_acl(&duties, &RedisConfig::new(options).unwrap());
        assert!(lines.contains(&line), "{style}: {line}");
    }
}
