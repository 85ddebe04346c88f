//! Addresses to listen on, in the forms that Go programs accept.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};

/// Parses an address to listen on: `:3010` (all interfaces), `0.0.0.0:8090`, `localhost:3010`,
/// `[::1]:3010`.
///
/// # Errors
/// The defect of the text, for people.
pub fn bind_address(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = split(text)?;
    let port =
        u16::try_from(port).map_err(|_| format!("is {text:?}: the port must be 0 to 65535"))?;
    if host.is_empty() {
        return Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    }
    (host, port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| format!("is {text:?}: {host:?} is not an address or name of this machine"))
}

/// Parses the address of a nats-server: a host (None: not given) and a port (None: any free one,
/// written -1).
///
/// # Errors
/// The defect of the text, for people.
pub fn server_bind(text: &str) -> Result<(Option<String>, Option<u16>), String> {
    let (host, port) = split(text)?;
    let host = (!host.is_empty()).then(|| host.to_owned());
    match port {
        -1 => Ok((host, None)),
        _ => u16::try_from(port)
            .map(|port| (host, Some(port)))
            .map_err(|_| format!("is {text:?}: the port must be -1 to 65535")),
    }
}

/// Returns a server's URL without user, password and query, for logs and messages.
pub fn without_credentials(url: &str) -> String {
    let (scheme, rest) =
        url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    // Cut at the last @: a password may contain others, and nothing before any of them may be
    // shown.
    let host = rest.rfind('@').map_or(rest, |at| &rest[at + 1..]);
    let host = host.split(['?', '#']).next().unwrap_or(host);
    scheme.map_or_else(|| host.to_owned(), |scheme| format!("{scheme}://{host}"))
}

/// Serializes a list of URLs without their credentials.
pub(super) fn masked<S: serde::Serializer>(
    urls: &[String],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(urls.iter().map(|url| without_credentials(url)))
}

fn split(text: &str) -> Result<(&str, i32), String> {
    let parts =
        text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<i32>().ok()?)));
    let (host, port) = parts.ok_or_else(|| format!("is {text:?}: write host:port or :port"))?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return Err(format!("is {text:?}: write an IPv6 address in [ ]"));
    }
    Ok((bare.unwrap_or(host), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_credentials() {
        for (url, shown) in [
            ("nats://user:p@ss/w?rd@host:4222", "nats://host:4222"),
            ("host:4222", "host:4222"),
            ("token@host", "host"),
            ("https://host/path?secret=x", "https://host/path"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }

    #[test]
    fn go_forms_are_understood() {
        assert_eq!(bind_address(":3010").unwrap().to_string(), "0.0.0.0:3010");
        assert_eq!(bind_address("0.0.0.0:8090").unwrap().to_string(), "0.0.0.0:8090");
        assert_eq!(bind_address("[::1]:1").unwrap().to_string(), "[::1]:1");
        assert_eq!(bind_address("localhost:5").unwrap().port(), 5);
        for bad in ["", "3010", "::1:5", ":-1", ":65536", "host:", "no such host:1"] {
            assert!(bind_address(bad).is_err(), "{bad}");
        }
        assert_eq!(server_bind(":-1").unwrap(), (None, None));
        assert_eq!(server_bind("0.0.0.0:4222").unwrap(), (Some("0.0.0.0".to_owned()), Some(4222)));
        assert!(server_bind(":-2").is_err());
    }
}
