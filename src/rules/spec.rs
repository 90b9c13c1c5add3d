//! A rule as it was typed: what the configuration hands to the compiler.

use std::sync::Arc;
use std::time::Duration;

use super::condition::Condition;
use super::test::RuleTest;
use crate::action::{SinkKind, Verb};
use crate::change::Op;
use crate::problem::{Span, Text};

/// One `[[rule]]`.
#[derive(Clone, Debug)]
pub struct RuleSpec {
    /// The `[[rule]]` header.
    pub span: Span,
    /// `name`.
    pub name: Option<Text>,
    /// `enabled`.
    pub enabled: bool,
    /// `table`: one or more, as typed.
    pub tables: Vec<Text>,
    /// `on`; all operations if it is not given.
    pub on: Option<Vec<Op>>,
    /// `changed`: the columns of which an update must have changed one.
    pub changed: Option<Vec<Text>>,
    /// `where`: conditions that all must hold.
    pub conditions: Vec<Condition>,
    /// The templates of every verb, in the order of [`RULE_VERBS`], then as typed.
    pub templates: Vec<(Verb, Text)>,
    /// `publish`.
    pub publish: Option<PublishSpec>,
    /// `lookup`.
    pub lookup: Option<Text>,
    /// `bulk_above`.
    pub bulk_above: Option<u64>,
    /// `sinks`; every sink that can express the action if it is not given.
    pub sinks: Option<Vec<Text>>,
    /// `fallback`.
    pub fallback: FallbackSpec,
    /// `fallback_every`.
    pub fallback_every: Option<Duration>,
    /// `redelete_after`.
    pub redelete_after: Option<RedeleteSpec>,
    /// `expire_in`.
    pub expire_in: Option<ExpireSpec>,
    /// `[[rule.test]]`.
    pub tests: Vec<RuleTest>,
}

/// A rule that does nothing, with every key at its default.
impl Default for RuleSpec {
    fn default() -> Self {
        RuleSpec {
            span: 0..0,
            name: None,
            enabled: true,
            tables: Vec::new(),
            on: None,
            changed: None,
            conditions: Vec::new(),
            templates: Vec::new(),
            publish: None,
            lookup: None,
            bulk_above: None,
            sinks: None,
            fallback: FallbackSpec::default(),
            fallback_every: None,
            redelete_after: None,
            expire_in: None,
            tests: Vec::new(),
        }
    }
}

/// `redelete_after = […]`.
#[derive(Clone, Debug)]
pub struct RedeleteSpec {
    /// Where it stands.
    pub span: Span,
    /// How long after a transaction is visible: in ascending order.
    pub times: Arc<[Duration]>,
}

/// `expire_in = "…"`.
#[derive(Clone, Debug)]
pub struct ExpireSpec {
    /// Where it stands.
    pub span: Span,
    /// How long keys live on at most, in milliseconds; at least 1.
    pub ms: u64,
}

/// `publish = { channel = …, message = … }`, or with a stream.
#[derive(Clone, Debug)]
pub struct PublishSpec {
    /// The [`Address`](crate::action::Address), which does not vary.
    pub address: Text,
    /// The template of the message. `None`: each deletion is told as JSON.
    pub message: Option<Text>,
}

/// What a rule's fallback consists of.
#[derive(Clone, Debug)]
pub enum FallbackSpec {
    /// `fallback = "none"`: there is none.
    None,
    /// `[rule.fallback]`, or nothing about it.
    Actions {
        /// `derive`: whether coarse actions are derived from the rule's templates.
        derive: bool,
        /// What is written in addition.
        templates: Vec<(Verb, Text)>,
        /// A message that is written in addition.
        publish: Option<PublishSpec>,
    },
}

/// The verbs that a rule may name, in the order in which their actions come out.
pub const RULE_VERBS: [Verb; 6] =
    [Verb::Delete, Verb::DeleteMatching, Verb::Bump, Verb::Tag, Verb::PurgeKey, Verb::PurgePath];

impl Default for FallbackSpec {
    fn default() -> Self {
        FallbackSpec::Actions { derive: true, templates: Vec::new(), publish: None }
    }
}

/// A configured sink, as far as rules are concerned.
#[derive(Clone, Debug)]
pub struct SinkSpec {
    /// Its name.
    pub name: String,
    /// What sinks of its kind can express.
    pub kind: SinkKind,
    /// What this one can purge.
    pub purges: Purges,
}

/// What a CDN sink can purge with its settings; Redis purges nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purges {
    /// Surrogate keys.
    pub keys: bool,
    /// Paths.
    pub paths: PathPurges,
    /// Everything at once.
    pub all: bool,
}

/// Which paths a CDN sink can purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathPurges {
    /// None.
    #[default]
    None,
    /// One by one.
    Exact,
    /// All that start with a text, too.
    Wildcards,
}

impl SinkSpec {
    /// A Redis sink.
    pub fn redis(name: impl Into<String>) -> Self {
        SinkSpec { name: name.into(), kind: SinkKind::Redis, purges: Purges::default() }
    }

    /// Whether it can do `verb` on a value, or on what a template renders, that ends as `text`.
    pub fn supports(&self, verb: Verb, text: &[u8]) -> bool {
        let Purges { keys, paths, all } = self.purges;
        match verb {
            Verb::PurgeKey => keys,
            Verb::PurgePath if is_wildcard(text) => paths == PathPurges::Wildcards,
            Verb::PurgePath => paths != PathPurges::None,
            Verb::PurgeAll => all,
            _ => self.kind.supports(verb),
        }
    }
}

/// Whether a path stands for all that start with it.
pub fn is_wildcard(path: &[u8]) -> bool {
    path.ends_with(b"*")
}
