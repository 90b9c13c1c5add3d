//! The files that documents name are there, and so is what they are said to hold.

use super::{blocks_and_prose, code_spans, pages, read, root};

/// What stands in the names of what the reader of `adding-a-sink.md` is to write.
const NEW: [&str; 2] = ["bunny", "Bunny"];

fn is_new(text: &str) -> bool {
    NEW.iter().any(|new| text.contains(new))
}

#[test]
fn the_files_that_are_named_are_there() {
    let mut count = 0;
    for page in pages().iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        for (number, line) in blocks_and_prose(page).1 {
            for span in code_spans(&line) {
                let folders = ["src/", "tests/", "testkit/", "docs/", "scripts/", "systemd/"];
                let is_path = folders.iter().any(|folder| span.starts_with(folder));
                if is_path && !span.contains([' ', '*', '…']) && !is_new(&span) {
                    let is_there = root().join(&span).exists();
                    assert!(is_there, "{}:{number}: there is no {span}", page.display());
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 60, "only {count} files were found");
}

/// Rows of tables: a file, and what it has.
#[test]
fn what_a_new_sink_touches_is_where_the_page_says() {
    let page = root().join("docs/adding-a-sink.md");
    let (mut count, mut wrong) = (0, Vec::new());
    for (number, line) in blocks_and_prose(&page).1 {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").collect();
        let [file, what] = cells[..] else { continue };
        let spans = code_spans(file);
        let Some(file) = spans.first().filter(|file| !is_new(file)) else { continue };
        let path = root().join(file);
        if !line.starts_with('|') || !path.is_file() {
            continue;
        }
        let text = read(&path);
        for span in code_spans(what).into_iter().filter(|span| !is_new(span)) {
            let name = span.rsplit("::").next().unwrap_or_default();
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if is_name && name != "none" && !span.starts_with("src/") {
                count += 1;
                if !text.contains(name) {
                    wrong.push(format!("adding-a-sink.md:{number}: {file} has no {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 50, "only {count} names were found");
}

/// How the last file of `make bench` gets into the documentation is a copy by hand.
#[test]
fn the_picture_of_rates_shows_what_the_tables_beside_it_say() {
    let page = read(&root().join("docs/performance.md"));
    let picture = read(&root().join("docs/performance.svg"));
    let texts = picture.split("</text>").filter_map(|text| text.rsplit_once('>'));
    let ratios: Vec<_> = texts.filter_map(|(_, text)| text.strip_suffix(" \u{d7}")).collect();
    assert!(ratios.len() >= 5, "{ratios:?}");
    for ratio in ratios {
        let says = |row: &str| row.starts_with('|') && row.contains("ratio") && row.contains(ratio);
        assert!(page.lines().any(says), "no row of the page has the ratio {ratio} of the picture");
    }
}
