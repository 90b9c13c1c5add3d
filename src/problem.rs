//! What is wrong in the configuration, and where: gathered while it is read and compiled, shown
//! all together.
//!
//! Pure data; `config` renders problems with file, line and caret.

use std::ops::Range;

/// Bytes of the configuration file.
pub type Span = Range<usize>;

/// A string of the configuration and where it stands in the file, quotes included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The string.
    pub value: String,
    /// Where it stands.
    pub span: Span,
}

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one line, with the user's own words in backquotes.
    pub message: String,
    /// Where: the offending key or value.
    pub span: Span,
    /// The offending bytes within the string at `span`, if it is one and only a part is wrong.
    pub within: Option<Range<usize>>,
    /// What stands there, in a few words beside the caret.
    pub label: String,
    /// What is allowed, or the nearest known name.
    pub help: Option<String>,
}

impl Problem {
    /// A problem with all that stands at `span`.
    pub fn new(span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        Problem { message: message.into(), span, within: None, label: label.into(), help: None }
    }

    /// Narrows the caret to a part of the string at the problem's span.
    pub fn within(mut self, part: Range<usize>) -> Self {
        self.within = Some(part);
        self
    }

    /// Adds what is allowed or what mends it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The known name that a mistyped one is probably meant to be.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = typed.chars().count().div_ceil(3).min(3);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(typed, name), name))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}
