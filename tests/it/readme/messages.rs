//! What documents quote of the log is what the program says.

use std::path::PathBuf;

use super::{blocks_and_prose, code_spans, pages, read, root};

/// What stands in a quoted message for what differs from time to time.
const VARIABLE: char = '…';

/// The string literals of the program's source, each with a `…` for every placeholder.
fn literals() -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![root().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => {
                    found.extend(literals_of(&read(&path)));
                }
                false => {}
            }
        }
    }
    found
}

/// By quotes alone: what stands between two literals is taken for one as well, and does no harm.
fn literals_of(source: &str) -> Vec<String> {
    // A character literal would open a string.
    let source = source.replace("'\"'", "' '").replace("b'\"'", "' '");
    let (mut found, mut open) = (Vec::new(), None::<String>);
    let mut chars = source.chars().peekable();
    while let Some(char) = chars.next() {
        let Some(text) = &mut open else {
            match char {
                // A raw one, with quotes inside: to its `"#`.
                'r' if chars.peek() == Some(&'#') => {
                    let rest: String = chars.clone().skip(1).collect();
                    let Some((text, _)) = rest.strip_prefix('"').and_then(|r| r.split_once("\"#"))
                    else {
                        continue;
                    };
                    found.push(with_variables(text));
                    chars.nth(text.chars().count() + 3);
                }
                '"' => open = Some(String::new()),
                '/' if chars.peek() == Some(&'/') => {
                    while chars.next_if(|&char| char != '\n').is_some() {}
                }
                _ => {}
            }
            continue;
        };
        match char {
            '"' => found.extend(open.take().map(|text| with_variables(&text))),
            '\\' => match chars.next() {
                // The literal goes on in the next line.
                Some('\n') => while chars.next_if(|char| char.is_whitespace()).is_some() {},
                Some(escaped) => text.push(escaped),
                None => {}
            },
            char => text.push(char),
        }
    }
    found
}

/// `{error}` and `{}` become `…`.
fn with_variables(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        out.push_str(before);
        out.push(VARIABLE);
        rest = behind.split_once('}').map_or("", |(_, rest)| rest);
    }
    out + rest
}

/// Whether a literal says the message: its parts in their order.
fn says(literal: &str, message: &str) -> bool {
    let mut rest = literal;
    message.split(VARIABLE).filter(|part| !part.is_empty()).all(|part| {
        let found = rest.find(part);
        rest = found.map_or("", |at| &rest[at + part.len()..]);
        found.is_some()
    })
}

/// What is wrong with a quoted message.
fn judge(place: &str, message: &str, literals: &[String]) -> Option<String> {
    let is_long = message.split(VARIABLE).any(|part| part.len() >= 8);
    if !is_long {
        return Some(format!("{place}: {message}: too little of it is fixed"));
    }
    let is_said = literals.iter().any(|literal| says(literal, message));
    (!is_said).then(|| format!("{place}: nothing in the source says {message:?}"))
}

/// The first cells of the README's table of failures.
#[test]
fn the_messages_of_the_failure_table_are_those_of_the_source() {
    let (literals, page) = (literals(), root().join("README.md"));
    let text = read(&page);
    let (_, table) = text.split_once("| message | cause | cure |\n").expect("the table");
    let (mut count, mut wrong) = (0, Vec::new());
    for row in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
        let cell = row.trim_start_matches("| ").split(" | ").next().unwrap();
        let messages = code_spans(cell);
        assert!(!messages.is_empty(), "no message in {row}");
        for message in messages {
            wrong.extend(judge("README.md", &message, &literals));
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 15, "only {count} messages were found");
}

/// Lines of logs, as in `WARN the sink is down, trying again: … sink=cache`.
#[test]
fn the_log_lines_that_are_shown_are_those_of_the_source() {
    let literals = literals();
    let (mut count, mut wrong) = (0, Vec::new());
    for block in pages().iter().flat_map(|page| blocks_and_prose(page).0) {
        let lines = block.text.lines().filter(|_| block.language == "text");
        for line in lines.map(str::trim_start) {
            let levels = ["ERROR ", "WARN ", "INFO "];
            let Some(said) = levels.iter().find_map(|level| line.strip_prefix(level)) else {
                continue;
            };
            wrong.extend(judge(&block.place, without_fields(said), &literals));
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 20, "only {count} lines were found");
}

/// The message alone: fields stand behind it, as in ` sink=cache`.
fn without_fields(said: &str) -> &str {
    let is_field = |word: &str| {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let starts = said.match_indices(' ').map(|(at, _)| at);
    let end = starts
        .into_iter()
        .find(|&at| is_field(said[at + 1..].split(' ').next().unwrap_or_default()));
    end.map_or(said, |end| &said[..end])
}

#[test]
fn a_message_that_nobody_says_is_found() {
    let source =
        "warn!(slot, \"there is a gap: {cause}; \\\n        every rule's fallback runs\");";
    let literals = literals_of(source);
    assert_eq!(literals, ["there is a gap: …; every rule's fallback runs"]);
    let says = |message| literals.iter().any(|literal| says(literal, message));
    assert!(says("there is a gap: …; every rule's fallback runs"));
    assert!(says("every rule's fallback runs"));
    assert!(!says("there is a hole: …; every rule's fallback runs"));
    assert_eq!(without_fields("the sink is down: a b=c sink=cache"), "the sink is down: a");
}
