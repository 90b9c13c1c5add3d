//! With which options is pgoutput started?
//!
//! Protocol version 1, which every supported server speaks: whole transactions after their commit,
//! values as text. What it sends is the publication's affair.

use super::quote::identifier;

/// What a stream shall contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgoutputOptions {
    /// The publication whose tables and operations are sent.
    pub publication: String,
}

impl PgoutputOptions {
    /// The plugin's options, in its own words.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("proto_version", "1".to_owned()),
            // A list of identifiers, which are folded unless they are quoted.
            ("publication_names", identifier(&self.publication)),
            // Of every prefix: there is no choice.
            ("messages", "true".to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publications_name_is_taken_as_it_is() {
        let options = PgoutputOptions { publication: "My \"own\", pub".into() }.options();
        assert_eq!(options[1], ("publication_names", r#""My ""own"", pub""#.to_owned()));
    }
}
