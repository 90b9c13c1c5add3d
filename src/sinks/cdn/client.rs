//! One HTTP exchange with a CDN: a request goes out, a status, headers and a short body come back.
//!
//! It follows no redirect, since a token must not travel to where somebody points, and it tries
//! once. No error of it holds the URL, which may hold values of rows.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, Request};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

use crate::failpoint::Place;
use crate::sinks::CONNECT_TIMEOUT;

/// How long one request may take, its answer included. Purges are answered within a second; a
/// server that hangs is given up for this attempt.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of an answer is read, in bytes: Fastly's to 256 keys of the greatest length is a third
/// of it.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// A header's value as a number.
    pub(super) fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.trim().parse().ok()
    }
}

/// Why requests cannot be made at all.
#[derive(Debug, thiserror::Error)]
#[error("HTTP cannot be set up: {0}")]
pub struct ClientError(String);

/// A client with the system's roots. Reads them from disk.
pub(super) fn client() -> Result<Client, ClientError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .user_agent(concat!("walpurge/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| ClientError(said(&error.without_url())))
}

/// Sends a request and reads the answer.
///
/// # Errors
/// What happened, where.
pub(super) async fn exchange(client: &Client, request: Request) -> Result<Reply, String> {
    let place = place(&request);
    let at = |error: reqwest::Error| format!("{place}: {}", said(&error.without_url()));
    let mut response = client.execute(request).await.map_err(at)?;
    Place::Sent.pass();
    let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(at)? {
        if body.len() + chunk.len() > REPLY_BYTES_MAX {
            return Err(format!("{place}: an answer of more than {REPLY_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, headers, body })
}

/// The method and where it goes, without what may be a value.
pub(super) fn place(request: &Request) -> String {
    let (method, url) = (request.method(), request.url());
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{method} {}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// An error with its causes, of which the first alone says little.
fn said(error: &reqwest::Error) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said.push_str(&format!(": {error}"));
        cause = error.source();
    }
    said
}
