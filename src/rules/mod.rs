//! Rules: which change asks for which actions.
//!
//! What was typed ([`RuleSpec`]) is compiled once into a [`RuleSet`]; a [`Matcher`] then turns each
//! change into [`Emission`]s as it arrives. Pure: no I/O, no clock.

mod absence;
mod add_tables;
mod bulk;
mod compile;
mod condition;
mod ddl;
mod elements;
#[cfg(test)]
mod evaluator_tests;
mod expire;
mod fallback;
mod filter;
#[cfg(test)]
mod hostile_text_tests;
mod known_tables;
pub mod lookup;
mod matcher;
mod message;
mod name;
mod old_values;
mod partitions;
pub mod paths;
mod published;
mod purges;
mod render;
mod rule_set;
mod spec;
mod table;
mod template;
mod test;

pub use absence::Absence;
pub use add_tables::to_wal2json;
pub use bulk::{BULK_ABOVE, Bulk};
pub use compile::compile;
pub use condition::{Condition, Pattern, Test};
pub use ddl::{DDL_PREFIX, Ddl, MalformedDdl, TableName};
pub use fallback::{Cause, Coarse, Cover};
pub use known_tables::{ColumnUse, KnownTable, KnownTables, TableNews};
pub use matcher::{Emission, Matcher};
pub use message::{MESSAGE_PREFIX, MessageError, Messages};
pub use name::rule_names;
pub use partitions::Partitions;
pub use published::{Hiding, Lack, Lacking, Publication, PublishedLeaf, PublishedTable};
pub use render::Facts;
pub use rule_set::{FALLBACK_EVERY, RedeleteId, Rule, RuleId, RuleSet, SinkId, Step};
pub use spec::{
    ExpireSpec, FallbackSpec, PathPurges, PublishSpec, Purges, RULE_VERBS, RedeleteSpec, RuleSpec,
    SinkSpec, is_wildcard,
};
pub use table::{Part, TablePattern};
pub use template::{Template, TemplateError};
pub use test::{Line, Outcome, RuleTest, TestRow, run_tests};
