//! An endpoint, as it was configured.

use secrecy::SecretString;

use crate::sinks::cdn::form::{Form, Place};

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
