//! `[http.NAME]`.

use super::{bearer, check_header_value, required, whole_number};
use crate::config::entry::Entry;
use crate::config::secret::{Secret, SecretError};
use crate::config::table::Table;
use crate::problem::{Problem, Span, Text};
use crate::rules::{PathPurges, Purges};
use crate::sinks::cdn::form::{Form, Part, Place};
use crate::sinks::cdn::{BATCH, BATCH_MAX, HeaderText, HttpOptions, RequestForm, Signature};

/// Keys that are no names of sinks.
pub(super) const KEYS: &[&str] = &["url", "method", "body", "batch", "accept", "after", "token"];

const URL_EXAMPLE: &str = "url = \"http://127.0.0.1:6081/\"";
const PLACES_HELP: &str = "write {keys} or {path} where it belongs: headers = { \"xkey-purge\" = \
                           \"{keys}\" }, or url = \"http://127.0.0.1:6081{path}\"";
const SIGNATURE_EXAMPLE: &str = "signature = { header = \"x-signature-256\", prefix = \"sha256=\", secret = { env = \"HOOK\" } }";

/// An endpoint.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// What purges keys or paths.
    pub request: RequestConfig,
    /// `purge_all`: what purges everything.
    pub purge_all: Option<RequestConfig>,
    /// `batch`: how many keys or paths go into one request.
    pub batch: usize,
    /// `accept`: the statuses that say that it is done; none: 200 to 299.
    pub accept: Vec<u16>,
    /// `wildcards`: whether a `*` at a path's end is understood.
    pub wildcards: bool,
    /// `token`, sent as `Authorization: Bearer`.
    pub token: Option<Secret>,
    /// `signature`.
    pub signature: Option<SignatureConfig>,
}

/// A request with places for what is purged.
#[derive(Clone, Debug)]
pub struct RequestConfig {
    /// `method`.
    pub method: String,
    /// `url`.
    pub url: Form,
    /// `headers`.
    pub headers: Vec<(String, HeaderSource)>,
    /// `body`.
    pub body: Option<Form>,
}

/// The value of a header.
#[derive(Clone, Debug)]
pub enum HeaderSource {
    /// A string with places.
    Form(Form),
    /// It is kept elsewhere, and sent as it is.
    Secret(Secret),
}

/// `signature`: HMAC-SHA256 of the body.
#[derive(Clone, Debug)]
pub struct SignatureConfig {
    /// `header`.
    pub header: String,
    /// `prefix`.
    pub prefix: String,
    /// `secret`.
    pub secret: Secret,
}

impl RequestConfig {
    fn places(&self) -> Vec<Place> {
        self.forms().flat_map(Form::places).collect()
    }

    fn forms(&self) -> impl Iterator<Item = &Form> {
        let headers = self.headers.iter().filter_map(|(_, value)| match value {
            HeaderSource::Form(form) => Some(form),
            HeaderSource::Secret(_) => None,
        });
        std::iter::once(&self.url).chain(headers).chain(&self.body)
    }

    fn options(&self, token: Option<&Secret>) -> Result<RequestForm, SecretError> {
        let header = |(name, value): &(String, HeaderSource)| {
            let value = match value {
                HeaderSource::Form(form) => HeaderText::Form(form.clone()),
                HeaderSource::Secret(secret) => HeaderText::Secret(secret.resolve()?),
            };
            Ok((name.clone(), value))
        };
        let mut headers: Vec<_> = self.headers.iter().map(header).collect::<Result<_, _>>()?;
        if let Some(token) = token {
            headers.push(("authorization".to_owned(), HeaderText::Secret(bearer(token)?)));
        }
        let (method, url, body) = (self.method.clone(), self.url.clone(), self.body.clone());
        Ok(RequestForm { method, url, headers, body })
    }
}

impl HttpConfig {
    pub(super) fn purges(&self) -> Purges {
        let places = self.request.places();
        let paths = match places.iter().any(|place| !place.is_key()) {
            false => PathPurges::None,
            true if self.wildcards => PathPurges::Wildcards,
            true => PathPurges::Exact,
        };
        let keys = places.iter().any(|place| place.is_key());
        Purges { keys, paths, all: self.purge_all.is_some() }
    }

    pub(super) fn options(&self) -> Result<HttpOptions, SecretError> {
        let token = self.token.as_ref();
        let signature = self.signature.as_ref().map(|signature| {
            let (header, prefix) = (signature.header.clone(), signature.prefix.clone());
            Ok(Signature { header, prefix, secret: signature.secret.resolve()? })
        });
        Ok(HttpOptions {
            request: self.request.options(token)?,
            purge_all: self.purge_all.as_ref().map(|all| all.options(token)).transpose()?,
            batch: self.batch,
            accept: self.accept.clone(),
            wildcards: self.wildcards,
            signature: signature.transpose()?,
        })
    }
}

pub(super) fn read(name: &str, table: &mut Table<'_>) -> HttpConfig {
    let path = format!("http.{name}");
    let span = table.span.clone();
    let url = required(table, &path, "url", URL_EXAMPLE);
    let url = url.and_then(|text| read_url(table, &format!("{path}.url"), &text));
    let has_url = url.is_some();
    let request = read_request(table, url.unwrap_or_else(|| Form::plain("")), "POST".to_owned());
    let token = table
        .entry("token")
        .and_then(|entry| entry.secret().inspect(|secret| check_header_value(&entry, secret)));
    let is_list = check_places(table, &path, &span, &request, has_url);
    let batch = table.entry("batch").and_then(|entry| {
        if !is_list {
            let message = format!("`{}` means nothing here", entry.path);
            let help = "each request purges one: write {keys} or {paths|json} for several";
            entry.problem_with_help(message, "one item a request", help);
        }
        whole_number(&entry, 1, BATCH_MAX as u32)
    });
    let accept = table.entry("accept").map(|entry| read_accept(&entry)).unwrap_or_default();
    let wildcards = table.entry("wildcards").and_then(|entry| entry.boolean());
    let signature = table.entry("signature").and_then(|entry| read_signature(&entry));
    if signature.is_some() && request.body.is_none() {
        table.missing(format!("`{path}.signature` signs a body"), "body = '{keys|json}'");
    }
    let purge_all = table.entry("purge_all").and_then(|entry| read_purge_all(&entry, &request));
    let wildcards = wildcards.unwrap_or_else(|| request.forms().any(Form::has_wildcards));
    HttpConfig {
        request,
        purge_all,
        batch: batch.map_or(BATCH, |batch| batch as usize),
        accept,
        wildcards,
        token,
        signature,
    }
}

/// `method`, `headers` and `body`, with what stands in for those that are not given.
fn read_request(table: &mut Table<'_>, url: Form, method: String) -> RequestConfig {
    let method = table.entry("method").and_then(|entry| read_method(&entry)).unwrap_or(method);
    let headers = table.entry("headers").map(|entry| read_headers(&entry)).unwrap_or_default();
    let body = table.entry("body").and_then(|entry| {
        let text = entry.text()?;
        form(&entry, &text, Part::Body)
    });
    RequestConfig { method, url, headers, body }
}

fn form(entry: &Entry<'_>, text: &Text, part: Part) -> Option<Form> {
    match Form::parse(&text.value, part) {
        Ok(form) => Some(form),
        Err(error) => {
            let problem = Problem::new(text.span.clone(), error.message, error.label);
            entry.reader.report(problem.within(error.at).help(error.help));
            None
        }
    }
}

fn read_url(table: &Table<'_>, path: &str, text: &Text) -> Option<Form> {
    let report = |message: String, label: &str, help: &str| {
        table.reader.report(Problem::new(text.span.clone(), message, label).help(help));
        None
    };
    let form = match Form::parse(&text.value, Part::Url) {
        Ok(form) => form,
        Err(error) => {
            let problem = Problem::new(text.span.clone(), error.message, error.label);
            table.reader.report(problem.within(error.at).help(error.help));
            return None;
        }
    };
    const HELP: &str = "write http://HOST:PORT/PATH or https://…";
    let rendered = reqwest::Url::parse(&form.render(&["/x"]));
    if !rendered.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        return report(format!("`{path}` is not a URL"), "not a URL", HELP);
    }
    let authority = form.beginning().split_once("://").map_or("", |(_, rest)| rest);
    let is_path = form.places().next() == Some(Place::Path);
    if authority.is_empty()
        || form.places().next().is_some() && !authority.contains('/') && !is_path
    {
        return report(format!("`{path}` must name its host"), "the host would vary", HELP);
    }
    Some(form)
}

fn read_method(entry: &Entry<'_>) -> Option<String> {
    let method = entry.text()?.value;
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        let message = format!("`{}` cannot be `{method}`", entry.path);
        entry.problem_with_help(message, "not a method", "write PURGE, BAN, POST, …");
        return None;
    }
    Some(method)
}

fn read_headers(entry: &Entry<'_>) -> Vec<(String, HeaderSource)> {
    if !entry.value.get_ref().is_table() {
        entry.wrong_type("a table of headers", "write { \"xkey-purge\" = \"{keys}\" }");
        return Vec::new();
    }
    let Some(table) = entry.table() else { return Vec::new() };
    let header = |(name, entry): (&str, Entry<'_>)| {
        if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let message = format!("`{name}` is not a header's name");
            let problem = Problem::new(entry.key.clone(), message, "not a name");
            entry.reader.report(problem.help("letters, digits and `-`"));
            return None;
        }
        if entry.value.get_ref().is_table() {
            return Some((name.to_owned(), HeaderSource::Secret(entry.secret()?)));
        }
        let text = entry.text()?;
        if !text.value.chars().all(|character| matches!(character, ' '..='~')) {
            let message = format!("`{}` cannot be sent in a header", entry.path);
            entry.problem_with_help(message, "not plain ASCII", "write printable ASCII");
            return None;
        }
        let form = form(&entry, &text, Part::Header)?;
        Some((name.to_ascii_lowercase(), HeaderSource::Form(form)))
    };
    table.entries().into_iter().filter_map(header).collect()
}

/// Whether a request holds several items. Reports one that holds none, or of two kinds.
fn check_places(
    table: &Table<'_>,
    path: &str,
    span: &Span,
    request: &RequestConfig,
    has_url: bool,
) -> bool {
    let places = request.places();
    let report = |message: String, label: &str| {
        let problem = Problem::new(span.clone(), message, label);
        table.reader.report(problem.help(PLACES_HELP));
    };
    match places.first() {
        None if has_url => {
            report(format!("`{path}` says nothing of what is purged"), "no place for it");
        }
        Some(first) if places.iter().any(|place| place != first) => {
            let message = format!("`{path}` has places of more than one kind");
            report(message, "use a section for each");
        }
        _ => {}
    }
    places.first().is_none_or(|place| place.is_list())
}

fn read_accept(entry: &Entry<'_>) -> Vec<u16> {
    let Some(items) = entry.items() else {
        entry.wrong_type("a list of statuses", "write accept = [200, 404]");
        return Vec::new();
    };
    if items.is_empty() {
        let message = format!("`{}` is empty", entry.path);
        entry.problem_with_help(message, "empty", "leave it out for every status from 200 to 299");
    }
    items
        .iter()
        .filter_map(|item| whole_number(item, 200, 599))
        .map(|status| status as u16)
        .collect()
}

fn read_signature(entry: &Entry<'_>) -> Option<SignatureConfig> {
    if !entry.value.get_ref().is_table() {
        entry.wrong_type("a table", SIGNATURE_EXAMPLE);
        return None;
    }
    let mut table = entry.table()?;
    let header = required(&mut table, &entry.path, "header", SIGNATURE_EXAMPLE);
    let prefix = table.entry("prefix").and_then(|entry| entry.text());
    let secret = match table.entry("secret") {
        Some(entry) => entry.secret(),
        None => {
            table.missing(format!("`{}.secret` is missing", entry.path), SIGNATURE_EXAMPLE);
            None
        }
    };
    if let Some(header) = &header
        && reqwest::header::HeaderName::from_bytes(header.value.as_bytes()).is_err()
    {
        let message = format!("`{}` is not a header's name", header.value);
        table.reader.report(Problem::new(header.span.clone(), message, "not a name"));
    }
    table.finish();
    Some(SignatureConfig {
        header: header?.value,
        prefix: prefix.map(|prefix| prefix.value).unwrap_or_default(),
        secret: secret?,
    })
}

/// What purges everything: the request for single items, with what is given in its place.
fn read_purge_all(entry: &Entry<'_>, request: &RequestConfig) -> Option<RequestConfig> {
    if !entry.value.get_ref().is_table() {
        entry.wrong_type("a table", "write purge_all = { headers = { \"xkey-purge\" = \"all\" } }");
        return None;
    }
    let mut table = entry.table()?;
    let url = table.entry("url").and_then(|entry| {
        let text = entry.text()?;
        read_url(&table, &entry.path, &text)
    });
    let url = url.unwrap_or_else(|| request.url.clone());
    let mut all = read_request(&mut table, url, request.method.clone());
    table.finish();
    for (name, value) in &request.headers {
        if !all.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)) {
            all.headers.push((name.clone(), value.clone()));
        }
    }
    all.body = all.body.or_else(|| request.body.clone());
    if !all.places().is_empty() {
        let message = format!("`{}` still has a place for single items", entry.path);
        let help = "give it everything that has a place in the section: url, headers, body";
        entry.problem_with_help(message, "nothing is put there", help);
        return None;
    }
    Some(all)
}
