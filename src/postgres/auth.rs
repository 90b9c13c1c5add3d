//! How does a client prove who it is?
//!
//! The messages from the startup packet to AuthenticationOk: trust, a password in clear or as
//! MD5, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS. The password is sent to nobody who did not ask for
//! it, and with `channel_binding=require` to nobody whose certificate is not bound in.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use super::error::{PgError, PgErrorKind};
use super::fields::{Cursor, ServerError};
use super::url::{ChannelBinding, ConnectConfig};
use super::wire::Wire;

const OPERATION: &str = "authenticate";

/// What the server asks for, from "Message Formats" in Postgres' manual.
#[derive(Debug)]
enum Request {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    Sasl(Vec<String>),
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
    Other(i32),
}

/// Answers the server until it is satisfied.
pub(crate) async fn authenticate(wire: &mut Wire, config: &ConnectConfig) -> Result<(), PgError> {
    let required = config.channel_binding == ChannelBinding::Require;
    match request(wire).await? {
        Request::Sasl(mechanisms) => {
            scram(wire, config, &mechanisms).await?;
        }
        _ if required => return Err(refused("the server does not bind the TLS channel")),
        Request::Ok => return Ok(()),
        Request::Cleartext => {
            let password = password(config)?.to_string();
            send_password(wire, password.as_bytes()).await?;
        }
        Request::Md5(salt) => {
            let hash = md5_hash(config.user.as_bytes(), password(config)?.as_bytes(), salt);
            send_password(wire, hash.as_bytes()).await?;
        }
        other => return Err(unsupported(&other)),
    }
    match request(wire).await? {
        Request::Ok => Ok(()),
        other => Err(unsupported(&other)),
    }
}

async fn scram(
    wire: &mut Wire,
    config: &ConnectConfig,
    mechanisms: &[String],
) -> Result<(), PgError> {
    let offers = |name| mechanisms.iter().any(|mechanism| mechanism == name);
    let end_point = match config.channel_binding {
        ChannelBinding::Disable => None,
        _ => wire.stream.end_point().map(<[u8]>::to_vec),
    };
    let (mechanism, binding) = match end_point {
        Some(data) if offers(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(data))
        }
        _ if !offers(SCRAM_SHA_256) => {
            return Err(refused("the server offers no SASL mechanism that is supported"));
        }
        // We could have: the server finds out if somebody in between took its offer away.
        Some(_) => (SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        None => (SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
    };
    if mechanism == SCRAM_SHA_256 && config.channel_binding == ChannelBinding::Require {
        return Err(refused(
            "the server does not bind the TLS channel (no TLS, or a certificate without a hash)",
        ));
    }
    let failed = |error: std::io::Error| PgError::new(PgErrorKind::Auth, OPERATION).because(error);
    let mut scram = ScramSha256::new(password(config)?.as_bytes(), binding);
    frontend::sasl_initial_response(mechanism, scram.message(), &mut wire.out).map_err(failed)?;
    wire.send(OPERATION).await?;
    match request(wire).await? {
        Request::SaslContinue(data) => scram.update(&data).map_err(failed)?,
        other => return Err(unsupported(&other)),
    }
    frontend::sasl_response(scram.message(), &mut wire.out).map_err(failed)?;
    wire.send(OPERATION).await?;
    match request(wire).await? {
        // The server's own proof that it knows the password.
        Request::SaslFinal(data) => scram.finish(&data).map_err(failed),
        other => Err(unsupported(&other)),
    }
}

async fn send_password(wire: &mut Wire, password: &[u8]) -> Result<(), PgError> {
    frontend::password_message(password, &mut wire.out)
        .map_err(|error| PgError::new(PgErrorKind::Config, OPERATION).because(error))?;
    wire.send(OPERATION).await
}

async fn request(wire: &mut Wire) -> Result<Request, PgError> {
    loop {
        let frame = wire.receive(OPERATION).await?;
        match frame.tag {
            b'R' => {
                let malformed = || PgError::new(PgErrorKind::Protocol, OPERATION);
                return parse(frame.body).ok_or_else(malformed);
            }
            b'E' => return Err(PgError::server(OPERATION, ServerError::parse(frame.body))),
            // A notice, or that the server knows an older protocol: neither matters.
            b'N' | b'v' => {}
            _ => return Err(PgError::new(PgErrorKind::Protocol, OPERATION)),
        }
    }
}

fn parse(body: &[u8]) -> Option<Request> {
    let mut cursor = Cursor(body);
    Some(match cursor.i32()? {
        0 => Request::Ok,
        3 => Request::Cleartext,
        5 => Request::Md5(cursor.take(4)?.try_into().ok()?),
        10 => {
            let mut mechanisms = Vec::new();
            while let Some(name) = cursor.text().filter(|name| !name.is_empty()) {
                mechanisms.push(name.into_owned());
            }
            Request::Sasl(mechanisms)
        }
        11 => Request::SaslContinue(cursor.0.to_vec()),
        12 => Request::SaslFinal(cursor.0.to_vec()),
        other => Request::Other(other),
    })
}

fn password(config: &ConnectConfig) -> Result<&str, PgError> {
    config.password().ok_or_else(|| refused("the server asks for a password, the URL has none"))
}

fn refused(why: &str) -> PgError {
    PgError::new(PgErrorKind::Auth, format!("{OPERATION}: {why}"))
}

fn unsupported(request: &Request) -> PgError {
    match request {
        Request::Other(code) => refused(&format!(
            "the server asks for method {code} (Kerberos, GSSAPI, SSPI), which is not supported"
        )),
        _ => PgError::new(PgErrorKind::Protocol, OPERATION),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        assert!(matches!(parse(&[0, 0, 0, 0]), Some(Request::Ok)));
        assert!(matches!(parse(&[0, 0, 0, 5, 1, 2, 3, 4]), Some(Request::Md5([1, 2, 3, 4]))));
        assert!(parse(&[0, 0, 0, 5, 1]).is_none());
        let Some(Request::Sasl(names)) = parse(b"\0\0\0\x0aSCRAM-SHA-256\0X\0\0") else {
            panic!("not SASL");
        };
        assert_eq!(names, ["SCRAM-SHA-256", "X"]);
    }

    proptest::proptest! {
        #[test]
        fn any_request_is_read_without_a_panic(body: Vec<u8>) {
            parse(&body);
        }
    }
}
