//! A real nats-server for one test.

use crate::{Process, eventually};
use async_nats::jetstream::Context;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A nats-server with JetStream on a free port of loopback.
pub struct Broker {
    dir: PathBuf,
    pub port: u16,
    arguments: Vec<String>,
    process: Option<Process>,
}

/// Returns the nats-server program for the tests: the one that `make test` fetched.
pub fn server_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("HARMONYLITE_NATS_SERVER") {
        return path.into();
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server");
    assert!(
        fetched.exists(),
        "no nats-server: run `make test`, which fetches one, or set HARMONYLITE_NATS_SERVER"
    );
    fetched
}

impl Broker {
    /// Starts a server that keeps its streams below `dir`.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &["-js"])
    }

    /// Starts a server with these arguments. They decide whether `-js` is among them.
    pub fn start_with(dir: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut broker = Self { dir: dir.join("broker"), port: 0, arguments, process: None };
        std::fs::create_dir_all(&broker.dir).unwrap();
        broker.run();
        broker
    }

    /// Restarts it on the same port and store.
    pub fn run(&mut self) {
        assert!(self.process.is_none(), "the broker runs already");
        for entry in std::fs::read_dir(&self.dir).unwrap().flatten() {
            if entry.path().extension().is_some_and(|e| e == "ports") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        let port = if self.port == 0 { "-1".to_owned() } else { self.port.to_string() };
        let mut command = Command::new(server_binary());
        command
            .args(["-a", "127.0.0.1", "-p", &port, "-sd"])
            .arg(self.dir.join("js"))
            .arg("--ports_file_dir")
            .arg(&self.dir)
            .args(&self.arguments);
        self.process = Some(Process::start(&mut command, &self.dir.join("log")));
        let mut found = None;
        eventually("the nats-server listens", || {
            found = self.read_port();
            found.is_some()
        });
        self.port = found.unwrap();
    }

    fn read_port(&self) -> Option<u16> {
        let pid = self.process.as_ref()?.pid();
        let text =
            std::fs::read_to_string(self.dir.join(format!("nats-server_{pid}.ports"))).ok()?;
        let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
        ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Sends SIGKILL. Unsynced data stays in the page cache, so no acknowledged message is lost.
    pub fn kill(&mut self) {
        self.process.take().expect("the broker runs").kill();
    }

    /// Sends SIGTERM and waits for its end: all data is on the disk.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the broker runs");
        process.signal("TERM");
        process.wait();
    }

    /// Sends its process a signal by name. STOP cuts all nodes off silently, CONT ends that.
    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("the broker runs").signal(name);
    }

    /// Returns the directory of its store, for tests that damage it while the server is down.
    pub fn store(&self) -> PathBuf {
        self.dir.join("js")
    }
}

/// Runs `act` on a server's JetStream, with a separate client.
pub fn on_jetstream<T>(url: &str, act: impl AsyncFnOnce(Context) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        act(async_nats::jetstream::new(async_nats::connect(url).await.unwrap())).await
    })
}
