//! The embedded server with a real nats-server; each test in its own directory, with its own ports.

mod alone;
mod cluster;
mod leaf;
mod orphan;

use super::{Access, Embedded, EmbeddedError};
use crate::model::ids::NodeId;
use crate::settings::{ClusterSettings, Settings};
use async_nats::jetstream;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// The program that `make test` names, or the one that it fetched.
fn program() -> String {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
    match std::env::var("HARMONYLITE_NATS_SERVER") {
        Ok(named) if !named.is_empty() => named,
        _ if fetched.is_file() => fetched.to_str().unwrap().to_owned(),
        _ => panic!(
            "these tests need a nats-server: run `make test`, which fetches one, or set \
            HARMONYLITE_NATS_SERVER"
        ),
    }
}

fn settings(dir: &Path) -> Settings {
    let mut settings = Settings { db_path: dir.join("app.db"), ..Settings::default() };
    settings.nats.server_binary = program();
    settings
}

/// Settings with a `server_config` of this content.
fn settings_with(dir: &Path, server_config: &str) -> Settings {
    let mut settings = settings(dir);
    let path = dir.join("user.conf");
    std::fs::write(&path, server_config).unwrap();
    settings.nats.server_config = path.to_str().unwrap().to_owned();
    settings
}

async fn start(settings: &Settings) -> Result<Embedded, EmbeddedError> {
    Embedded::start(settings, NodeId(1), &ClusterSettings::default()).await
}

fn store(dir: &Path, node: u64) -> PathBuf {
    dir.join(format!("nats/harmonylite-node-{node}"))
}

/// The server's process id, which is in the name of its ports file.
fn server_pid(dir: &Path, node: u64) -> rustix::process::Pid {
    let names = std::fs::read_dir(store(dir, node))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = names.into_iter().find(|name| name.ends_with(".ports")).expect("a ports file");
    let pid = name.trim_end_matches(".ports").rsplit_once('_').unwrap().1.parse().unwrap();
    rustix::process::Pid::from_raw(pid).unwrap()
}

fn kill(pid: rustix::process::Pid) {
    signal(pid, rustix::process::Signal::KILL);
}

fn signal(pid: rustix::process::Pid, signal: rustix::process::Signal) {
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A port that is free now, and that nobody else is given: below those that the kernel hands out,
/// and by process.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = 20_000 + (std::process::id() % 120) as u16 * 100;
    (0..100)
        .map(|_| own + NEXT.fetch_add(1, Ordering::Relaxed) % 100)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

async fn connect(access: &Access) -> Result<async_nats::Client, async_nats::ConnectError> {
    let mut options = async_nats::ConnectOptions::new();
    if let (Some(user), Some(password)) = (&access.user, &access.password) {
        options = options.user_and_password(user.clone(), password.reveal().to_owned());
    }
    options.connect(&access.url).await
}

async fn jetstream_of(embedded: &Embedded) -> jetstream::Context {
    let access = embedded.access().borrow().clone();
    let mut context = jetstream::new(connect(&access).await.unwrap());
    context.set_timeout(Duration::from_secs(2));
    context
}

/// Repeats what may fail for a while, until it does not.
async fn eventually<T, E: std::fmt::Debug>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if tokio::time::Instant::now() > deadline => {
                panic!("{what}: still {error:?} after 60 s")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn publish(context: &jetstream::Context, subject: &str, text: &str) -> Result<u64, String> {
    let sent = context
        .publish(subject.to_owned(), text.to_owned().into())
        .await
        .map_err(|e| e.to_string())?;
    sent.await.map(|ack| ack.sequence).map_err(|e| e.to_string())
}
