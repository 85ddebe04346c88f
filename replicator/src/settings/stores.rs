//! Where snapshots go: `[snapshot.nats]` and its siblings, and `[[snapshot.also]]`.

use super::Secret;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One store. An entry of `[[snapshot.also]]`, or what `[snapshot]` itself names.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// The name for `--from`; empty: that of the kind.
    pub name: String,
    /// The kind: `nats`, `dir`, `s3`, `webdav`, `sftp`.
    pub store: String,
    /// Store `nats`.
    pub nats: SnapshotNatsSettings,
    /// Store `dir`.
    pub dir: SnapshotDirSettings,
    /// Store `s3`.
    pub s3: SnapshotS3Settings,
    /// Store `webdav`.
    pub webdav: SnapshotUrlSettings,
    /// Store `sftp`.
    pub sftp: SnapshotSftpSettings,
}

/// `[snapshot.nats]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotNatsSettings {
    /// Copies that the broker keeps.
    pub replicas: usize,
    /// The bucket, a stream; empty: `<stream_prefix>-snapshot-store`.
    pub bucket: String,
}

impl Default for SnapshotNatsSettings {
    fn default() -> Self {
        Self { replicas: 1, bucket: String::new() }
    }
}

/// `[snapshot.dir]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotDirSettings {
    /// The directory, which is created with the first snapshot.
    pub path: PathBuf,
}

/// `[snapshot.s3]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotS3Settings {
    /// `host:port`, perhaps with `http://` or `https://` before it.
    pub endpoint: String,
    /// Folders in the bucket.
    pub path: String,
    /// Whether an endpoint without a scheme is reached over TLS.
    pub use_ssl: bool,
    /// The id of the access key.
    pub access_key: String,
    /// Its secret.
    pub secret: Secret,
    /// The token of temporary credentials.
    pub session_token: Secret,
    /// The bucket, which is created with the first snapshot.
    pub bucket: String,
    /// Empty: the one in an endpoint of AWS, else `us-east-1`.
    pub region: String,
    /// `http://endpoint/bucket` instead of `http://bucket.endpoint`.
    pub path_style: bool,
    /// The header `x-amz-server-side-encryption`; empty: none.
    pub sse: String,
}

impl Default for SnapshotS3Settings {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            path: String::new(),
            use_ssl: false,
            access_key: String::new(),
            secret: Secret::default(),
            session_token: Secret::default(),
            bucket: String::new(),
            region: String::new(),
            path_style: true,
            sse: String::new(),
        }
    }
}

/// `[snapshot.webdav]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotUrlSettings {
    /// Where; with credentials, therefore secret.
    pub url: Secret,
}

/// `[snapshot.sftp]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotSftpSettings {
    /// Where; with credentials, therefore secret.
    pub url: Secret,
    /// A private key; the password of the URL decrypts it.
    pub key_file: PathBuf,
    /// The keys of servers; empty: `~/.ssh/known_hosts`.
    pub known_hosts_file: PathBuf,
}
