//! The nats-server of a run: either with the server's own defaults, or the embedded one of a node,
//! which syncs every message to the disk.

use anyhow::{Context, Result};
use harmonylite::clock;
use harmonylite::embedded::{Embedded, LIFELINE_SHELL, server_program};
use harmonylite::model::ids::NodeId;
use harmonylite::settings::{ClusterSettings, Settings};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;
use tokio::runtime::Runtime;

const STARTS_WITHIN_MS: u64 = 20_000;

/// The kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerKind {
    /// With the server's defaults.
    Plain,
    /// The embedded server of a node.
    Embedded,
}

/// A server that ends with this process.
pub(crate) enum Broker {
    Plain { url: String, child: Child, lifeline: Option<ChildStdin> },
    Embedded { runtime: Runtime, server: Option<Embedded> },
}

impl Broker {
    pub(crate) fn start(kind: BrokerKind, dir: &Path) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        match kind {
            BrokerKind::Plain => plain(&runtime.block_on(server_program(&fetched()))?, dir),
            BrokerKind::Embedded => {
                let mut settings = Settings { db_path: dir.join("broker"), ..Settings::default() };
                settings.nats.server_binary = fetched();
                let server = runtime.block_on(Embedded::start(
                    &settings,
                    NodeId(0),
                    &ClusterSettings::default(),
                ))?;
                Ok(Self::Embedded { runtime, server: Some(server) })
            }
        }
    }

    /// Returns the `[nats]` section of a node's configuration.
    pub(crate) fn settings(&self) -> String {
        let text = |s: &str| toml::Value::String(s.to_owned()).to_string();
        match self {
            Self::Plain { url, .. } => format!("[nats]\nurls = [{}]\n", text(url)),
            Self::Embedded { server, .. } => server.as_ref().map_or_else(String::new, |server| {
                let access = server.access().borrow().clone();
                let (user, password) =
                    (access.user.unwrap_or_default(), access.password.unwrap_or_default());
                let (url, user, password) =
                    (text(&access.url), text(&user), text(password.reveal()));
                format!("[nats]\nurls = [{url}]\nuser_name = {user}\nuser_password = {password}\n")
            }),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        match self {
            Self::Plain { child, lifeline, .. } => {
                // Closing the lifeline ends the server with SIGKILL.
                lifeline.take();
                let _ = child.wait();
            }
            Self::Embedded { runtime, server } => {
                if let Some(server) = server.take() {
                    runtime.block_on(server.stop());
                }
            }
        }
    }
}

/// Returns the program that `make` fetched, unless the environment names one.
fn fetched() -> String {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
    let named = std::env::var_os("HARMONYLITE_NATS_SERVER").is_some();
    if !named && fetched.exists() { fetched.to_string_lossy().into_owned() } else { String::new() }
}

fn plain(program: &Path, dir: &Path) -> Result<Broker> {
    let dir = dir.join("broker");
    std::fs::create_dir(&dir)?;
    let log = File::create(dir.join("log"))?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", LIFELINE_SHELL, "nats-server"]).arg(program).args([
        "-a",
        "127.0.0.1",
        "-p",
        "-1",
        "-js",
        "-sd",
    ]);
    command.arg(dir.join("js")).arg("--ports_file_dir").arg(&dir);
    command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut child = command.spawn().context("cannot run /bin/sh")?;
    let lifeline = child.stdin.take();
    let gives_up = clock::mono_ms() + STARTS_WITHIN_MS;
    let url = loop {
        if let Some(url) = read_url(&dir) {
            break url;
        }
        anyhow::ensure!(
            clock::mono_ms() < gives_up,
            "{} does not start; {}",
            program.display(),
            dir.join("log").display()
        );
        std::thread::park_timeout(Duration::from_millis(5));
    };
    Ok(Broker::Plain { url, child, lifeline })
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
