//! Table names and patterns.

use crate::problem::{Problem, Text};

/// Which tables a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern {
    schema: Vec<u8>,
    table: Vec<u8>,
}

impl TablePattern {
    /// Parses `schema.table`.
    ///
    /// # Errors
    /// If there is no schema.
    pub fn parse(text: &Text) -> Result<Self, Problem> {
        match text.value.split_once('.') {
            Some((schema, table)) => {
                Ok(TablePattern { schema: schema.into(), table: table.into() })
            }
            None => Err(Problem::new(text.span.clone(), "unqualified", "")),
        }
    }

    /// Whether the rule is about this table.
    pub fn matches(&self, schema: &[u8], table: &[u8]) -> bool {
        (self.schema == b"*" || self.schema == schema)
            && (self.table == b"*" || self.table == table)
    }
}
