//! Anything that purges over HTTP: Varnish, nginx, Cloudflare, Bunny, a webhook.
//!
//! In: a request as it was configured, with places for keys or paths. Out: requests with checked
//! values in them, and what their answers mean. No I/O here.

use std::sync::atomic::{AtomicBool, Ordering};

use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Url};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::client::Reply;
use super::form::{Form, Place};
use super::items::{self, Wildcards};
use super::pacer::Pacer;
use super::work::{Job, JobKind, Verdict};
use super::{CdnError, header, rejected};
use crate::action::{Batch, Verb};
use crate::sinks::{Failure, Rejected};

/// How many keys or paths a request holds, where it is not configured.
pub const BATCH: usize = 100;

/// The most that can be configured: what the pipeline sends at once.
pub const BATCH_MAX: usize = 1024;

/// The longest surrogate key, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// How many bytes of keys or paths the URL and the headers of one request hold: Varnish takes 8 KiB
/// for a header.
const HEAD_BYTES_MAX: usize = 7 * 1024;

/// How many its body holds: proxies take 1 MiB where they are not told otherwise (nginx'
/// `client_max_body_size`), and encoding takes its share.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// An endpoint, as it was configured.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// What purges keys or paths.
    pub request: RequestForm,
    /// What purges everything; it has no places.
    pub purge_all: Option<RequestForm>,
    /// How many keys or paths go into a request with `{keys}` or `{paths}`.
    pub batch: usize,
    /// The statuses that say that it is done; none: every one from 200 to 299.
    pub accept: Vec<u16>,
    /// Whether a `*` at a path's end is understood.
    pub wildcards: bool,
    /// How bodies are signed.
    pub signature: Option<Signature>,
}

/// A request with places for what is purged.
#[derive(Clone, Debug)]
pub struct RequestForm {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: Form,
    /// Names and values.
    pub headers: Vec<(String, HeaderText)>,
    /// The body, if any.
    pub body: Option<Form>,
}

/// The value of a header.
#[derive(Clone, Debug)]
pub enum HeaderText {
    /// It may have places.
    Form(Form),
    /// It is sent as it is, and never shown.
    Secret(SecretString),
}

/// HMAC-SHA256 of the body, in hexadecimal, in a header.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The header's name.
    pub header: String,
    /// What stands before it.
    pub prefix: String,
    /// The key.
    pub secret: SecretString,
}

impl RequestForm {
    /// What it has places for.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.forms().flat_map(Form::places)
    }

    /// Its parts that may have places.
    pub fn forms(&self) -> impl Iterator<Item = &Form> {
        let headers = self.headers.iter().filter_map(|(_, value)| match value {
            HeaderText::Form(form) => Some(form),
            HeaderText::Secret(_) => None,
        });
        std::iter::once(&self.url).chain(headers).chain(&self.body)
    }
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct HttpEndpoint {
    sink: String,
    request: Prepared,
    purge_all: Option<Prepared>,
    place: Option<Place>,
    lists_keys: bool,
    batch: usize,
    /// How many bytes of keys or paths one request holds.
    bytes_max: usize,
    accept: Vec<u16>,
    wildcards: Wildcards,
    signature: Option<(HeaderName, String, Hmac<Sha256>)>,
    /// Whether it has ever accepted a request: before, a refusal says more about the
    /// configuration than about an item.
    is_proven: AtomicBool,
}

/// A request whose fixed parts were checked.
#[derive(Debug)]
struct Prepared {
    method: Method,
    url: Form,
    headers: Vec<(HeaderName, PreparedHeader)>,
    body: Option<Form>,
}

#[derive(Debug)]
enum PreparedHeader {
    Form(Form),
    Fixed(HeaderValue),
}

impl HttpEndpoint {
    pub(super) fn new(sink: &str, options: HttpOptions) -> Result<Self, CdnError> {
        let place = options.request.places().next();
        let lists_keys = options.request.forms().any(Form::lists_keys);
        let in_body = options.request.body.iter().flat_map(Form::places).count();
        let bytes_max = match options.request.places().count() == in_body {
            true => BODY_BYTES_MAX,
            false => HEAD_BYTES_MAX,
        };
        let signature = match options.signature {
            None => None,
            Some(Signature { header, prefix, secret }) => {
                let mac = Hmac::new_from_slice(secret.expose_secret().as_bytes())
                    .map_err(|error| CdnError::new(sink, "signature.secret", error))?;
                Some((header_name(sink, &header)?, prefix, mac))
            }
        };
        Ok(HttpEndpoint {
            sink: sink.to_owned(),
            request: Prepared::new(sink, options.request)?,
            purge_all: options.purge_all.map(|form| Prepared::new(sink, form)).transpose()?,
            place,
            lists_keys,
            batch: options.batch.clamp(1, BATCH_MAX),
            bytes_max,
            accept: options.accept,
            wildcards: if options.wildcards { Wildcards::Any } else { Wildcards::Literal },
            signature,
            is_proven: AtomicBool::new(false),
        })
    }

    /// Whether it has ever accepted a request.
    pub(super) fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }

    /// The method, scheme, host and port.
    pub(super) fn target(&self) -> String {
        let url = self.request.url.render(&["/"]);
        match Url::parse(&url) {
            Ok(url) => url.origin().ascii_serialization(),
            Err(_) => String::new(),
        }
    }

    /// How many keys or paths go into one request, where it holds several.
    pub(super) fn request_items(&self) -> Option<usize> {
        self.place.filter(|place| place.is_list()).map(|_| self.batch)
    }

    /// A batch as requests, and what can never be one.
    pub(super) fn jobs(&self, batch: &Batch) -> (Vec<Job>, Vec<Rejected>) {
        if batch.iter().any(|action| action.verb == Verb::PurgeAll) {
            let items = (0..batch.len()).collect();
            return (vec![Job { kind: JobKind::All, items }], Vec::new());
        }
        let (mut jobs, mut refused): (Vec<Job>, Vec<Rejected>) = (Vec::new(), Vec::new());
        let is_list = self.place.is_some_and(Place::is_list);
        let (most, mut bytes) = (if is_list { self.batch } else { 1 }, 0);
        for (index, action) in batch.iter().enumerate() {
            let kind = match action.verb {
                Verb::PurgeKey => JobKind::Keys,
                _ => JobKind::Paths { host: 0 },
            };
            let length = match self.item(batch, index) {
                Ok(item) => item.len(),
                Err(reason) => {
                    refused.push(rejected(index, reason));
                    continue;
                }
            };
            bytes += length;
            match jobs.last_mut() {
                Some(job) if job.items.len() < most && bytes <= self.bytes_max => {
                    job.items.push(index);
                }
                _ => {
                    bytes = length;
                    jobs.push(Job { kind, items: vec![index] });
                }
            }
        }
        (jobs, refused)
    }

    /// An action's value as it enters a request.
    fn item(&self, batch: &Batch, index: usize) -> Result<String, String> {
        let action = batch.get(index);
        match (action.verb, self.place.map(Place::is_key)) {
            (Verb::PurgeKey, Some(true)) if self.lists_keys => {
                items::listed_key(action.value, KEY_BYTES_MAX).map(str::to_owned)
            }
            (Verb::PurgeKey, Some(true)) => {
                items::key(action.value, KEY_BYTES_MAX).map(str::to_owned)
            }
            (Verb::PurgePath, Some(false)) => items::path(action.value, self.wildcards),
            _ => Err("the request has no place for it".to_owned()),
        }
    }

    /// The request for a job.
    pub(super) fn request(
        &self,
        client: &Client,
        job: &Job,
        batch: &Batch,
    ) -> Result<Request, String> {
        let (prepared, items) = match job.kind {
            JobKind::All => match &self.purge_all {
                Some(prepared) => (prepared, Vec::new()),
                None => return Err("purge_all is not configured".to_owned()),
            },
            JobKind::Keys | JobKind::Paths { .. } => {
                let items = job.items.iter().map(|&index| self.item(batch, index));
                (&self.request, items.collect::<Result<Vec<_>, _>>()?)
            }
        };
        let url = literal_url(&prepared.url.render(&items))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &prepared.headers {
            let value = match value {
                PreparedHeader::Fixed(value) => value.clone(),
                // Values are checked before, so that no line can end here.
                PreparedHeader::Form(form) => HeaderValue::from_str(&form.render(&items))
                    .map_err(|_| format!("the header {name} cannot hold it"))?,
            };
            headers.append(name, value);
        }
        let mut request = client.request(prepared.method.clone(), url);
        if let Some(form) = &prepared.body {
            let body = form.render(&items);
            if let Some((name, prefix, mac)) = &self.signature {
                let digest = mac.clone().chain_update(body.as_bytes()).finalize().into_bytes();
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                let value = HeaderValue::from_str(&format!("{prefix}{hex}"));
                headers.insert(name, value.map_err(|error| error.to_string())?);
            }
            if !headers.contains_key("content-type") && body.starts_with(['{', '[']) {
                headers.insert("content-type", HeaderValue::from_static("application/json"));
            }
            request = request.body(body);
        }
        request.headers(headers).build().map_err(|error| error.without_url().to_string())
    }

    /// What an answer means.
    pub(super) fn judge(
        &self,
        job: &Job,
        reply: &Reply,
        pacer: &Pacer,
    ) -> Result<Verdict, Failure> {
        let status = reply.status;
        let is_accepted = match self.accept.is_empty() {
            true => (200..300).contains(&status),
            false => self.accept.contains(&status),
        };
        if is_accepted {
            self.is_proven.store(true, Ordering::Relaxed);
            return Ok(Verdict::Done);
        }
        let message = format!("{} answers {status}", self.target());
        let section = &self.sink;
        let refused = |hint: String| Err(Failure::Refused { message: message.clone(), hint });
        match status {
            408 | 429 | 500.. => {
                if let Some(seconds) = reply.number("retry-after").filter(|&seconds| seconds > 0) {
                    pacer.close(std::time::Duration::from_secs(seconds));
                }
                Err(Failure::Outage { message })
            }
            400 | 413 | 414 | 422 | 431 if job.kind != JobKind::All => {
                Ok(Verdict::Refused(job.items.clone(), format!("the endpoint answers {status}")))
            }
            300..400 => refused(format!(
                "redirects are not followed: write where it leads to in http.{section}.url"
            )),
            401 | 403 | 407 => refused(format!(
                "it does not let us purge: correct http.{section}.headers or token, or its own \
                 list of who may"
            )),
            _ => refused(format!(
                "correct http.{section}.url and method, or add {status} to accept if it means \
                 that nothing was cached"
            )),
        }
    }
}

impl Prepared {
    fn new(sink: &str, form: RequestForm) -> Result<Self, CdnError> {
        let method = Method::from_bytes(form.method.as_bytes())
            .map_err(|_| CdnError::new(sink, "method", "not a method"))?;
        let mut headers = Vec::new();
        for (name, value) in form.headers {
            let value = match value {
                HeaderText::Form(form) => PreparedHeader::Form(form),
                HeaderText::Secret(secret) => {
                    PreparedHeader::Fixed(header(sink, "headers", secret.expose_secret())?)
                }
            };
            headers.push((header_name(sink, &name)?, value));
        }
        Ok(Prepared { method, url: form.url, headers, body: form.body })
    }
}

/// A URL that leads where it says: a segment `..`, however it is encoded, would lead elsewhere.
fn literal_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let slashes = |text: &str| text.matches('/').count();
    match slashes(path).max(1) == slashes(url.path()) {
        true => Ok(url),
        false => Err("it would lead to another place".to_owned()),
    }
}

fn header_name(sink: &str, name: &str) -> Result<HeaderName, CdnError> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| CdnError::new(sink, "headers", format!("`{name}` is no header's name")))
}

#[cfg(test)]
mod tests {
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
            "a", "7", "/", "..", ".", "%2e", "%", "*", "?", "#", " ", ",", "\"", "\\", "'", "<",
            "&", "{", "}", "\r\n", "\n", "\t", "\0", "\u{e9}", "\u{2028}", ":", "//", "@", ";",
            "|",
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
}
