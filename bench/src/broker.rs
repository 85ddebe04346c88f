//! The nats-server of a run: with the server's own defaults, or one that syncs every message to the
//! disk, as the server inside a node does.

use crate::Parts;
use crate::process::Process;
use crate::time::{now, pause};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;

const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// The kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerKind {
    /// With the server's defaults.
    Plain,
    /// It syncs every message, as the embedded server of a node does.
    Synced,
}

/// A server that ends with this process.
pub(crate) struct Broker {
    pub(crate) url: String,
    pub(crate) process: Process,
}

impl Broker {
    pub(crate) fn start(parts: &Parts, kind: BrokerKind, dir: &Path) -> Result<Self> {
        let dir = dir.join("broker");
        std::fs::create_dir(&dir)?;
        let config = dir.join("nats.conf");
        let sync = if kind == BrokerKind::Synced { "sync_interval: always" } else { "" };
        let store = serde_json::to_string(&dir.join("js"))?;
        let text = format!("listen: \"127.0.0.1:-1\"\njetstream {{ store_dir: {store}\n{sync}\n}}");
        std::fs::write(&config, text)?;
        let (config, ports) = (config.to_string_lossy(), dir.to_string_lossy());
        let arguments = ["-c", config.as_ref(), "--ports_file_dir", ports.as_ref()];
        let log = dir.join("log");
        let mut process =
            Process::start(parts.lifeline, "nats-server", &parts.server, &arguments, log)?;
        let gives_up = now() + STARTS_WITHIN;
        loop {
            if let Some(url) = read_url(&dir) {
                return Ok(Self { url, process });
            }
            process.check()?;
            anyhow::ensure!(
                now() < gives_up,
                "{} does not start within {} s. Its log ends:\n{}",
                parts.server.display(),
                STARTS_WITHIN.as_secs(),
                process.last_words()
            );
            pause(Duration::from_millis(5))?;
        }
    }
}

/// Reads the address from the file in which the server writes its ports when it listens.
fn read_url(dir: &Path) -> Option<String> {
    let ports: PathBuf = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "ports"))?;
    let ports: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(ports).ok()?).ok()?;
    Some(ports["nats"][0].as_str()?.to_owned())
}
