//! A real nats-server with a configuration for one test.

use crate::broker::server_binary;
use crate::embedded::server_is_up;
use crate::{Process, free_port};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A nats-server with JetStream, configured by a file.
pub struct Server {
    pub port: u16,
    config: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
    process: Option<Process>,
}

impl Server {
    /// Creates a server that keeps all its files below `dir`. It does not run yet. `text` is added
    /// to its configuration.
    pub fn new(dir: &Path, text: &str) -> Self {
        let dir = dir.join("server");
        std::fs::create_dir_all(&dir).unwrap();
        let port = free_port();
        let config = dir.join("server.conf");
        let store = dir.join("js");
        std::fs::write(
            &config,
            format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?} }}\n{text}\n"),
        )
        .unwrap();
        Self { port, config, environment: Vec::new(), process: None }
    }

    /// Sets a variable of its environment.
    pub fn set_env(&mut self, name: &'static str, value: &'static str) {
        self.environment.push((name, value));
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let mut command = Command::new(server_binary());
        command.arg("-c").arg(&self.config).envs(self.environment.iter().copied());
        self.process = Some(Process::start(&mut command, &self.config.with_file_name("log")));
        server_is_up(self.port);
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("the server runs").kill();
    }
}
