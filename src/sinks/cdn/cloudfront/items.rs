//! A batch as what CloudFront invalidates: paths and cache tags, in portions that it takes.
//!
//! Source: <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/Invalidation.html>.
//! Pure.

use super::super::items::{self, Wildcards};
use super::super::rejected;
use crate::action::{Action, Batch, Verb};
use crate::rules::is_wildcard;
use crate::sinks::Rejected;

/// What covers everything, at the price of one path.
pub(super) const EVERYTHING: &str = "/*";

/// The longest cache tag, in bytes.
const TAG_BYTES_MAX: usize = 256;

/// Something to invalidate, and the actions of the batch that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) text: String,
    pub(super) actions: Vec<usize>,
}

/// A batch as portions with at most so many wildcards and items each, and what can never be part of
/// one. What a wildcard of the batch covers costs nothing beside it.
pub(super) fn portions(
    batch: &Batch,
    (wildcards_max, items_max): (usize, usize),
) -> (Vec<Vec<Item>>, Vec<Rejected>) {
    if batch.iter().any(|action| action.verb == Verb::PurgeAll) {
        let actions = (0..batch.len()).collect();
        return (vec![vec![Item { text: EVERYTHING.to_owned(), actions }]], Vec::new());
    }
    let (mut wildcards, mut others): (Vec<Item>, Vec<Item>) = (Vec::new(), Vec::new());
    let mut refused = Vec::new();
    for (index, action) in batch.iter().enumerate() {
        match text(action) {
            Ok(text) => {
                let list = match action.verb == Verb::PurgePath && is_wildcard(text.as_bytes()) {
                    true => &mut wildcards,
                    false => &mut others,
                };
                list.push(Item { text, actions: vec![index] });
            }
            Err(reason) => refused.push(rejected(index, reason)),
        }
    }
    // The shortest cover most.
    wildcards.sort_by_key(|item| item.text.len());
    let mut kept: Vec<Item> = Vec::new();
    for item in wildcards.into_iter().chain(others) {
        match kept.iter_mut().find(|wildcard| covers(&wildcard.text, &item.text)) {
            Some(wildcard) => wildcard.actions.extend(item.actions),
            None => kept.push(item),
        }
    }
    let mut portions: Vec<Vec<Item>> = Vec::new();
    let mut wildcards = 0;
    for item in kept {
        let is_wildcard = item.text.ends_with('*');
        let has_room = portions.last().is_some_and(|portion: &Vec<Item>| {
            portion.len() < items_max && !(is_wildcard && wildcards == wildcards_max)
        });
        if !has_room {
            portions.push(Vec::new());
            wildcards = 0;
        }
        wildcards += usize::from(is_wildcard);
        if let Some(portion) = portions.last_mut() {
            portion.push(item);
        }
    }
    (portions, refused)
}

/// How an action is written in an invalidation.
fn text(action: Action<'_>) -> Result<String, String> {
    match action.verb {
        Verb::PurgePath => items::path(action.value, Wildcards::Any),
        Verb::PurgeKey => {
            let tag = items::listed_key(action.value, TAG_BYTES_MAX)?;
            if tag.contains('*') {
                return Err("a cache tag has no wildcards".to_owned());
            }
            Ok(format!("#{tag}"))
        }
        _ => Err("CloudFront has nothing like it".to_owned()),
    }
}

fn covers(wildcard: &str, item: &str) -> bool {
    wildcard.strip_suffix('*').is_some_and(|beginning| item.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS_MAX: usize = 1400;

    fn batch(actions: &[(Verb, &str)]) -> Batch {
        let mut batch = Batch::default();
        for &(verb, value) in actions {
            batch.push(Action { verb, value: value.as_bytes() });
        }
        batch
    }

    fn texts(batch: &Batch, wildcards_max: usize) -> Vec<Vec<String>> {
        let (portions, _) = portions(batch, (wildcards_max, ITEMS_MAX));
        let texts = |portion: Vec<Item>| portion.into_iter().map(|item| item.text).collect();
        portions.into_iter().map(texts).collect()
    }

    #[test]
    fn paths_are_encoded_tags_marked_and_what_is_covered_costs_nothing() {
        use Verb::{PurgeAll, PurgeKey, PurgePath};
        let all = batch(&[
            (PurgePath, "/a b"),
            (PurgePath, "/p/1?x=\u{e9}"),
            (PurgePath, "/p/*"),
            (PurgePath, "/p/q/*"),
            (PurgeKey, "p:1"),
        ]);
        assert_eq!(texts(&all, 14), [["/p/*", "/a%20b", "#p:1"]]);
        let (portions, refused) = portions(&all, (14, ITEMS_MAX));
        assert_eq!((refused.len(), portions[0][0].actions.len()), (0, 3));
        let all = batch(&[(PurgePath, "/a"), (PurgeAll, "*"), (PurgeKey, "bad key")]);
        assert_eq!(texts(&all, 14), [["/*"]]);
    }

    #[test]
    fn what_no_tag_or_path_can_be_is_refused() {
        let long = "t".repeat(257);
        for tag in ["a b", "a,b", "", "\u{e9}", "a*", "a\u{7f}", &long] {
            assert_eq!(
                portions(&batch(&[(Verb::PurgeKey, tag)]), (14, ITEMS_MAX)).1.len(),
                1,
                "{tag}"
            );
        }
        for path in ["a", "/a/../b", "/a*b"] {
            assert_eq!(
                portions(&batch(&[(Verb::PurgePath, path)]), (14, ITEMS_MAX)).1.len(),
                1,
                "{path}"
            );
        }
    }

    #[test]
    fn portions_keep_to_the_limits() {
        let paths: Vec<String> = (100..140)
            .map(|at| format!("/{at}/*"))
            .chain((0..3000).map(|at| format!("/x{at}")))
            .collect();
        let actions: Vec<_> = paths.iter().map(|path| (Verb::PurgePath, path.as_str())).collect();
        let portions = texts(&batch(&actions), 14);
        for portion in &portions {
            assert!(portion.len() <= ITEMS_MAX);
            assert!(portion.iter().filter(|item| item.ends_with('*')).count() <= 14);
        }
        assert_eq!(portions.iter().map(Vec::len).sum::<usize>(), 3040);
        assert_eq!(portions.len(), 5);
    }
}
