//! Opens one connection to the broker according to the settings.
//!
//! Arrives: settings, or the access to an embedded server. Leaves: a client that reconnects by
//! itself, and its events. Owns: which failures last until somebody acts ([`LinkError::Lasting`]).
//! No state: a crash here loses nothing.

use super::own_server_tls;
use crate::embedded::Access;
use crate::settings::{Login, NatsSettings, Settings, without_credentials};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Why there is no usable connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The failure may pass by itself.
    #[error("{0}")]
    Passing(String),
    /// The failure lasts until somebody changes something.
    #[error("{0}")]
    Lasting(String),
    /// The settings are not those of the other nodes: the node has to end.
    #[error("{0}")]
    Split(String),
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The servers' URLs.
    pub urls: Vec<String>,
    /// The access to an embedded server; None for external servers.
    pub access: Option<Access>,
}

impl Target {
    /// The URLs without credentials.
    pub fn describe(&self) -> String {
        let plain: Vec<&str> =
            self.urls.iter().map(|url| url.rsplit('@').next().unwrap_or(url)).collect();
        plain.join(", ")
    }
}

/// Connects once. `events` receives later disconnects and reconnects.
///
/// # Errors
/// [`LinkError`], which tells whether a retry makes sense.
pub(super) async fn connect(
    settings: &Settings,
    target: &Target,
    events: UnboundedSender<Event>,
) -> Result<Client, LinkError> {
    let nats = &settings.nats;
    let wait = Duration::from_secs(nats.reconnect_wait_seconds.max(1));
    let mut options = ConnectOptions::new()
        .name("harmonylite")
        .connection_timeout(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(5)))
        .ping_interval(Duration::from_secs(10))
        // A restarted server is back soon: try at once, then with growing waits up to the
        // configured one.
        .reconnect_delay_callback(move |attempts| {
            Duration::from_millis(50 << attempts.min(8)).min(wait)
        })
        .event_callback(move |event| {
            let events = events.clone();
            async move {
                // The receiver is gone: this client is being dropped.
                let _ = events.send(event);
            }
        });
    if target.access.is_some() {
        // A clustered embedded server announces the others' addresses, but those accept only their
        // own nodes: trying them while ours restarts would take time and fail.
        options = options.ignore_discovered_servers();
    }
    options = authenticate(options, settings, target).await?;
    // The client would take no login from a URL, and show it.
    let urls: Vec<String> = target.urls.iter().map(|url| without_credentials(url)).collect();
    options.connect(&urls[..]).await.map_err(|error| {
        let text = format!("cannot connect to {}: {error}", target.describe());
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                LinkError::Lasting(format!(
                    "{text}: check nats.user_name, nats.user_password, \
                    nats.seed_file, nats.creds_file"
                ))
            }
            ConnectErrorKind::ServerParse => LinkError::Lasting(format!("{text}: check nats.urls")),
            _ if text.contains("InvalidContentType") => LinkError::Lasting(format!(
                "{text}: the server does not speak TLS on this port: write nats:// in nats.urls \
                without nats.ca_file and nats.cert_file, or give the server a certificate"
            )),
            // rustls reports certificate errors as I/O errors.
            kind if kind == ConnectErrorKind::Tls
                || text.contains("peer certificate")
                || text.contains("received fatal alert") =>
            {
                LinkError::Lasting(format!(
                    "{text}: check nats.ca_file, nats.cert_file, \
                    nats.key_file"
                ))
            }
            _ => LinkError::Passing(text),
        }
    })
}

async fn authenticate(
    options: ConnectOptions,
    settings: &Settings,
    target: &Target,
) -> Result<ConnectOptions, LinkError> {
    let nats = &settings.nats;
    let Some(access) = &target.access else {
        return Ok(certificates(log_in(options, nats).await?, nats));
    };
    let options = match access.user.clone().zip(access.password.clone()) {
        Some((user, password)) => options.user_and_password(user, password.reveal().to_owned()),
        None => log_in(options, nats).await?,
    };
    if !access.url.starts_with("tls://") || nats.ca_file.is_empty() {
        return Ok(options);
    }
    let config = own_server_tls::client_config(nats).map_err(LinkError::Lasting)?;
    Ok(options.tls_client_config(config).require_tls(true))
}

async fn log_in(
    mut options: ConnectOptions,
    nats: &NatsSettings,
) -> Result<ConnectOptions, LinkError> {
    options = match nats.login().map_err(LinkError::Lasting)? {
        Some(Login::User(name, password)) => {
            options.user_and_password(name, password.reveal().to_owned())
        }
        Some(Login::Token(token)) => options.token(token.reveal().to_owned()),
        None => options,
    };
    if !nats.seed_file.is_empty() {
        let seed = std::fs::read_to_string(&nats.seed_file).map_err(|error| {
            LinkError::Lasting(format!("cannot read nats.seed_file {}: {error}", nats.seed_file))
        })?;
        options = options.nkey(seed.trim().to_owned());
    }
    if !nats.creds_file.is_empty() {
        options = options.credentials_file(&nats.creds_file).await.map_err(|error| {
            LinkError::Lasting(format!("cannot read nats.creds_file {}: {error}", nats.creds_file))
        })?;
    }
    Ok(options)
}

fn certificates(mut options: ConnectOptions, nats: &NatsSettings) -> ConnectOptions {
    if !nats.ca_file.is_empty() {
        options = options.add_root_certificates(nats.ca_file.clone().into()).require_tls(true);
    }
    if !nats.cert_file.is_empty() {
        options = options
            .add_client_certificate(nats.cert_file.clone().into(), nats.key_file.clone().into())
            .require_tls(true);
    }
    options
}
