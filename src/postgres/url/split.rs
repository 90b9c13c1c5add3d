//! How does a connection string come apart into keys and values?
//!
//! Both of libpq's forms; a URL's authority and path become the keys `user`, `password`,
//! `host`, `port` and `dbname`. It follows libpq where libpq is lenient, and knows no key's
//! meaning.

use percent_encoding::percent_decode_str;

use super::UrlError;

type Pairs = Vec<(String, String)>;

/// The keys and values of either form, in order.
pub(super) fn pairs(text: &str) -> Result<Pairs, UrlError> {
    let text = text.trim();
    match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => url(rest),
        // In words it may be part of a value.
        None if text.split_once("://").is_some_and(|(scheme, _)| !scheme.contains('=')) => {
            Err(UrlError::Syntax("a URL starts with postgres:// or postgresql://"))
        }
        None => key_value(text),
    }
}

fn url(text: &str) -> Result<Pairs, UrlError> {
    let mut pairs = Pairs::new();
    let mut url_password = None;
    let (credentials, rest) = credentials(text);
    if let Some(credentials) = credentials {
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        pairs.push(("user".into(), decoded(user)?));
        url_password = password.map(decoded).transpose()?;
    }
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (hosts, dbname) = match rest.split_once('/') {
        Some((hosts, dbname)) => (hosts, dbname),
        None => (rest, ""),
    };
    if !hosts.is_empty() {
        let (names, ports) = authority(hosts)?;
        pairs.push(("host".into(), names));
        pairs.push(("port".into(), ports));
    }
    if !dbname.is_empty() {
        pairs.push(("dbname".into(), decoded(dbname)?));
    }
    for parameter in query.into_iter().flat_map(|query| query.split('&')) {
        if parameter.is_empty() {
            continue;
        }
        let Some((key, value)) = parameter.split_once('=') else {
            return Err(UrlError::Syntax("a parameter after ? has no = in it"));
        };
        pairs.push((decoded(key)?, decoded(value)?));
    }
    // Last, since an unknown key after a password is taken for a part of the password, which the
    // @ rules out here; and a parameter replaces it.
    if let Some(password) = url_password
        && !pairs.iter().any(|(key, _)| key == "password")
    {
        pairs.push(("password".into(), password));
    }
    Ok(pairs)
}

/// What comes before the @ that ends the credentials: as in libpq the first one, if no / comes
/// before it. A bare / in a password is understood too, where only a password can be meant.
fn credentials(text: &str) -> (Option<&str>, &str) {
    match (text.find('@'), text.find('?')) {
        (Some(at), query) if query.is_none_or(|query| at < query) => {
            (Some(&text[..at]), &text[at + 1..])
        }
        (Some(at), _) if text.find('/').is_none_or(|slash| at < slash) => {
            (Some(&text[..at]), &text[at + 1..])
        }
        _ => (None, text),
    }
}

fn authority(hosts: &str) -> Result<(String, String), UrlError> {
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = if let Some(rest) = host.strip_prefix('[') {
            let Some((name, rest)) = rest.split_once(']') else {
                return Err(UrlError::Syntax("an IPv6 address has no closing ]"));
            };
            match rest.strip_prefix(':') {
                Some(port) => (name, port),
                None if rest.is_empty() => (name, ""),
                None => return Err(UrlError::Syntax("something follows the ] of an address")),
            }
        } else {
            host.split_once(':').unwrap_or((host, ""))
        };
        names.push(decoded(name)?);
        ports.push(decoded(port)?);
    }
    // No port at all, so that `?port=` still counts for a host without one.
    let ports = if ports.iter().all(String::is_empty) { String::new() } else { ports.join(",") };
    Ok((names.join(","), ports))
}

fn decoded(text: &str) -> Result<String, UrlError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
        _ => Err(UrlError::Syntax("a %XX sequence is not UTF-8 text")),
    }
}

fn key_value(text: &str) -> Result<Pairs, UrlError> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((key, after)) = rest.split_once('=') else {
            return Err(UrlError::Syntax("a key has no = after it"));
        };
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(UrlError::Syntax("a key has no = after it"));
        }
        let (value, after) = value(after.trim_start())?;
        pairs.push((key.to_string(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// A value, quoted or up to white space, and what follows it. A backslash takes the next
/// character as it is.
fn value(text: &str) -> Result<(String, &str), UrlError> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &body[index + 1..])),
            space if !quoted && space.is_whitespace() => return Ok((value, &body[index..])),
            other => value.push(other),
        }
    }
    if quoted {
        return Err(UrlError::Syntax("a quoted value has no closing '"));
    }
    Ok((value, ""))
}
