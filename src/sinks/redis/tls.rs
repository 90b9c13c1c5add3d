//! How is a connection to `rediss://` secured? rustls with the aws-lc-rs provider, named
//! explicitly, so that nothing depends on a process-wide default.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::config::RedisTls;

/// Why TLS cannot be set up. All of it needs a person.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// A configured file.
    #[error("{path}: {problem}")]
    File { path: String, problem: String },
    /// No root at all.
    #[error("the system has no root certificates, and tls_root is not set")]
    NoRoots,
    /// What rustls makes of them.
    #[error("the certificates cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Reads the roots and our certificate. It blocks: files are read anew for each connection, so
/// that a renewed certificate needs no restart.
pub(super) fn client_config(tls: &RedisTls) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    // Some broken certificates in a system's store are common and no reason to stop.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &tls.root {
        for root in certificates(path)? {
            roots.add(root).map_err(|error| unusable(path, error))?;
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error))?;
            Ok(builder.with_client_auth_cert(chain, key)?)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = match CertificateDer::pem_file_iter(path) {
        Ok(iter) => iter.collect(),
        Err(error) => Err(error),
    };
    match all {
        Ok(all) if all.is_empty() => Err(unusable(path, "holds no certificate in PEM form")),
        Ok(all) => Ok(all),
        Err(error) => Err(unusable(path, error)),
    }
}

fn unusable(path: &Path, problem: impl std::fmt::Display) -> TlsError {
    TlsError::File { path: path.display().to_string(), problem: problem.to_string() }
}
