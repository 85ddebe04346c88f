//! One node: an ordinary database file and a sidecar process.

use crate::{Process, binary, eventually, open};
use rusqlite::Connection;
use serde_json::Value;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// A database with its sidecar.
pub struct Node {
    pub id: u64,
    pub db: PathBuf,
    pub config: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, OsString)>,
    process: Option<Process>,
}

impl Node {
    /// Creates a node that does not run yet. `settings` are lines of TOML, top-level keys first.
    pub fn new(dir: &Path, id: u64, settings: &str) -> Self {
        let dir = dir.join(format!("node-{id}"));
        std::fs::create_dir_all(&dir).unwrap();
        let db = dir.join("app.db");
        let mut text = String::new();
        writeln!(text, "db_path = {:?}\nnode_id = {id}\n{settings}", db.to_str().unwrap()).unwrap();
        let config = dir.join("config.toml");
        std::fs::write(&config, text).unwrap();
        Self { id, db, config, arguments: Vec::new(), environment: Vec::new(), process: None }
    }

    /// Adds flags to the sidecar's command line.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Sets a variable of the sidecar's environment.
    pub fn set_env(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.environment.push((name, value.into()));
    }

    /// Resets the environment.
    pub fn clear_env(&mut self) {
        self.environment.clear();
    }

    /// Opens a connection of an application: triggers on, a busy timeout, nothing else.
    pub fn app(&self) -> Connection {
        open(&self.db)
    }

    /// Starts the sidecar.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        let mut command = Command::new(binary());
        command
            .arg("-config")
            .arg(&self.config)
            .args(&self.arguments)
            .env("RUST_LOG", "info,async_nats=warn");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::start(&mut command, &self.config.with_file_name("log")));
    }

    /// Starts the sidecar and waits until it is connected and has joined.
    #[track_caller]
    pub fn run(&mut self) {
        self.start();
        self.ready();
    }

    /// Waits until it is connected and has joined.
    #[track_caller]
    pub fn ready(&mut self) {
        let id = self.id;
        eventually(&format!("node {id} is connected and has joined"), || {
            if let Some(status) = self.process.as_mut().expect("the node runs").ended() {
                panic!("node {id} ended: {status}\n{}", self.output());
            }
            self.status().is_some_and(|s| s["broker"]["linked"] == true && s["joined"] == true)
        });
    }

    /// Returns its status; None while it does not answer.
    pub fn status(&self) -> Option<Value> {
        let out = self.cli(&["status", "--json"]);
        serde_json::from_slice::<Value>(&out.stdout).ok().filter(|_| out.status.success())
    }

    /// Returns one of its counters, by name.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let mut found = None;
        eventually(&format!("node {} answers", self.id), || {
            found = self.status();
            found.is_some()
        });
        found.unwrap()["counters"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("there is no counter {name}"))
    }

    /// Runs a subcommand on this node's configuration.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(binary()).arg("-config").arg(&self.config).args(arguments).output().unwrap()
    }

    /// Runs a subcommand that must succeed, and returns its JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let out = self.cli(&[arguments, &["--json"]].concat());
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// Runs the program with the flags of the sidecar and these, until it ends.
    pub fn act(&self, flags: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.arg("-config").arg(&self.config).args(&self.arguments).args(flags);
        command.output().unwrap()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("the node runs").kill();
    }

    /// Sends SIGTERM. The node must end with status 0.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the node runs");
        process.signal("TERM");
        let status = process.wait();
        assert!(status.success(), "node {} ended with {status}: {}", self.id, process.output());
    }

    /// Waits until the node ends by itself, and returns its exit status.
    #[track_caller]
    pub fn ended(&mut self) -> i32 {
        self.process.take().expect("the node runs").wait().code().expect("an exit status")
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.ended().is_none())
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the node runs").pid()
    }

    /// Sends its process a signal by name.
    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("the node runs").signal(name);
    }

    /// Stops its process at a moment in which it does not hold the write lock: the application
    /// writes meanwhile. `signal("CONT")` lets it go on.
    #[track_caller]
    pub fn pause(&self) {
        let db = self.app();
        db.busy_timeout(Duration::ZERO).unwrap();
        eventually("the process stands still without the write lock", || {
            self.signal("STOP");
            let is_free = db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok();
            if !is_free {
                self.signal("CONT");
            }
            is_free
        });
    }

    /// Returns its log so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(
            &std::fs::read(self.config.with_file_name("log")).unwrap_or_default(),
        )
        .into_owned()
    }
}
