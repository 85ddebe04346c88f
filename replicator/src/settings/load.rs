//! Reads the configuration file. An unknown key is refused, with a suggestion of a known one.
//!
//! Arrives: a TOML text. Leaves: [`Loaded`], checked, or one [`SettingsError`] that names file,
//! line and key. Owns: no message ever contains the value of a secret key, so none quotes a source
//! line.

use super::keys::{self, Finding};
use super::{Secret, Settings, check, notes, secrets};
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Why the settings are invalid.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not valid TOML.
    #[error("configuration {path}, line {line}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// The defect.
        reason: String,
    },
    /// A key that does not exist.
    #[error("configuration {path}, line {line}: unknown key {key}; did you mean {nearest}?")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Its full name.
        key: String,
        /// The full name of the most similar known key.
        nearest: String,
    },
    /// A value has a wrong type.
    #[error("configuration {path}, line {line}: {key} must be {expected}, not {found}")]
    WrongType {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Its full name.
        key: String,
        /// The expected type.
        expected: &'static str,
        /// The found type.
        found: &'static str,
    },
    /// A value is invalid.
    #[error("configuration {path}: {key} {reason}")]
    Value {
        /// The file or another source of the settings.
        path: PathBuf,
        /// The full name of the key.
        key: String,
        /// The defect of its value; never the value of a secret.
        reason: String,
    },
}

impl SettingsError {
    /// Returns a remedy for people.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => "check the path given with -config and its permissions",
            Self::Syntax { .. } => {
                "write TOML: [section], then key = value, with texts in double quotes"
            }
            Self::UnknownKey { .. } => "correct or remove the key; unknown keys are never ignored",
            Self::WrongType { .. } => {
                "write texts in double quotes, lists in [ ], numbers and true/false without quotes"
            }
            Self::Value { .. } => {
                "correct the value; `harmonylite doctor` checks a configuration without starting \
                anything"
            }
        }
    }
}

/// Settings with notes on them.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Notes on accepted keys that have no effect here, or another one than in HarmonyLite (Go).
    pub notes: Vec<String>,
    /// The keys of the file whose values are secrets, written in the file itself.
    pub secrets: Vec<&'static str>,
}

impl Settings {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn load(path: &Path) -> Result<Loaded, SettingsError> {
        Self::from_toml(&read(path)?, path)
    }

    /// Reads and checks a text; `path` is only named in errors.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Loaded, SettingsError> {
        let mut loaded = Self::without_secrets(text, path)?;
        let environment = |name: &str| std::env::var(name).ok();
        secrets::resolve(&mut loaded.settings, &environment).map_err(wrong(path))?;
        loaded.settings.check(path)?;
        Ok(loaded)
    }

    /// Does the same as [`Settings::load`], but leaves secrets as they are written: for commands
    /// that log in nowhere, which need no variable of the environment.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn load_without_secrets(path: &Path) -> Result<Loaded, SettingsError> {
        let loaded = Self::without_secrets(&read(path)?, path)?;
        loaded.settings.check(path)?;
        Ok(loaded)
    }

    fn without_secrets(text: &str, path: &Path) -> Result<Loaded, SettingsError> {
        let syntax = |error: &toml::de::Error, reason: String| SettingsError::Syntax {
            path: path.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            reason,
        };
        let table = DeTable::parse(text).map_err(|e| syntax(&e, e.message().to_owned()))?;
        let found = keys::find(table.get_ref());
        if let Some(finding) = found.wrong.first() {
            return Err(finding_error(finding, text, path));
        }
        // The remaining errors are values of known keys: durations, enumerations, numbers out of
        // range.
        let settings: Settings = toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start);
            let key = found.key_at(at).unwrap_or("").to_owned();
            let reason = if keys::is_secret(&key) {
                "has an invalid value".to_owned()
            } else {
                e.message().to_owned()
            };
            syntax(&e, format!("{key}: {reason}"))
        })?;
        let secrets = secrets::written(&settings);
        let notes = notes::notes(&settings, &found);
        Ok(Loaded { settings, notes, secrets })
    }

    /// Reads what a program that embeds a node named in its settings.
    pub(crate) fn read_password(&mut self) -> Result<(), SettingsError> {
        secrets::read_password(&mut self.nats).map_err(wrong(Path::new("settings")))
    }

    /// Checks the values. `source` is the file or another source of the settings, for the error.
    ///
    /// # Errors
    /// [`SettingsError::Value`].
    pub fn check(&self, source: &Path) -> Result<(), SettingsError> {
        check::check(self).map_err(wrong(source))
    }

    /// Returns the default settings, for a start without a file.
    pub fn defaults() -> Loaded {
        let mut settings = Self::default();
        if let Ok(password) = std::env::var(secrets::PASSWORD_VARIABLE) {
            settings.nats.user_password = Secret::new(password);
        }
        Loaded { settings, notes: Vec::new(), secrets: Vec::new() }
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path)
        .map_err(|error| SettingsError::Read { path: path.to_owned(), error })
}

fn wrong(source: &Path) -> impl FnOnce(check::Wrong) -> SettingsError {
    let path = source.to_owned();
    |(key, reason)| SettingsError::Value { path, key: key.to_owned(), reason }
}

fn finding_error(finding: &Finding, text: &str, path: &Path) -> SettingsError {
    let path = path.to_owned();
    match finding.clone() {
        Finding::Unknown { key, nearest, at } => {
            SettingsError::UnknownKey { path, line: line_of(text, at), key, nearest }
        }
        Finding::WrongType { key, expected, found, at } => {
            SettingsError::WrongType { path, line: line_of(text, at), key, expected, found }
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Loaded, SettingsError> {
        Settings::from_toml(text, Path::new("config.toml"))
    }

    fn message(text: &str) -> String {
        load(text).unwrap_err().to_string()
    }

    /// Every key that HarmonyLite (Go) documents, as one of its users would have it.
    const GO_FILE: &str = r#"
        db_path = "/tmp/app.db"
        node_id = 1
        seq_map_path = "/tmp/seq-map.cbor"
        publish = true
        replicate = true
        scan_max_changes = 1024
        cleanup_interval = 30000
        sleep_timeout = 0
        polling_interval = 0
        [snapshot]
        enabled = true
        interval = 3600000
        leader_ttl = 30000
        store = "nats"
        [snapshot.nats]
        replicas = 1
        bucket = "harmonylite-snapshots"
        [snapshot.s3]
        endpoint = "minio:9000"
        path = "harmonylite/snapshots"
        use_ssl = false
        access_key = "key"
        secret = "secret"
        session_token = ""
        bucket = "bucket"
        [snapshot.webdav]
        url = "https://host/path?dir=/target&login=a&secret=b"
        [snapshot.sftp]
        url = "sftp://user:password@host:22/path"
        [replication_log]
        shards = 1
        max_entries = 1024
        replicas = 3
        compress = true
        update_existing = true
        [nats]
        urls = ["nats://localhost:4222", "nats://user:password@other:4222"]
        subject_prefix = "harmonylite-change-log"
        stream_prefix = "harmonylite-changes"
        server_config = ""
        seed_file = ""
        user_name = "user"
        user_password = "password"
        ca_file = ""
        cert_file = ""
        key_file = ""
        bind_address = "0.0.0.0:4222"
        connect_retries = 5
        reconnect_wait_seconds = 2
        [logging]
        verbose = true
        format = "json"
        [prometheus]
        enable = true
        bind = ":3010"
        namespace = "harmonylite"
        subsystem = "node"
        [health_check]
        enable = true
        bind = "0.0.0.0:8090"
        path = "/health"
        detailed = true
    "#;

    #[test]
    fn the_file_of_a_go_user_loads() {
        let loaded = load(GO_FILE).unwrap();
        assert_eq!(loaded.settings.nats.urls.len(), 2);
        assert_eq!(loaded.settings.nats.user_password.reveal(), "password");
        for key in ["seq_map_path", "scan_max_changes", "cleanup_interval", "max_entries"] {
            assert_eq!(
                loaded
                    .notes
                    .iter()
                    .filter(|n| n.starts_with(key) || n.contains(&format!(".{key}")))
                    .count(),
                1,
                "{key}"
            );
        }
        assert!(load("").unwrap().notes.is_empty());
    }

    #[test]
    fn an_unknown_key_names_the_nearest_and_its_line() {
        assert_eq!(
            message("publish = true\n[replication_log]\nmax_entires = 5\n"),
            "configuration config.toml, line 3: unknown key replication_log.max_entires; did you \
            mean replication_log.max_entries?"
        );
        assert!(
            message("shards = 4")
                .ends_with("unknown key shards; did you mean replication_log.shards?")
        );
        assert!(message("[natz]\nurls = []").ends_with("unknown key natz; did you mean nats?"));
        assert!(message("DB_PATH = 'x'").ends_with("did you mean db_path?"));
        assert!(
            message("[snapshot.s3]\nsecret_key = 'x'")
                .ends_with("did you mean snapshot.s3.secret?")
        );
    }

    #[test]
    fn a_wrong_type_names_its_key() {
        assert_eq!(
            message("\nnode_id = 'one'"),
            "configuration config.toml, line 2: node_id must be a whole number, not a text"
        );
        assert!(
            message("[nats]\nurls = 'nats://x'")
                .contains("nats.urls must be a list of texts, not a text")
        );
        assert!(message("nats = 4").contains("nats must be a section, not a whole number"));
        assert!(message("[nats]\nurls = [1]").contains("line 2"));
        assert!(message("node_id = -1").contains("node_id"), "{}", message("node_id = -1"));
        assert!(message("on_join = 'keep'").contains("on_join"));
        assert!(message("version_retention = '30w'").contains("version_retention"));
    }

    #[test]
    fn further_stores_are_a_list_of_sections() {
        let text = "[[snapshot.also]]\nstore = 'dir'\ndir.path = '/a'\n[[snapshot.also]]\n\
            name = 'far'\nstore = 's3'\n[snapshot.also.s3]\nendpoint = 'h'\nbucket = 'b'\n\
            access_key = 'a'\nsecret = 'hunter2'\n";
        let loaded = load(text).unwrap();
        assert_eq!(loaded.settings.snapshot.also.len(), 2);
        let shown = format!("{loaded:?} {}", toml::to_string(&loaded.settings).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(message("[[snapshot.also]]\nstroe = 'dir'").contains("snapshot.also.store?"));
        assert!(message("[[snapshot.also]]\nname = 1").contains("snapshot.also.name must be"));
        for wrong in ["snapshot.also = 'x'", "snapshot.also = ['x']", "snapshot.also.x = 1"] {
            let message = message(wrong);
            assert!(message.contains("snapshot.also must be a list of sections"), "{message}");
        }
    }

    #[test]
    fn schema_changes_travel_in_three_modes() {
        for mode in ["off", "additive", "all"] {
            assert!(load(&format!("[schema]\nreplicate = '{mode}'")).is_ok(), "{mode}");
        }
        let message = message("[schema]\nreplicate = 'on'");
        for part in ["schema.replicate", "on", "additive"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn a_file_that_is_not_toml_names_its_line() {
        assert!(
            message("publish = true\nreplicate = = 1")
                .starts_with("configuration config.toml, line 2: ")
        );
        assert!(matches!(load("a"), Err(SettingsError::Syntax { .. })));
        assert!(matches!(
            Settings::load(Path::new("/no/such/file.toml")),
            Err(SettingsError::Read { .. })
        ));
    }

    /// No error shows the value of a secret key.
    #[test]
    fn secrets_are_never_printed() {
        for text in [
            "[nats]\nuser_password = hunter2",
            "[nats]\nuser_password = \"hunter2",
            "[nats]\nuser_password = ['hunter2']",
            "[nats]\nuser_passwrd = 'hunter2'",
            "[snapshot.sftp]\nurl = 'sftp://a:hunter2@host' x",
            "[snapshot]\nstore='sftp'\n[snapshot.sftp]\nurl = 'a:hunter2@host'",
            "[snapshot]\nstore='webdav'\n[snapshot.webdav]\nurl = 'host?secret=hunter2'",
            "[nats]\nurls = ['nats://u:hunter2@ho st:x']",
            "[nats]\nuser_password = 'hunter2'\nuser_password = 'hunter2'",
        ] {
            let error = load(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let loaded = load(GO_FILE).unwrap();
        let shown = format!("{loaded:?} {}", toml::to_string(&loaded.settings).unwrap());
        for secret in ["sftp://", "\"password\"", "user:password", "\"secret\"", "secret=b"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}
