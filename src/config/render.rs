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
use crate::problem::Problem;

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
}

/// Whether the output may hold terminal escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// With colours.
    Colour,
}

/// Shows `problems`, sorted by position, each once, and their number in the last line.
pub fn render(source: &Source, problems: &[Problem], style: Style) -> String {
    let mut problems = problems.to_vec();
    problems.sort_by_key(|problem| problem.span.start);
    // Reading and compiling a rule may both find the same fault.
    problems.dedup();
    let mask = Mask::new(&source.text);
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Colour => Renderer::styled(),
    };
    let mut out = String::new();
    for problem in &problems {
        out.push_str(&render_one(source, problem, &mask, &renderer));
        out.push_str("\n\n");
    }
    out.push_str(&format!("{} in {}\n", count(&problems), source.name));
    out
}

fn render_one(source: &Source, problem: &Problem, mask: &Mask, renderer: &Renderer) -> String {
    let text = &source.text;
    let span = marked(text, problem);
    let line = line_around(text, span.start);
    let line_number = line_of(text, span.start);
    let column = text[line.start..span.start].chars().count() + 1;
    let shown = mask.apply(text, line.clone());
    let caret = mask.shown(line.start, span.start)..mask.shown(line.start, span.end.min(line.end));
    let message = printable(&problem.message);
    let origin = Origin::path(source.name.as_str()).line(line_number).char_column(column);
    let label = printable(&problem.label);
    let snippet = Snippet::source(shown)
        .line_start(line_number)
        .annotation(AnnotationKind::Primary.span(caret).label(label));
    let mut group = Level::ERROR.primary_title(message).element(origin).element(snippet);
    if let Some(help) = &problem.help {
        group = group.element(Level::HELP.message(printable(help)));
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
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// Text from the file in a message, without what could steer a terminal.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
