//! The nodes: a database, a configuration and a process each.
//!
//! Owns: no process outlives the demo, however that ends (see [`LIFELINE_SHELL`]). Nodes have
//! process groups of their own, so that Ctrl-C reaches the demo alone.

use super::relay::Relay;
use super::schema;
use crate::embedded::{Access, LIFELINE_SHELL};
use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// One of the nodes saves a snapshot this often, milliseconds.
const SNAPSHOT_MS: u64 = 2_000;

/// A node of the demo.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) db: PathBuf,
    pub(super) config: PathBuf,
    pub(super) relay: Relay,
    process: Option<(Child, ChildStdin)>,
}

impl Node {
    /// Creates the node's files. It does not run yet.
    pub(super) fn create(dir: &Path, id: u64, relay: Relay, access: &Access) -> Result<Self> {
        let dir = dir.join(format!("node-{id}"));
        fs::create_dir(&dir)?;
        let node = Self::new(&dir, id, relay);
        let mut db = schema::create(&node.db)
            .with_context(|| format!("cannot make {}", node.db.display()))?;
        if id == 1 {
            schema::fill(&mut db)?;
        }
        node.configure(access)?;
        Ok(node)
    }

    /// Creates a node without a database file: it will begin with a snapshot. It does not run yet.
    pub(super) fn create_empty(dir: &Path, id: u64, relay: Relay, access: &Access) -> Result<Self> {
        let dir = dir.join(format!("node-{id}"));
        fs::create_dir(&dir)?;
        let node = Self::new(&dir, id, relay);
        node.configure(access)?;
        Ok(node)
    }

    fn new(dir: &Path, id: u64, relay: Relay) -> Self {
        let (db, config) = (dir.join("shop.db"), dir.join("config.toml"));
        Self { id, db, config, relay, process: None }
    }

    fn configure(&self, access: &Access) -> Result<()> {
        let text = |s: &str| toml::Value::String(s.to_owned()).to_string();
        let user = access.user.as_deref().unwrap_or_default();
        let password = access.password.as_ref().map_or("", |p| p.reveal());
        let content = format!(
            "db_path = {}\nnode_id = {}\n\n[nats]\nurls = [{}]\nuser_name = {}\nuser_password = \
            {}\nreconnect_wait_seconds = 1\n\n[snapshot]\ninterval = {SNAPSHOT_MS}\nleader_ttl = \
            {SNAPSHOT_MS}\n",
            text(&self.db.to_string_lossy()),
            self.id,
            text(&self.relay.url),
            text(user),
            text(password),
        );
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.config)?;
        file.write_all(content.as_bytes())
            .with_context(|| format!("cannot write {}", self.config.display()))
    }

    fn log_path(&self) -> PathBuf {
        self.config.with_file_name("log")
    }

    /// Starts the node's process.
    pub(super) fn start(&mut self) -> Result<()> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", LIFELINE_SHELL, "harmonylite"])
            .arg(program)
            .arg("-config")
            .arg(&self.config);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child =
            command.spawn().context("cannot run /bin/sh, which watches over the nodes")?;
        let Some(lifeline) = child.stdin.take() else { bail!("no pipe to node {}", self.id) };
        self.process = Some((child, lifeline));
        Ok(())
    }

    /// Sends SIGKILL and waits for the end.
    pub(super) fn kill(&mut self) {
        self.end("KILL");
    }

    /// Sends SIGTERM and waits for the end.
    pub(super) fn stop(&mut self) {
        self.end("TERM");
    }

    fn end(&mut self, signal: &str) {
        let Some((mut child, mut lifeline)) = self.process.take() else { return };
        // The pipe is broken if the process has ended already.
        let _ = writeln!(lifeline, "{signal}").and_then(|()| lifeline.flush());
        let _ = child.wait();
    }

    /// Fails if the process has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        let Some((child, _)) = &mut self.process else { return Ok(()) };
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "node {} ended by itself: {status}. The end of its log:\n{}",
                self.id,
                self.last_words()
            ),
        }
    }

    /// The last lines of the node's log.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines
            .iter()
            .skip(lines.len().saturating_sub(15))
            .map(|line| format!("  {line}\n"))
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The end of the lifeline is SIGKILL. Wait for the process before the files are removed.
        if let Some((mut child, lifeline)) = self.process.take() {
            drop(lifeline);
            let _ = child.wait();
        }
    }
}
