//! No text of a row adds anything to a request.

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::client::client;
use super::super::form::Part;
use super::*;
use crate::action::Action;

fn endpoint(url: &str, header: Option<&str>, body: Option<&str>) -> HttpEndpoint {
    let form = |text: &str, part| Form::parse(text, part).unwrap();
    let header =
        header.map(|text| ("x-purge".to_owned(), HeaderText::Form(form(text, Part::Header))));
    let options = HttpOptions {
        request: RequestForm {
            method: "PURGE".to_owned(),
            url: form(url, Part::Url),
            headers: header.into_iter().collect(),
            body: body.map(|text| form(text, Part::Body)),
        },
        purge_all: None,
        batch: 10,
        accept: Vec::new(),
        wildcards: true,
        signature: None,
    };
    HttpEndpoint::new("x", options).unwrap()
}

/// The requests for values of one verb, and how many of the values are in them.
fn requests(endpoint: &HttpEndpoint, verb: Verb, values: &[Vec<u8>]) -> (Vec<Request>, usize) {
    let mut batch = Batch::default();
    values.iter().for_each(|value| batch.push(Action { verb, value }));
    let (jobs, refused) = endpoint.jobs(&batch);
    // It reads the system's certificates.
    static CLIENT: LazyLock<Client> = LazyLock::new(|| client().unwrap());
    let request = |job: &Job| endpoint.request(&CLIENT, job, &batch).ok();
    (jobs.iter().filter_map(request).collect(), values.len() - refused.len())
}

/// Text that means something to somebody.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "a", "7", "/", "..", ".", "%2e", "%", "*", "?", "#", " ", ",", "\"", "\\", "'", "<", "&",
        "{", "}", "\r\n", "\n", "\t", "\0", "\u{e9}", "\u{2028}", ":", "//", "@", ";", "|",
    ]);
    let bytes = prop_oneof![
        9 => piece.prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..3),
    ];
    prop::collection::vec(bytes, 0..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_key_becomes_two_or_adds_anything(values in prop::collection::vec(text(), 1..6)) {
        let listed = endpoint("http://h/p", Some("{keys}"), None);
        let (made, count) = requests(&listed, Verb::PurgeKey, &values);
        let mut seen = 0;
        for request in &made {
            prop_assert_eq!(request.url().as_str(), "http://h/p");
            prop_assert_eq!(request.headers().len(), 1);
            let value = request.headers()["x-purge"].to_str().unwrap();
            seen += value.split([' ', ',', '\t']).filter(|key| !key.is_empty()).count();
        }
        prop_assert_eq!(seen, count);

        let json = endpoint("http://h/p", None, Some("{{\"tags\":{keys|json}}}"));
        let (made, count) = requests(&json, Verb::PurgeKey, &values);
        let mut seen = 0;
        for request in &made {
            let body = request.body().unwrap().as_bytes().unwrap();
            let body: serde_json::Value = serde_json::from_slice(body).unwrap();
            prop_assert_eq!(body.as_object().unwrap().len(), 1);
            for key in body["tags"].as_array().unwrap() {
                prop_assert!(values.iter().any(|value| value == key.as_str().unwrap().as_bytes()));
                seen += 1;
            }
        }
        prop_assert_eq!(seen, count);

        let url = endpoint("http://h/p/{key}", None, None);
        for request in requests(&url, Verb::PurgeKey, &values).0 {
            prop_assert_eq!(request.url().host_str(), Some("h"));
            prop_assert_eq!(request.url().path().split('/').count(), 3);
            prop_assert_eq!((request.url().query(), request.url().fragment()), (None, None));
        }
    }

    #[test]
    fn a_path_is_sent_as_it_was_rendered(values in prop::collection::vec(text(), 1..6)) {
        let values: Vec<_> =
            values.iter().map(|value| [b"/", value.as_slice()].concat()).collect();
        let plain = endpoint("http://h{path}", None, None);
        let (made, count) = requests(&plain, Verb::PurgePath, &values);
        prop_assert_eq!(made.len(), count);
        for request in made {
            let url = request.url();
            prop_assert_eq!((url.host_str(), url.fragment()), (Some("h"), None));
            let sent = match url.query() {
                Some(query) => format!("{}?{query}", url.path()),
                None => url.path().to_owned(),
            };
            let encoded: Vec<String> = values
                .iter()
                .map(|value| String::from_utf8(crate::rules::paths::encode(value)).unwrap())
                .collect();
            // The URL's own rules encode a quote in a query, and change nothing else.
            prop_assert!(
                encoded.iter().any(|path| path.replace('\'', "%27") == sent.replace('\'', "%27")),
                "{} {:?}", sent, encoded
            );
        }
        let header = endpoint("http://h/", Some("{path|regex}"), None);
        for request in requests(&header, Verb::PurgePath, &values).0 {
            prop_assert_eq!(request.headers().len(), 1);
        }
    }
}
