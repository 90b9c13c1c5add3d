//! The SQL that asks for many inputs at once.
//!
//! Pure: the text of statements, which [`lookups`](crate::lookups) runs. What comes from a row is
//! bound and never part of the text.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::super::template::{Extent, Placeholder, Segment, Source, Template, TemplateError};

/// A query with parameters.
#[derive(Clone, Debug)]
pub struct Statement {
    parts: Vec<Part>,
    parameters: usize,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// By its place among the parameters.
    Parameter(usize),
}

/// What the database says about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The types of its parameters, as SQL writes them.
    pub types: Vec<String>,
    /// The names of the result's columns.
    pub columns: Vec<String>,
}

impl Statement {
    pub(super) fn new(
        query: &str,
        template: &Template,
        parameters: &[Placeholder],
    ) -> Result<Self, TemplateError> {
        let wrong = |message: &str, label: &str, help: &str| TemplateError {
            at: 0..query.len(),
            message: message.into(),
            label: label.into(),
            help: help.into(),
        };
        let is_list = |placeholder: &Placeholder| {
            matches!(placeholder.source, Source::Column { extent: Extent::Elements, .. })
        };
        if parameters.iter().any(is_list) {
            return Err(wrong(
                "a list in a lookup",
                "`[]` has no meaning here",
                "bind the whole array: WHERE id = ANY ({ids})",
            ));
        }
        let mut parts = Vec::new();
        let mut quoted = Quoted::Not;
        for segment in &template.segments {
            match segment {
                Segment::Literal(text) => {
                    quoted = quoted.after(text);
                    // Templates are parsed from text.
                    parts.push(Part::Text(String::from_utf8_lossy(text).into_owned()));
                }
                Segment::Placeholder(placeholder) => {
                    if quoted != Quoted::Not {
                        return Err(wrong(
                            "a placeholder in quotes or in a comment",
                            "not a parameter there",
                            "values are bound: write WHERE name = {name}, without quotes",
                        ));
                    }
                    let at = parameters.iter().position(|other| other == placeholder);
                    parts.push(Part::Parameter(at.unwrap_or_default()));
                }
            }
        }
        if let Some(Part::Text(last)) = parts.last_mut() {
            let kept = last.trim_end_matches(|c: char| c.is_whitespace() || c == ';').len();
            last.truncate(kept);
        }
        if parts.iter().all(|part| matches!(part, Part::Text(text) if text.trim().is_empty())) {
            return Err(wrong("an empty lookup", "empty", "write a SELECT"));
        }
        Ok(Statement { parts, parameters: parameters.len() })
    }

    /// How many parameters it has.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The query with what `parameter` makes of each parameter's place.
    fn with(&self, parameter: impl Fn(usize) -> String) -> String {
        let mut sql = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => sql.push_str(text),
                Part::Parameter(at) => sql.push_str(&parameter(*at)),
            }
        }
        sql
    }

    /// As a person would write it for these values.
    pub fn shown<'v>(&self, values: impl Iterator<Item = Option<&'v str>>) -> String {
        let values: Vec<_> = values.collect();
        self.with(|at| match values.get(at).copied().flatten() {
            Some(text) => format!("'{}'", text.replace('\'', "''")),
            None => "NULL".to_owned(),
        })
    }

    /// Makes a prepared statement of it, so that the server works out the parameters' types.
    pub fn prepare(&self, name: &str) -> String {
        format!("PREPARE {name} AS {}", self.with(|at| format!("${}", at + 1)))
    }

    /// Asks for no row at all: for the names of the columns, and whether we may.
    pub fn describe(&self, types: &[String]) -> String {
        let query = self.with(|at| format!("(NULL::{})", type_at(types, at)));
        format!("SELECT * FROM (\n{query}\n) AS walpurge_result LIMIT 0")
    }

    /// Asks for all of `inputs` at once. Its parameters are arrays of text, one for each of the
    /// query's own, in which the inputs stand in order. The result's first column is the number of
    /// the input, from 1 on; the others are the query's, as text. No input gets more than `limit`
    /// rows.
    pub fn batch(&self, shape: &Shape, inputs: usize, limit: u64) -> String {
        let query = self.with(|at| match type_at(&shape.types, at) {
            // The stream has bytes as hexadecimal digits alone.
            "bytea" => format!("(pg_catalog.decode(walpurge_input.p{at}, 'hex'))"),
            name => format!("(walpurge_input.p{at}::{name})"),
        });
        let (columns, aliases) = shape.result();
        let mut sql = String::from("SELECT walpurge_input.n");
        for column in &columns {
            let _ = write!(sql, ", {}", as_streamed(&format!("walpurge_result.{column}")));
        }
        sql.push_str("\nFROM ");
        match self.parameters {
            0 => {
                let _ = write!(sql, "generate_series(1::bigint, {inputs}) AS walpurge_input (n)");
            }
            count => {
                let list = |item: fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>();
                let arrays = list(|at| format!("${}::text[]", at + 1)).join(", ");
                let names = list(|at| format!("p{at}, ")).concat();
                let _ =
                    write!(sql, "unnest({arrays}) WITH ORDINALITY AS walpurge_input ({names}n)");
            }
        }
        let _ = write!(
            sql,
            "\nCROSS JOIN LATERAL (SELECT * FROM (\n{query}\n) AS walpurge_query LIMIT {limit}) \
             AS walpurge_result{aliases}"
        );
        sql
    }
}

impl Shape {
    /// How SQL refers to the result's columns, and what it has to call them for that. By their own
    /// names, so that columns which have changed places since are not taken for each other; where
    /// two have the same one, by their places.
    fn result(&self) -> (Vec<String>, String) {
        let distinct: BTreeSet<&String> = self.columns.iter().collect();
        if distinct.len() == self.columns.len() {
            let quoted = self.columns.iter().map(|name| name.replace('"', "\"\""));
            return (quoted.map(|name| format!("\"{name}\"")).collect(), String::new());
        }
        let places: Vec<_> = (0..self.columns.len()).map(|at| format!("c{at}")).collect();
        let aliases = format!(" ({})", places.join(", "));
        (places, aliases)
    }
}

/// A value as the stream prints it: as its type's output function does, which a cast to text is
/// not (it strips char(n), and gives inet a netmask), but for booleans and bytes.
fn as_streamed(value: &str) -> String {
    format!(
        "CASE WHEN {value} IS NULL THEN NULL ELSE CASE pg_catalog.pg_typeof({value}) \
         WHEN 'pg_catalog.bool'::pg_catalog.regtype THEN {value}::text \
         WHEN 'pg_catalog.bytea'::pg_catalog.regtype \
         THEN pg_catalog.substr(pg_catalog.format('%s', {value}), 3) \
         ELSE pg_catalog.format('%s', {value}) END END"
    )
}

fn type_at(types: &[String], at: usize) -> &str {
    types.get(at).map_or("text", String::as_str)
}

/// What a place in SQL is inside of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quoted {
    Not,
    /// A string or a name.
    In(u8),
    LineComment,
    BlockComment,
}

impl Quoted {
    fn after(self, text: &[u8]) -> Quoted {
        let (mut state, mut rest) = (self, text);
        while let Some((&byte, tail)) = rest.split_first() {
            let next = tail.first().copied();
            (state, rest) = match (state, byte, next) {
                (Quoted::Not, b'\'' | b'"', _) => (Quoted::In(byte), tail),
                (Quoted::Not, b'-', Some(b'-')) => (Quoted::LineComment, tail),
                (Quoted::Not, b'/', Some(b'*')) => (Quoted::BlockComment, &tail[1..]),
                (Quoted::In(quote), _, _) if byte == quote => (Quoted::Not, tail),
                (Quoted::LineComment, b'\n', _) => (Quoted::Not, tail),
                (Quoted::BlockComment, b'*', Some(b'/')) => (Quoted::Not, &tail[1..]),
                _ => (state, tail),
            };
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lookup;
    use super::*;

    fn statement(query: &str) -> Result<Statement, String> {
        Lookup::new(query, &[], &[]).map(|lookup| lookup.statement).map_err(|error| error.message)
    }

    #[test]
    fn values_are_bound_and_never_part_of_the_text() {
        let query = "SELECT id AS post_id FROM posts WHERE user_id = {id} AND kind <> {kind|lower} \
                     AND id <> {id} ; ";
        let statement = statement(query).unwrap();
        assert_eq!(
            statement.prepare("p"),
            "PREPARE p AS SELECT id AS post_id FROM posts WHERE user_id = $1 AND kind <> $2 AND \
             id <> $1"
        );
        let shape = Shape {
            types: vec!["bigint".into(), "\"my type\"".into()],
            columns: vec!["post_id".into()],
        };
        assert_eq!(
            statement.describe(&shape.types),
            "SELECT * FROM (\nSELECT id AS post_id FROM posts WHERE user_id = (NULL::bigint) AND \
             kind <> (NULL::\"my type\") AND id <> (NULL::bigint)\n) AS walpurge_result LIMIT 0"
        );
        assert_eq!(
            statement.batch(&shape, 9, 100),
            format!(
                "SELECT walpurge_input.n, {}\n\
                 FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS walpurge_input (p0, p1, n)\n\
                 CROSS JOIN LATERAL (SELECT * FROM (\n\
                 SELECT id AS post_id FROM posts WHERE user_id = (walpurge_input.p0::bigint) AND \
                 kind <> (walpurge_input.p1::\"my type\") AND id <> (walpurge_input.p0::bigint)\n\
                 ) AS walpurge_query LIMIT 100) AS walpurge_result",
                as_streamed("walpurge_result.\"post_id\"")
            )
        );
        let shown = statement.shown([Some("7"), Some("it's")].into_iter());
        assert!(shown.contains("user_id = '7' AND kind <> 'it''s' AND id <> '7'"), "{shown}");
    }

    #[test]
    fn columns_are_told_apart_by_name_and_where_two_have_the_same_by_place() {
        let result = |columns: &[&str]| {
            let columns = columns.iter().map(|name| name.to_string()).collect();
            Shape { types: Vec::new(), columns }.result()
        };
        assert_eq!(result(&["id", "a\"b"]).0, ["\"id\"", "\"a\"\"b\""]);
        assert_eq!(result(&["id", "id"]), (vec!["c0".into(), "c1".into()], " (c0, c1)".into()));
    }

    #[test]
    fn what_cannot_be_bound_is_refused() {
        let refused = |query: &str| statement(query).unwrap_err();
        let quoted = "a placeholder in quotes or in a comment";
        assert_eq!(refused("SELECT 1 FROM t WHERE a = '{a}'"), quoted);
        assert_eq!(refused("SELECT 1 FROM \"{a}\""), quoted);
        assert_eq!(refused("SELECT 1 -- {a}"), quoted);
        assert_eq!(refused("SELECT 1 /* it's {a} */"), quoted);
        assert_eq!(refused("SELECT 1 WHERE a = {l[]}"), "a list in a lookup");
        assert_eq!(refused(" ; "), "an empty lookup");
        for fine in ["SELECT '{{}}', {a}", "SELECT 'it''s' -- isn't\n, {a}", "SELECT /* ' */ {a}"] {
            assert!(statement(fine).is_ok(), "{fine}");
        }
    }
}
