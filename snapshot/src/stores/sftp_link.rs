//! A connection to an SSH server, on to its SFTP subsystem.
//!
//! Owns: nothing is sent to a server whose key is not in the known_hosts file, the password least
//! of all. A crash leaves nothing.

use super::broken;
use super::sftp::SftpOptions;
use crate::store::{StoreError, StoreErrorKind};
use russh::client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::known_hosts::{check_known_hosts_path, known_host_keys_path};
use russh::keys::{
    Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate, load_secret_key,
};
use russh_sftp::client::RawSftpSession;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(15);
/// After this time without a word the server is asked whether it is there; thrice.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Rounds of questions for a password.
const ROUNDS_MAX: usize = 5;

/// An open SFTP session.
pub(super) struct Link {
    pub(super) sftp: RawSftpSession,
    pub(super) renames_over: bool,
    pub(super) syncs: bool,
    pub(super) tells_free_space: bool,
    _ssh: Handle<Guard>,
}

/// Checks the server's key.
struct Guard {
    options: Arc<SftpOptions>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("{0}")]
    Key(String),
}

impl client::Handler for Guard {
    type Error = Refused;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Refused> {
        let key = key.public_key();
        let SftpOptions { host, port, known_hosts_file, .. } = &*self.options;
        let shown = format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256));
        let file = known_hosts_file.display();
        match check_known_hosts_path(host, *port, &key, known_hosts_file) {
            Ok(true) => Ok(true),
            Ok(false) => Err(Refused::Key(format!(
                "the server's key ({shown}) is not known; compare it with the server's own, then: \
                ssh-keyscan -p {port} {host} >> {file} (or set snapshot.sftp.known_hosts_file)"
            ))),
            Err(russh::keys::Error::KeyChanged { .. }) => Err(Refused::Key(format!(
                "the server's key ({shown}) is not the one in {file}: somebody may listen in \
                between, or the server was installed anew; correct that file only if you know why"
            ))),
            Err(error) => Err(Refused::Key(format!("{file} cannot be used: {error}"))),
        }
    }
}

impl Link {
    pub(super) async fn open(options: &Arc<SftpOptions>) -> Result<Self, StoreError> {
        let mut ssh = connect(options).await?;
        authenticate(&mut ssh, options).await?;
        let channel = ssh.channel_open_session().await.map_err(|error| broken(&error))?;
        channel.request_subsystem(true, "sftp").await.map_err(|error| broken(&error))?;
        let sftp = RawSftpSession::new(channel.into_stream());
        let version = sftp.init().await.map_err(|error| broken(&error))?;
        let has = |name: &str, version_of: &str| {
            version.extensions.get(name).is_some_and(|found| found == version_of)
        };
        Ok(Self {
            renames_over: has("posix-rename@openssh.com", "1"),
            syncs: has("fsync@openssh.com", "1"),
            tells_free_space: has("statvfs@openssh.com", "2"),
            sftp,
            _ssh: ssh,
        })
    }
}

async fn connect(options: &Arc<SftpOptions>) -> Result<Handle<Guard>, StoreError> {
    let SftpOptions { host, port, known_hosts_file, .. } = &**options;
    let mut config = client::Config {
        nodelay: true,
        keepalive_interval: Some(KEEPALIVE),
        ..client::Config::default()
    };
    // A server may have several keys, and we may know only one of them.
    let known = known_host_keys_path(host, *port, known_hosts_file).unwrap_or_default();
    let mut algorithms = config.preferred.key.to_vec();
    let is_known = |wanted: &Algorithm| known.iter().any(|(_, key)| is_kind(wanted, key));
    algorithms.sort_by_key(|wanted| !is_known(wanted));
    config.preferred.key = Cow::Owned(algorithms);
    let guard = Guard { options: Arc::clone(options) };
    let connected = client::connect(Arc::new(config), (host.as_str(), *port), guard);
    match tokio::time::timeout(CONNECT, connected).await {
        Ok(Ok(ssh)) => Ok(ssh),
        Ok(Err(Refused::Key(reason))) => Err(StoreError::new(StoreErrorKind::Denied, reason)),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => {
            let reason = format!("no SSH connection within {CONNECT:?}");
            Err(StoreError::new(StoreErrorKind::Passing, reason))
        }
    }
}

/// Returns whether an algorithm needs a key of this kind.
fn is_kind(wanted: &Algorithm, key: &PublicKey) -> bool {
    match (wanted, key.algorithm()) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (wanted, found) => *wanted == found,
    }
}

async fn authenticate(ssh: &mut Handle<Guard>, options: &SftpOptions) -> Result<(), StoreError> {
    let user = options.user.as_str();
    let mut tried = Vec::new();
    if let Some(file) = &options.key_file {
        let password = Some(options.password.as_str()).filter(|text| !text.is_empty());
        let key = load_secret_key(file, password).map_err(|error| {
            let reason = format!(
                "the key in snapshot.sftp.key_file ({}) cannot be used: {error}; the password of \
                an encrypted key is the password in snapshot.sftp.url",
                file.display()
            );
            StoreError::new(StoreErrorKind::Denied, reason)
        })?;
        let hash = ssh.best_supported_rsa_hash().await.map_err(|error| broken(&error))?.flatten();
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        if ssh.authenticate_publickey(user, key).await.map_err(|error| broken(&error))?.success() {
            return Ok(());
        }
        tried.push("the key in snapshot.sftp.key_file");
    }
    if !options.password.is_empty() {
        let password = options.password.as_str();
        if with_password(ssh, user, password).await.map_err(|error| broken(&error))? {
            return Ok(());
        }
        tried.push("the password in snapshot.sftp.url");
    }
    let reason = match tried.is_empty() {
        true => "there is neither a password in snapshot.sftp.url nor a snapshot.sftp.key_file"
            .to_owned(),
        false => format!("the server refuses user {user} with {}", tried.join(" and with ")),
    };
    Err(StoreError::new(StoreErrorKind::Denied, reason))
}

/// Answers with the password, also where the server asks for it in a dialogue.
async fn with_password(
    ssh: &mut Handle<Guard>,
    user: &str,
    password: &str,
) -> Result<bool, russh::Error> {
    if let AuthResult::Success = ssh.authenticate_password(user, password).await? {
        return Ok(true);
    }
    let mut asked = ssh.authenticate_keyboard_interactive_start(user, None).await?;
    for _ in 0..ROUNDS_MAX {
        match asked {
            KeyboardInteractiveAuthResponse::Success => return Ok(true),
            KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                let answers = vec![password.to_owned(); prompts.len()];
                asked = ssh.authenticate_keyboard_interactive_respond(answers).await?;
            }
        }
    }
    Ok(false)
}
