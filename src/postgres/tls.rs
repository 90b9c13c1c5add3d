//! Which servers does TLS believe, and who are we to them?
//!
//! In: `sslmode`, roots, a client certificate. Out: a rustls configuration, always with the
//! aws-lc-rs provider given explicitly, since a process-wide default may be another or none.
//! What each mode checks follows "Protection Provided in Different Modes" of libpq's manual; the
//! roots of verify-full are the system's plus `sslrootcert`, and a certificate that is itself in
//! `sslrootcert` is trusted, as OpenSSL does for self-signed ones.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::channel_binding;
use super::error::{PgError, PgErrorKind};
use super::socket::{Socket, Stream};
use super::url::{ConnectConfig, RootCert, SslMode};

/// Postgres 17 and later insist on this protocol name where TLS is not asked for first.
const ALPN: &[u8] = b"postgresql";

/// What is checked of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// Builds the configuration for a connection string; it reads files, and may take milliseconds.
pub(crate) fn client_config(config: &ConnectConfig) -> Result<Arc<ClientConfig>, PgError> {
    let check = match (config.sslmode, &config.sslrootcert) {
        (SslMode::VerifyFull, _) => Check::ChainAndName,
        (SslMode::VerifyCa, _) | (_, RootCert::File(_)) => Check::Chain,
        _ => Check::Nothing,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Verifier::new(config, check, Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PgError::new(PgErrorKind::Config, "set up TLS").because(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut tls = match &config.client_cert {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert, "sslcert")?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unusable("sslkey", key).because(error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| unusable("sslcert", cert).because(error))?
        }
    };
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(tls))
}

/// Shakes hands on a socket whose server has agreed to TLS.
pub(crate) async fn handshake(
    tls: Arc<ClientConfig>,
    host: &str,
    socket: Socket,
) -> Result<Stream, PgError> {
    let operation = "shake hands for TLS";
    // A name that is no DNS name (an underscore in a container's) is an error only where names
    // matter, which the verifier finds out; SNI is not sent for an address.
    let name = ServerName::try_from(host.to_string())
        .map_err(|error| PgError::new(PgErrorKind::Tls, operation).because(error))?;
    let stream = tokio_rustls::TlsConnector::from(tls)
        .connect(name, socket)
        .await
        .map_err(|error| PgError::io(operation, error))?;
    let end_point = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| channel_binding::tls_server_end_point(chain.first()?));
    Ok(Stream::Tls { stream: Box::new(stream), end_point })
}

fn unusable(key: &str, path: &Path) -> PgError {
    PgError::new(PgErrorKind::Config, format!("use {key} {}", path.display()))
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, PgError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect())
        .map_err(|error| unusable(key, path).because(error))?;
    if found.is_empty() {
        return Err(PgError::new(
            PgErrorKind::Config,
            format!("find a certificate in {key} {}", path.display()),
        ));
    }
    Ok(found)
}

/// Checks as much as the mode asks for, and always that the server holds its certificate's key.
#[derive(Debug)]
struct Verifier {
    check: Check,
    roots: RootCertStore,
    /// The certificates of `sslrootcert`, trusted also as a server's own.
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(
        config: &ConnectConfig,
        check: Check,
        provider: Arc<CryptoProvider>,
    ) -> Result<Verifier, PgError> {
        let mut roots = RootCertStore::empty();
        let mut pinned = Vec::new();
        if check == Check::ChainAndName {
            // Single certificates of the system's may be odd; what cannot be read is not trusted.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if let RootCert::File(path) = &config.sslrootcert {
            pinned = certificates(path, "sslrootcert")?;
            roots.add_parsable_certificates(pinned.iter().cloned());
        }
        if check != Check::Nothing && roots.is_empty() {
            return Err(PgError::new(
                PgErrorKind::Config,
                "find a root certificate: the system has none, and sslrootcert names none",
            ));
        }
        Ok(Verifier { check, roots, pinned, provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !self.pinned.iter().any(|pinned| pinned == end_entity) {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        if self.check == Check::ChainAndName {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
