//! Templates: `product:{id}`, parsed once, rendered for each change.
//!
//! ```text
//! template    = { literal | "{{" | "}}" | placeholder }
//! placeholder = "{" [ "old." | "new." ] column [ "[]" ] { "|" filter [ ":" argument ] } "}"
//!             | "{$" variable { "|" … } "}"
//! column      = name | '"' name, with quotes doubled '"'
//! ```

use std::ops::Range;

use super::filter::Filter;
use super::render::append_json;
use crate::action::Verb;
use crate::problem::nearest;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Literals and placeholders, in order; no two literals follow each other.
    pub segments: Vec<Segment>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// Text that stands for itself.
    Literal(Vec<u8>),
    /// What a change fills in.
    Placeholder(Placeholder),
}

/// `{…}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Placeholder {
    /// What fills it.
    pub source: Source,
    /// What is done to the value, from left to right.
    pub filters: Vec<Filter>,
}

/// What fills a placeholder.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A column of the row.
    Column {
        /// The column's exact name.
        name: Vec<u8>,
        /// Of which image.
        image: Image,
        /// The whole value, or each element of it.
        extent: Extent,
    },
    /// A fact about the change.
    Variable(Variable),
}

/// Which image of the row a placeholder takes its value from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// `{column}`: the template renders once for each.
    Both,
    /// `{old.column}`.
    Old,
    /// `{new.column}`.
    New,
}

/// How much of a column's value a placeholder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// `{column}`.
    Whole,
    /// `{column[]}`: the template renders once for each element.
    Elements,
}

/// `{$…}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// The table's schema.
    Schema,
    /// The table's name.
    Table,
    /// insert, update, delete or truncate.
    Op,
    /// The transaction's ID.
    Xid,
    /// Start of the transaction's commit record.
    CommitLsn,
}

const VARIABLES: [(&str, Variable); 5] = [
    ("schema", Variable::Schema),
    ("table", Variable::Table),
    ("op", Variable::Op),
    ("xid", Variable::Xid),
    ("commit_lsn", Variable::CommitLsn),
];

/// What is wrong in a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// The offending bytes of the template.
    pub at: Range<usize>,
    /// What is wrong, in one line.
    pub message: String,
    /// What stands there, in a few words.
    pub label: String,
    /// What is allowed.
    pub help: String,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let mut template = Template { segments: Vec::new() };
        let mut parser = Parser { text, at: 0 };
        while let Some(next) = parser.rest().chars().next() {
            if parser.take("{{") {
                template.literal("{");
            } else if parser.take("}}") {
                template.literal("}");
            } else if next == '{' {
                let placeholder = parser.placeholder()?;
                template.segments.push(Segment::Placeholder(placeholder));
            } else if next == '}' {
                return Err(TemplateError {
                    at: parser.at..parser.at + 1,
                    message: "a `}` that closes nothing".into(),
                    label: "no `{` before it".into(),
                    help: "write `}}` for a literal brace".into(),
                });
            } else {
                let rest = parser.rest();
                let end = rest.find(['{', '}']).unwrap_or(rest.len());
                template.literal(&rest[..end]);
                parser.at += end;
            }
        }
        template.check_elements(text)?;
        Ok(template)
    }

    /// The placeholders, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Placeholder(placeholder) => Some(placeholder),
            Segment::Literal(_) => None,
        })
    }

    /// Its text, if it has no placeholders.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match self.segments.as_slice() {
            [] => Some(&[]),
            [Segment::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Puts what a verb's value begins with before what it renders, and a zero byte: the address
    /// of a [`Verb::Publish`], the time of an expiry.
    pub(super) fn put_head(&mut self, head: &str) {
        let mut head = head.as_bytes().to_vec();
        head.push(0);
        match self.segments.first_mut() {
            Some(Segment::Literal(literal)) => {
                literal.splice(0..0, head);
            }
            _ => self.segments.insert(0, Segment::Literal(head)),
        }
    }

    /// The JSON that tells what a rule does with what this template renders.
    pub(super) fn told_as_json(&self, verb: Verb, expire_ms: Option<u64>, rule: &str) -> Template {
        let mut json = Template { segments: Vec::new() };
        json.literal("{\"action\":\"");
        json.literal(verb.key());
        json.literal("\",\"value\":\"");
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => json.json_literal(literal),
                placeholder => json.segments.push(placeholder.clone()),
            }
        }
        json.literal("\"");
        if let Some(of) = verb.key_type() {
            json.literal(&format!(",\"key_type\":\"{}\"", of.name()));
        }
        if let Some(expire_ms) = expire_ms {
            json.literal(&format!(",\"expire_in_ms\":{expire_ms}"));
        }
        json.literal(",\"commit_lsn\":\"");
        json.variable(Variable::CommitLsn);
        json.literal("\",\"table\":\"");
        json.variable(Variable::Schema);
        json.literal(".");
        json.variable(Variable::Table);
        json.literal("\",\"rule\":\"");
        json.json_literal(rule.as_bytes());
        json.literal("\"}");
        json
    }

    fn json_literal(&mut self, text: &[u8]) {
        let mut escaped = Vec::new();
        append_json(text, &mut escaped);
        self.literal(&String::from_utf8_lossy(&escaped));
    }

    fn variable(&mut self, variable: Variable) {
        let (source, filters) = (Source::Variable(variable), Vec::new());
        self.segments.push(Segment::Placeholder(Placeholder { source, filters }));
    }

    fn literal(&mut self, text: &str) {
        match self.segments.last_mut() {
            Some(Segment::Literal(literal)) => literal.extend_from_slice(text.as_bytes()),
            _ => self.segments.push(Segment::Literal(text.as_bytes().to_vec())),
        }
    }

    /// Elements of two columns would make every combination of them.
    fn check_elements(&self, text: &str) -> Result<(), TemplateError> {
        let elements = self.placeholders().filter(|placeholder| {
            matches!(placeholder.source, Source::Column { extent: Extent::Elements, .. })
        });
        if elements.count() > 1 {
            return Err(TemplateError {
                at: 0..text.len(),
                message: "a template with more than one `[]`".into(),
                label: "one list at most".into(),
                help: "use a template for each list".into(),
            });
        }
        Ok(())
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn placeholder(&mut self) -> Result<Placeholder, TemplateError> {
        let open = self.at;
        self.take("{");
        let source = if self.take("$") { self.variable(open)? } else { self.column(open)? };
        let mut filters = Vec::new();
        loop {
            if self.take("}") {
                return Ok(Placeholder { source, filters });
            }
            if !self.take("|") {
                return Err(self.unclosed(open));
            }
            filters.push(self.filter(open)?);
        }
    }

    fn column(&mut self, open: usize) -> Result<Source, TemplateError> {
        let image = if self.take("old.") {
            Image::Old
        } else if self.take("new.") {
            Image::New
        } else {
            Image::Both
        };
        let start = self.at;
        let name = if self.take("\"") {
            self.quoted(open)?
        } else {
            let rest = self.rest();
            let end = rest.find(['{', '}', '|', '[', '"']).unwrap_or(rest.len());
            self.at += end;
            rest[..end].to_string()
        };
        let extent = if self.take("[]") { Extent::Elements } else { Extent::Whole };
        if name.is_empty() || name.trim() != name && !self.text[start..].starts_with('"') {
            let at = if name.is_empty() {
                open..(self.at + 1).min(self.text.len())
            } else {
                start..self.at
            };
            return Err(TemplateError {
                at,
                message: "a placeholder without a column name".into(),
                label: "expected a column name".into(),
                help: "write {column}, {old.column} or {\"Column Name\"}; {{ and }} are literal braces".into(),
            });
        }
        Ok(Source::Column { name: name.into_bytes(), image, extent })
    }

    /// The rest of a quoted name, in which a doubled quote stands for one.
    fn quoted(&mut self, open: usize) -> Result<String, TemplateError> {
        let mut name = String::new();
        loop {
            let rest = self.rest();
            let Some(end) = rest.find('"') else { return Err(self.unclosed(open)) };
            name.push_str(&rest[..end]);
            self.at += end + 1;
            if !self.take("\"") {
                return Ok(name);
            }
            name.push('"');
        }
    }

    fn variable(&mut self, open: usize) -> Result<Source, TemplateError> {
        let (start, name) = self.word();
        match VARIABLES.iter().find(|(known, _)| *known == name) {
            Some(&(_, variable)) => Ok(Source::Variable(variable)),
            None if self.rest().is_empty() => Err(self.unclosed(open)),
            None => {
                Err(unknown("variable", start - 1, name, VARIABLES.map(|(known, _)| known), "$"))
            }
        }
    }

    fn filter(&mut self, open: usize) -> Result<Filter, TemplateError> {
        let (start, name) = self.word();
        let argument = self.take(":").then(|| {
            let rest = self.rest();
            let end = rest.find(['|', '}']).unwrap_or(rest.len());
            self.at += end;
            &rest[..end]
        });
        if self.rest().is_empty() {
            return Err(self.unclosed(open));
        }
        if !Filter::NAMES.contains(&name) {
            return Err(unknown("filter", start, name, Filter::NAMES, ""));
        }
        Filter::parse(name, argument).map_err(|help| TemplateError {
            at: start..self.at,
            message: format!("filter `{name}` cannot take this"),
            label: "wrong argument".into(),
            help,
        })
    }

    /// What stands before the next `:`, `|` or brace, and where it starts.
    fn word(&mut self) -> (usize, &'t str) {
        let (start, rest) = (self.at, self.rest());
        let end = rest.find(['{', '}', '|', ':']).unwrap_or(rest.len());
        self.at += end;
        (start, &rest[..end])
    }

    fn unclosed(&self, open: usize) -> TemplateError {
        TemplateError {
            at: open..self.text.len(),
            message: "a `{` that is not closed".into(),
            label: "expected `}` after this".into(),
            help: "close the placeholder with `}`, or write `{{` for a literal brace".into(),
        }
    }
}

fn unknown<const N: usize>(
    kind: &str,
    start: usize,
    name: &str,
    known: [&'static str; N],
    sigil: &str,
) -> TemplateError {
    let listed = known.map(|known| format!("{sigil}{known}")).join(", ");
    let help = match nearest(name, known) {
        Some(near) => format!("did you mean `{sigil}{near}`? Known: {listed}"),
        None => format!("known: {listed}"),
    };
    TemplateError {
        at: start..start + sigil.len() + name.len(),
        message: format!("unknown {kind} `{sigil}{name}`"),
        label: format!("no such {kind}"),
        help,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, image: Image, extent: Extent) -> Segment {
        let source = Source::Column { name: name.as_bytes().to_vec(), image, extent };
        Segment::Placeholder(Placeholder { source, filters: Vec::new() })
    }

    fn literal(text: &str) -> Segment {
        Segment::Literal(text.as_bytes().to_vec())
    }

    #[test]
    fn parses_literals_braces_images_elements_and_quoted_names() {
        let template = Template::parse(r#"{{user:{id}}}:{old.slug}{new.a b}{labels[]}{"x}|""y"}"#);
        let segments = vec![
            literal("{user:"),
            column("id", Image::Both, Extent::Whole),
            literal("}:"),
            column("slug", Image::Old, Extent::Whole),
            column("a b", Image::New, Extent::Whole),
            column("labels", Image::Both, Extent::Elements),
            column("x}|\"y", Image::Both, Extent::Whole),
        ];
        assert_eq!(template, Ok(Template { segments }));
    }

    #[test]
    fn parses_filters_and_variables() {
        let template = Template::parse("{$op}{a|lower|default:x y}").unwrap();
        let placeholders: Vec<_> = template.placeholders().collect();
        assert_eq!(placeholders[0].source, Source::Variable(Variable::Op));
        assert_eq!(placeholders[1].filters, [Filter::Lower, Filter::Default(b"x y".to_vec())]);
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (text, at, message) in [
            ("a{b", 1..3, "a `{` that is not closed"),
            ("a{b|lower", 1..9, "a `{` that is not closed"),
            ("{\"b}", 0..4, "a `{` that is not closed"),
            ("a}b", 1..2, "a `}` that closes nothing"),
            ("{}", 0..2, "a placeholder without a column name"),
            ("{old.}", 0..6, "a placeholder without a column name"),
            ("{ id }", 1..5, "a placeholder without a column name"),
            ("x{id|lowr}", 5..9, "unknown filter `lowr`"),
            ("x{$tabel}", 2..8, "unknown variable `$tabel`"),
            ("{id|first:x}", 4..11, "filter `first` cannot take this"),
            ("{id|lower:x}", 4..11, "filter `lower` cannot take this"),
            ("{a[]}{b[]}", 0..10, "a template with more than one `[]`"),
            ("{a{b}", 0..5, "a `{` that is not closed"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert_eq!((error.at, error.message.as_str()), (at, message), "{text}");
        }
    }
}
