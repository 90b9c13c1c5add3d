//! Rules: which change asks for which actions.

mod add_tables;
mod name;
mod spec;
mod table;

pub use add_tables::to_wal2json;
pub use name::rule_names;
pub use spec::{FallbackSpec, RULE_VERBS, RuleSpec};
pub use table::{Part, TablePattern};
