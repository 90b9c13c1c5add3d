//! Shows problems: file, line, column, the line itself, a caret, and what mends it.
//!
//! A shown line never holds a password or a token: see [`mask`](super::mask).

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::error::{ConfigError, count};
use super::mask::Mask;
use crate::problem::{Problem, Span};

/// A configuration file's name and text.
#[derive(Clone)]
pub struct Source {
    /// The name that problems show: the path as it was given.
    pub name: String,
    /// The text.
    pub text: String,
}

/// Without the text, which may hold secrets.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Source {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or is not UTF-8.
    pub fn open(path: &Path) -> Result<Source, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(super::FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > super::FILE_BYTES_MAX {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        let text = String::from_utf8(bytes).map_err(|error| ConfigError::NotUtf8 {
            path: path.to_owned(),
            byte: error.utf8_error().valid_up_to(),
        })?;
        Ok(Source { name: path.display().to_string(), text })
    }

    /// The line of `span`'s start, from 1.
    pub fn line_of(&self, span: &Span) -> usize {
        line_of(&self.text, span.start)
    }
}

/// Whether the output may hold terminal escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// With colours.
    Colour,
}

/// The most problems that are shown: nobody reads more, and a file that is no configuration at
/// all could have one on each line.
const SHOWN_MAX: usize = 100;

/// Shows `problems`, sorted by position, each once, and their number in the last line.
pub fn render(source: &Source, problems: &[Problem], style: Style) -> String {
    let problems = sorted(problems.to_vec());
    let mask = Mask::new(&source.text);
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Colour => Renderer::styled(),
    };
    let mut out = String::new();
    for problem in problems.iter().take(SHOWN_MAX) {
        out.push_str(&render_one(source, problem, &mask, &renderer));
        out.push_str("\n\n");
    }
    let shown = if problems.len() > SHOWN_MAX { ", the first of which are shown" } else { "" };
    out.push_str(&format!("{} in {}{shown}\n", count(problems.len()), source.name));
    out
}

/// The problems by position, without those that are there already: reading and compiling a rule
/// may both find the same fault.
pub(super) fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|problem| problem.span.start);
    let mut sorted: Vec<Problem> = Vec::with_capacity(problems.len());
    for problem in problems {
        let mut same_place =
            sorted.iter().rev().take_while(|other| other.span.start == problem.span.start);
        if !same_place.any(|other| *other == problem) {
            sorted.push(problem);
        }
    }
    sorted
}

fn render_one(source: &Source, problem: &Problem, mask: &Mask, renderer: &Renderer) -> String {
    let text = &source.text;
    let span = marked(text, problem);
    let line = line_around(text, span.start);
    let line_number = line_of(text, span.start);
    let start = mask.shown(line.start, span.start);
    let end = mask.shown(line.start, span.end.min(line.end)).max(start);
    let snippet = Snippet::source(mask.apply(text, line.clone()))
        .line_start(line_number)
        .annotation(AnnotationKind::Primary.span(start..end).label(printable(&problem.label)));
    let group = Level::ERROR.primary_title(printable(&problem.message));
    let mut group = if start == span.start - line.start {
        group.element(snippet.path(&source.name))
    } else {
        // The renderer would count the column in the line as it is shown, where a secret before
        // the caret is shorter or longer than in the file.
        let column = text[line.start..span.start].chars().count() + 1;
        let place = Origin::path(source.name.as_str()).line(line_number).char_column(column);
        group.element(place).element(snippet)
    };
    if let Some(help) = &problem.help {
        group = group.element(Level::HELP.message(lines(help)));
    }
    renderer.render(&[group])
}

/// The bytes of the source that the caret marks.
fn marked(text: &str, problem: &Problem) -> Range<usize> {
    let start = floor(text, problem.span.start);
    let whole = start..floor(text, problem.span.end).max(start);
    let Some(within) = &problem.within else { return whole };
    let literal = &text[whole.clone()];
    if !is_plain(literal) || within.start > within.end || within.end > literal.len() - 2 {
        return whole;
    }
    // The quote comes first.
    let start = floor(text, whole.start + 1 + within.start);
    start..floor(text, whole.start + 1 + within.end).max(start)
}

/// Whether a literal's characters are those of the string between one pair of quotes.
fn is_plain(literal: &str) -> bool {
    let is_quoted = |quote: char| {
        literal.len() >= 2
            && literal.starts_with(quote)
            && literal.ends_with(quote)
            && !literal[1..literal.len() - 1].starts_with(quote)
    };
    (is_quoted('"') && !literal.contains('\\')) || is_quoted('\'')
}

/// The nearest place at or before `offset` where a character starts.
fn floor(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|&place| text.is_char_boundary(place)).unwrap_or(0)
}

/// The line around `offset`, without its end.
fn line_around(text: &str, offset: usize) -> Range<usize> {
    let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[offset..].find('\n').map_or(text.len(), |length| offset + length);
    let end = if text[start..end].ends_with('\r') { end - 1 } else { end };
    // The offset may be that of the line's end itself.
    start..end.max(offset)
}

/// The number of the line at `offset`, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// A line for people that may hold text from the file: without its secrets, and without what
/// could steer a terminal.
fn printable(text: &str) -> String {
    let shown = Mask::new(text).apply(text, 0..text.len());
    let mut out = String::with_capacity(shown.len());
    for c in shown.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The same for text of several lines.
fn lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_marked(text: &str, within: Range<usize>, marked_text: &str) {
        let problem = Problem::new(0..text.len(), "m", "l").within(within);
        assert_eq!(&text[marked(text, &problem)], marked_text);
    }

    #[test]
    fn a_part_of_a_plain_string_is_marked_and_else_the_whole() {
        check_marked(r#""public.a""#, 7..8, "a");
        check_marked(r"'C:\täble'", 3..9, "täble");
        check_marked(r#""a\tb""#, 1..2, r#""a\tb""#);
        check_marked(r#""""abc""""#, 1..2, r#""""abc""""#);
        check_marked("{ env = 'X' }", 0..1, "{ env = 'X' }");
        check_marked("'abc'", 2..9, "'abc'");
        check_marked("''", 0..0, "");
    }

    #[test]
    fn a_problem_that_two_parts_found_is_shown_once() {
        let source = Source { name: "f".to_owned(), text: "a = 1\nb = 2".to_owned() };
        let problem = |start| Problem::new(start..start + 1, "m", "l");
        let shown = render(&source, &[problem(6), problem(0), problem(6)], Style::Plain);
        assert!(shown.ends_with("2 problems in f\n"), "{shown}");
        assert!(shown.find("f:1:1") < shown.find("f:2:1"), "{shown}");
    }

    #[test]
    fn a_message_shows_no_secret_and_steers_no_terminal() {
        let source = Source { name: "f".to_owned(), text: "a = 1".to_owned() };
        let problem = Problem::new(0..1, "no `redis://:pw@h`", "\u{1b}[2J").help("pg://u:pw@h\nx");
        let shown = render(&source, &[problem], Style::Plain);
        assert!(!shown.contains("pw") && !shown.contains('\u{1b}'), "{shown}");
    }
}
