//! A request whose fixed parts were checked, and what becomes of it with keys or paths in it.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Url};
use secrecy::ExposeSecret;
use sha2::Sha256;

use super::options::{HeaderText, RequestForm, Signature};
use crate::sinks::cdn::form::Form;
use crate::sinks::cdn::{CdnError, header};

/// A request whose fixed parts were checked.
#[derive(Debug)]
pub(super) struct Prepared {
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

impl Prepared {
    pub(super) fn new(sink: &str, form: RequestForm) -> Result<Self, CdnError> {
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

    /// The scheme, host and port.
    pub(super) fn origin(&self) -> String {
        match Url::parse(&self.url.render(&["/"])) {
            Ok(url) => url.origin().ascii_serialization(),
            Err(_) => String::new(),
        }
    }

    /// The request for these keys or paths, which were checked before.
    ///
    /// # Errors
    /// Where a request cannot hold them.
    pub(super) fn build(
        &self,
        client: &Client,
        items: &[String],
        signer: Option<&Signer>,
    ) -> Result<Request, String> {
        let url = literal_url(&self.url.render(items))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let value = match value {
                PreparedHeader::Fixed(value) => value.clone(),
                // Values are checked before, so that no line can end here.
                PreparedHeader::Form(form) => HeaderValue::from_str(&form.render(items))
                    .map_err(|_| format!("the header {name} cannot hold it"))?,
            };
            headers.append(name, value);
        }
        let mut request = client.request(self.method.clone(), url);
        if let Some(form) = &self.body {
            let body = form.render(items);
            if let Some(signer) = signer {
                headers.insert(&signer.header, signer.sign(&body)?);
            }
            if !headers.contains_key("content-type") && body.starts_with(['{', '[']) {
                headers.insert("content-type", HeaderValue::from_static("application/json"));
            }
            request = request.body(body);
        }
        request.headers(headers).build().map_err(|error| error.without_url().to_string())
    }
}

/// What signs bodies.
#[derive(Debug)]
pub(super) struct Signer {
    header: HeaderName,
    /// What stands before the signature.
    prefix: String,
    mac: Hmac<Sha256>,
}

impl Signer {
    pub(super) fn new(sink: &str, signature: Signature) -> Result<Self, CdnError> {
        let Signature { header, prefix, secret } = signature;
        let mac = Hmac::new_from_slice(secret.expose_secret().as_bytes())
            .map_err(|error| CdnError::new(sink, "signature.secret", error))?;
        Ok(Signer { header: header_name(sink, &header)?, prefix, mac })
    }

    /// The header's value for a body.
    fn sign(&self, body: &str) -> Result<HeaderValue, String> {
        let digest = self.mac.clone().chain_update(body.as_bytes()).finalize().into_bytes();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let prefix = &self.prefix;
        HeaderValue::from_str(&format!("{prefix}{hex}")).map_err(|error| error.to_string())
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
