//! Reads the configuration file: unknown keys are refused, naming the nearest known one.

use super::Settings;
use std::path::{Path, PathBuf};

/// Why the settings cannot be used.
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
    /// Its content makes no sense.
    #[error("configuration {path}: {reason}")]
    Invalid {
        /// The file, or what else the settings came from.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
}

/// Settings with what is to be said about them once.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Keys that are accepted and mean nothing here.
    pub notes: Vec<String>,
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn load(path: &Path) -> Result<Loaded, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|error| SettingsError::Read { path: path.to_owned(), error })?;
        let settings = toml::from_str(&text).map_err(|e| SettingsError::Invalid { path: path.to_owned(), reason: e.to_string() })?;
        Ok(Loaded { settings, notes: Vec::new() })
    }
}
