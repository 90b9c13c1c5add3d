//! Which hash of the server's certificate binds a password exchange to a TLS channel?
//!
//! RFC 5929, section 4.1: the hash function of the certificate's signature, with SHA-256 in place
//! of MD5 and SHA-1. Pure.

use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;

/// A hash function that a signature names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// RFC 8017 (RSA), RFC 5758 (ECDSA).
const SIGNATURES: [(ObjectIdentifier, Hash); 9] = [
    (oid("1.2.840.113549.1.1.4"), Hash::Sha256), // md5WithRSAEncryption
    (oid("1.2.840.113549.1.1.5"), Hash::Sha256), // sha1WithRSAEncryption
    (oid("1.2.840.10045.4.1"), Hash::Sha256),    // ecdsa-with-SHA1
    (oid("1.2.840.113549.1.1.11"), Hash::Sha256), // sha256WithRSAEncryption
    (oid("1.2.840.113549.1.1.12"), Hash::Sha384),
    (oid("1.2.840.113549.1.1.13"), Hash::Sha512),
    (oid("1.2.840.10045.4.3.2"), Hash::Sha256), // ecdsa-with-SHA256
    (oid("1.2.840.10045.4.3.3"), Hash::Sha384),
    (oid("1.2.840.10045.4.3.4"), Hash::Sha512),
];

/// The `tls-server-end-point` data of a certificate. `None` if its signature names no hash that
/// we know (Ed25519 has none, RSA-PSS hides it in parameters): then a password is exchanged
/// without channel binding.
pub(crate) fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = Certificate::from_der(certificate).ok()?.signature_algorithm().oid;
    let (_, hash) = SIGNATURES.iter().find(|(known, _)| *known == algorithm)?;
    Some(match hash {
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    /// Self-signed, which recent servers refuse to load.
    const ECDSA_WITH_SHA1: &str = "MIIBajCCARKgAwIBAgIUDNJawATdNWy0BaWfKC5xZzBHsdEwCQYHKoZIzj0EATAMMQowCAYDVQQDDAFhMB4XDTI2\
        MTEyMTAzNTUzOFoXDTM2MTExODAzNTUzOFowDDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA\
        BBfLVg7GRoPRF3TJhv+ezNlfot0ZgBrgD5EmefHpQReONO0EIMKrVwMyW1ekes+4rUxnk1RA5nMgJopvNyJVxiej\
        UzBRMB0GA1UdDgQWBBQhgVN/Jq2lY2JesbDCZS+d94G8YzAfBgNVHSMEGDAWgBQhgVN/Jq2lY2JesbDCZS+d94G8\
        YzAPBgNVHRMBAf8EBTADAQH/MAkGByqGSM49BAEDRwAwRAIgSLQZFq82omfLbsUMV9xKVfM5ZisylBbbR4+tfcvI\
        EcwCIBEwb4iP/cbfpEWymaWmIlEzf9k1lV29kdZqmz6DuNhT";
    /// Self-signed.
    const ED25519: &str = "MIIBLDCB36ADAgECAhQJd776woXV5uk4ktpj2ekyAqubHzAFBgMrZXAwDDEKMAgGA1UEAwwBYTAeFw0yNjExMjEw\
        MzU1MzhaFw0zNjExMTgwMzU1MzhaMAwxCjAIBgNVBAMMAWEwKjAFBgMrZXADIQBwqNjALFLsK6zs7ufipFE0HtUT\
        1+MkHFVtyo6VnYnkvaNTMFEwHQYDVR0OBBYEFE/tRbxV5MjtQOPRG12shvM95bpOMB8GA1UdIwQYMBaAFE/tRbxV\
        5MjtQOPRG12shvM95bpOMA8GA1UdEwEB/wQFMAMBAf8wBQYDK2VwA0EAPpOB7EdritBAQXFh+jymsECARAR7xzOM\
        107NbhybFWmS6Sv/CRXKlB4ac62cDU50e+EPtuWW5tEwqW4VbtRPCA==";

    #[test]
    fn sha1_counts_as_sha256_and_ed25519_binds_nothing() {
        let certificate = STANDARD.decode(ECDSA_WITH_SHA1).unwrap();
        let expected = Sha256::digest(&certificate).to_vec();
        assert_eq!(tls_server_end_point(&certificate), Some(expected));
        assert_eq!(tls_server_end_point(&STANDARD.decode(ED25519).unwrap()), None);
    }

    #[test]
    fn bytes_that_are_no_certificate_bind_nothing() {
        for bytes in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0xFF; 64]] {
            assert_eq!(tls_server_end_point(bytes), None);
        }
    }
}
