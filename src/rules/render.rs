//! Rendering: from a template and a change to values.

use std::io::Write;

use super::elements;
use super::filter::Filter;
use super::template::{Extent, Image, Placeholder, Segment, Source, Template, Variable};
use crate::change::{Change, Op, Value};
use crate::glob;
use crate::lsn::Lsn;

/// What a template may say of the transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `{$xid}`.
    pub xid: Option<u32>,
    /// `{$commit_lsn}`.
    pub commit_lsn: Option<Lsn>,
}

/// Whether the renderings are all that the change asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Coverage {
    /// They are.
    Exact,
    /// A value is needed that the stream does not carry, so some are missing.
    Partial,
}

/// What becomes of text from a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// It enters as it is.
    Verbatim,
    /// It stands for itself in a pattern.
    Glob,
    /// It stands within a string of JSON.
    Json,
    /// The same, for itself in a pattern that stands there.
    GlobInJson,
}

impl Escape {
    fn append(self, value: &[u8], buffer: &mut Vec<u8>) {
        match self {
            Escape::Verbatim => buffer.extend_from_slice(value),
            Escape::Glob => glob::escape(value, buffer),
            Escape::Json => append_json(value, buffer),
            Escape::GlobInJson => {
                let mut pattern = Vec::new();
                glob::escape(value, &mut pattern);
                append_json(&pattern, buffer);
            }
        }
    }
}

/// Appends what stands between the quotes of a JSON string. What is no UTF-8 becomes U+FFFD.
pub(super) fn append_json(value: &[u8], buffer: &mut Vec<u8>) {
    for char in String::from_utf8_lossy(value).chars() {
        match char {
            '"' | '\\' => buffer.extend_from_slice(&[b'\\', char as u8]),
            '\0'..='\x1f' => {
                buffer.extend_from_slice(format!("\\u{:04x}", u32::from(char)).as_bytes());
            }
            _ => buffer.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Why a template has no rendering for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// A value is NULL, or the image does not exist: there is nothing to invalidate.
    Null,
    /// A value is not known.
    Absent,
}

/// Renders templates for one change into one reused buffer.
pub(super) struct Renderer<'c> {
    pub(super) change: &'c Change<'c>,
    pub(super) facts: Facts,
    pub(super) escape: Escape,
}

impl Renderer<'_> {
    /// Calls `emit` for every distinct value that the template has for this change: for the old
    /// row first, then for the new one.
    pub(super) fn render(
        &self,
        template: &Template,
        buffer: &mut Vec<u8>,
        mut emit: impl FnMut(&[u8]),
    ) -> Coverage {
        buffer.clear();
        let mut coverage = Coverage::Exact;
        let mut seen = Seen::default();
        for &image in self.images(template) {
            if let Err(Missing::Absent) = self.image(template, image, buffer, &mut seen, &mut emit)
            {
                coverage = Coverage::Partial;
            }
        }
        coverage
    }

    /// The images for which a template renders: both rows of an update only if it has a
    /// placeholder that does not pick one.
    fn images(&self, template: &Template) -> &'static [Image] {
        let is_both = |placeholder: &Placeholder| {
            matches!(placeholder.source, Source::Column { image: Image::Both, .. })
        };
        match self.change.op {
            Op::Update if template.placeholders().any(is_both) => &[Image::Old, Image::New],
            Op::Delete => &[Image::Old],
            _ => &[Image::New],
        }
    }

    fn image(
        &self,
        template: &Template,
        image: Image,
        buffer: &mut Vec<u8>,
        seen: &mut Seen,
        emit: &mut impl FnMut(&[u8]),
    ) -> Result<(), Missing> {
        let list = template.placeholders().find_map(|placeholder| match &placeholder.source {
            Source::Column { name, image: pick, extent: Extent::Elements } => Some((name, *pick)),
            _ => None,
        });
        let list = match list {
            Some((name, pick)) => self.column(name, pick, image)?,
            None => None,
        };
        // A list that is NULL is one NULL, for which a default may stand in.
        let Some(list) = list else {
            let start = buffer.len();
            self.segments(template, image, None, buffer)?;
            seen.emit_new(buffer, start, emit);
            return Ok(());
        };
        let mut outcome = Ok(());
        let parsed = elements::for_each(list, |element| {
            let start = buffer.len();
            match self.segments(template, image, Some(element), buffer) {
                Ok(()) => seen.emit_new(buffer, start, emit),
                Err(Missing::Null) => buffer.truncate(start),
                Err(Missing::Absent) => {
                    buffer.truncate(start);
                    outcome = Err(Missing::Absent);
                }
            }
        });
        parsed.map_err(|_| Missing::Absent).and(outcome)
    }

    /// Appends one rendering; `element` stands in for the list, if that is not NULL.
    fn segments(
        &self,
        template: &Template,
        image: Image,
        element: Option<&[u8]>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Missing> {
        // All of them before an early return: NULL in one place hides an absent value in another
        // only if the action is skipped whatever that value is, which it then is.
        let start = buffer.len();
        let mut missing = None;
        for segment in &template.segments {
            match segment {
                Segment::Literal(literal) => buffer.extend_from_slice(literal),
                Segment::Placeholder(placeholder) => {
                    match self.placeholder(placeholder, image, element, buffer) {
                        Ok(()) => {}
                        Err(Missing::Null) => {
                            buffer.truncate(start);
                            return Err(Missing::Null);
                        }
                        Err(Missing::Absent) => missing = Some(Missing::Absent),
                    }
                }
            }
        }
        match missing {
            None => Ok(()),
            Some(missing) => {
                buffer.truncate(start);
                Err(missing)
            }
        }
    }

    fn placeholder(
        &self,
        placeholder: &Placeholder,
        image: Image,
        element: Option<&[u8]>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Missing> {
        match self.append(placeholder, image, element, buffer)? {
            true => Ok(()),
            false => Err(Missing::Null),
        }
    }

    /// Writes one placeholder's value to the buffer; answers whether it has one: NULL has none.
    pub(super) fn value(
        &self,
        placeholder: &Placeholder,
        image: Image,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, Missing> {
        buffer.clear();
        self.append(placeholder, image, None, buffer)
    }

    fn append(
        &self,
        placeholder: &Placeholder,
        image: Image,
        element: Option<&[u8]>,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, Missing> {
        let mut variable = [0; 24];
        let value = match &placeholder.source {
            Source::Column { extent: Extent::Elements, .. } => element,
            Source::Column { name, image: pick, .. } => self.column(name, *pick, image)?,
            Source::Variable(name) => Some(self.variable(*name, &mut variable)?),
        };
        if placeholder.filters.is_empty() {
            return Ok(value.map(|value| self.push(value, buffer)).is_some());
        }
        let start = buffer.len();
        let mut is_null = value.is_none();
        buffer.extend_from_slice(value.unwrap_or_default());
        for filter in &placeholder.filters {
            match filter {
                Filter::Default(text) if is_null => {
                    buffer.extend_from_slice(text);
                    is_null = false;
                }
                _ if is_null => {}
                filter => filter.apply(buffer, start).map_err(|_| Missing::Absent)?,
            }
        }
        if is_null {
            return Ok(false);
        }
        if self.escape != Escape::Verbatim {
            let text = buffer.split_off(start);
            self.escape.append(&text, buffer);
        }
        Ok(true)
    }

    fn push(&self, value: &[u8], buffer: &mut Vec<u8>) {
        self.escape.append(value, buffer);
    }

    /// A column's value in the image that the placeholder picks; `None` is NULL.
    ///
    /// A new value that the stream leaves out is unchanged TOAST, so the old one is the same. An
    /// old value that it leaves out may have been anything, and so may what it prints as null
    /// instead of NaN.
    fn column(&self, name: &[u8], pick: Image, image: Image) -> Result<Option<&[u8]>, Missing> {
        let image = if pick == Image::Both { image } else { pick };
        let value = match (image, self.change.op) {
            (Image::Old, Op::Insert) | (Image::New, Op::Delete) => return Err(Missing::Null),
            (Image::Old, _) => self.change.old.get(name),
            _ => match self.change.new.get(name) {
                Value::Absent => self.change.old.get(name),
                value => value,
            },
        };
        match value {
            Value::Text(text) => Ok(Some(text)),
            Value::Null => Ok(None),
            Value::Absent | Value::Unclear => Err(Missing::Absent),
        }
    }

    fn variable<'v>(
        &'v self,
        variable: Variable,
        scratch: &'v mut [u8; 24],
    ) -> Result<&'v [u8], Missing> {
        let mut rest = &mut scratch[..];
        let written = match variable {
            Variable::Schema => return Ok(self.change.schema),
            Variable::Table => return Ok(self.change.table),
            Variable::Op => return Ok(self.change.op.name().as_bytes()),
            Variable::Xid => write!(rest, "{}", self.facts.xid.ok_or(Missing::Absent)?),
            Variable::CommitLsn => {
                write!(rest, "{}", self.facts.commit_lsn.ok_or(Missing::Absent)?)
            }
        };
        let left = rest.len();
        written.map_err(|_| Missing::Absent)?;
        Ok(&scratch[..scratch.len() - left])
    }
}

/// The renderings of one template that were emitted, as ranges of its buffer.
#[derive(Default)]
struct Seen {
    /// The first few starts and ends; a list may have more elements than it is worth comparing.
    ranges: [(usize, usize); Seen::MAX],
    count: usize,
}

impl Seen {
    /// How many renderings are compared. Beyond, repeats are emitted again, which is harmless.
    const MAX: usize = 8;

    /// Emits the end of the buffer, unless it is a repeat, and keeps there only what is compared:
    /// a list may have millions of elements.
    fn emit_new(&mut self, buffer: &mut Vec<u8>, start: usize, emit: &mut impl FnMut(&[u8])) {
        let rendered = &buffer[start..];
        let is_repeat =
            self.ranges[..self.count].iter().any(|&(from, to)| &buffer[from..to] == rendered);
        if !is_repeat {
            emit(rendered);
        }
        if is_repeat || self.count == Seen::MAX {
            buffer.truncate(start);
        } else {
            self.ranges[self.count] = (start, buffer.len());
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Event, wal2json};

    #[test]
    fn a_long_list_is_rendered_in_flat_memory() {
        let list = vec!["1"; 99_000].join(",") + &",2".repeat(1000);
        let mut line = format!(
            r#"{{"action":"I","schema":"s","table":"t","columns":[{{"name":"l","value":"{{{list}}}"}}]}}"#
        )
        .into_bytes();
        let mut decoder = wal2json::Decoder::default();
        let Ok(Event::Change(change)) = decoder.decode(&mut line) else { panic!("not a change") };
        let template = Template::parse("by-label:{$op}:{l[]}").unwrap();
        let renderer =
            Renderer { change: &change, facts: Facts::default(), escape: Escape::Verbatim };
        let (mut buffer, mut values) = (Vec::new(), Vec::new());
        let coverage = renderer.render(&template, &mut buffer, |value| values.push(value.to_vec()));
        assert_eq!(coverage, Coverage::Exact);
        assert_eq!(values, [b"by-label:insert:1", b"by-label:insert:2"]);
        assert!(buffer.capacity() < 1024, "{} bytes", buffer.capacity());
    }
}
