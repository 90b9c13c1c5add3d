//! Paths: how does text from a row stay within its segment of a path?
//!
//! A slash in it would begin a segment, `?` a query, and `*` at the end would be a wildcard to a
//! CDN. Pure.

use super::filter::Filter;
use super::template::{Segment, Template};

/// Gives `urlencode` to every placeholder that has neither it nor `path`.
pub(super) fn encode(template: &mut Template) {
    for segment in &mut template.segments {
        if let Segment::Placeholder(placeholder) = segment
            && !is_encoded(&placeholder.filters)
        {
            placeholder.filters.push(Filter::UrlEncode);
        }
    }
}

/// Whether what comes out is encoded. Base64 has slashes of its own, whatever goes in.
fn is_encoded(filters: &[Filter]) -> bool {
    let mut behind_base64 = filters.iter().rev().take_while(|filter| **filter != Filter::Base64);
    behind_base64.any(|filter| matches!(filter, Filter::UrlEncode | Filter::Path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_encoded_is_encoded_last() {
        for (typed, meant) in [
            ("/p/{slug}", "/p/{slug|urlencode}"),
            ("/p/{slug|lower}/{$table}", "/p/{slug|lower|urlencode}/{$table|urlencode}"),
            ("/p/{slug|path}", "/p/{slug|path}"),
            ("/p/{slug|urlencode|lower}", "/p/{slug|urlencode|lower}"),
            ("/p/{slug|path|base64}", "/p/{slug|path|base64|urlencode}"),
            ("/p/{labels[]}/*", "/p/{labels[]|urlencode}/*"),
        ] {
            let mut template = Template::parse(typed).unwrap();
            encode(&mut template);
            assert_eq!(template, Template::parse(meant).unwrap(), "{typed}");
        }
    }
}
