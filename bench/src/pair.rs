//! A broker and two nodes as real processes, which end with this one.

use crate::broker::{Broker, BrokerKind};
use anyhow::{Context, Result, bail};
use harmonylite::clock;
use harmonylite::db::lockfile::{Sidecar, sidecar};
use harmonylite::embedded::LIFELINE_SHELL;
use rusqlite::Connection;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The longest time for a change to arrive.
const PATIENCE_MS: u64 = 120_000;
const SCHEMA: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price REAL \
    NOT NULL, note TEXT)";

/// Fields drop in this order: nodes before the broker before the files.
pub(crate) struct Pair {
    nodes: Vec<Node>,
    broker: Broker,
    dir: TempDir,
    program: PathBuf,
}

struct Node {
    db: PathBuf,
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Pair {
    pub(crate) fn start(program: Option<PathBuf>, kind: BrokerKind) -> Result<Self> {
        let program = program.map_or_else(beside_us, Ok)?;
        let dir = tempfile::Builder::new().prefix("harmonylite-bench-").tempdir()?;
        let broker = Broker::start(kind, dir.path())?;
        let mut pair = Self { nodes: Vec::new(), broker, dir, program };
        for id in 1..=2 {
            let node = pair.node(id)?;
            pair.nodes.push(node);
        }
        // Both nodes are joined and connected when a row arrives in each direction.
        for (from, to) in [(0, 1), (1, 0)] {
            let id = -1 - from as i64;
            pair.open(from)?.execute("INSERT INTO item VALUES (?1, 'ready', 0, NULL)", [id])?;
            let peer = pair.open(to)?;
            pair.wait("the first row", || {
                Ok(count(&peer, "SELECT count(*) FROM item WHERE id = ?1", id)? == 1)
            })?;
        }
        Ok(pair)
    }

    fn node(&self, id: usize) -> Result<Node> {
        let dir = self.dir.path().join(format!("node-{id}"));
        std::fs::create_dir(&dir)?;
        let (db, config, log) =
            (dir.join("app.db"), dir.join("config.toml"), File::create(dir.join("log"))?);
        open(&db)?.execute_batch(SCHEMA)?;
        let path = toml::Value::String(db.to_string_lossy().into_owned()).to_string();
        let content = format!("db_path = {path}\nnode_id = {id}\n{}", self.broker.settings());
        // No other process uses the directory.
        std::fs::write(&config, content)?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", LIFELINE_SHELL, "harmonylite"])
            .arg(&self.program)
            .arg("-config")
            .arg(&config);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = command.spawn().context("cannot run /bin/sh")?;
        let lifeline = child.stdin.take();
        Ok(Node { db, child, lifeline })
    }

    /// Returns the server's address, if it accepts connections without a password.
    pub(crate) fn broker_url(&self) -> Option<&str> {
        match &self.broker {
            Broker::Plain { url, .. } => Some(url),
            Broker::Embedded { .. } => None,
        }
    }

    /// Opens a connection of an application to node 0 or 1.
    pub(crate) fn open(&self, node: usize) -> Result<Connection> {
        open(self.database(node)?)
    }

    pub(crate) fn database(&self, node: usize) -> Result<&Path> {
        Ok(&self.nodes.get(node).context("no such node")?.db)
    }

    /// Returns the process id of the sidecar.
    pub(crate) fn pid(&self, node: usize) -> Result<u32> {
        match sidecar(&self.nodes.get(node).context("no such node")?.db)? {
            Sidecar::Running(Some(owner)) => Ok(owner.pid),
            _ => bail!("node {} does not run", node + 1),
        }
    }

    /// Waits for a change to arrive.
    pub(crate) fn wait(
        &self,
        what: &str,
        mut is_there: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let ends = clock::mono_ms() + PATIENCE_MS;
        while !is_there()? {
            if clock::mono_ms() > ends {
                bail!(
                    "{what} has not arrived after {} s\n{}",
                    PATIENCE_MS / 1_000,
                    self.what_they_say()
                );
            }
            pause(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Returns the status of both nodes, for an error.
    pub(crate) fn what_they_say(&self) -> String {
        let say = |i: usize| {
            let dir = self.dir.path().join(format!("node-{i}"));
            let mut status = Command::new(&self.program);
            let status = status.arg("status").arg("--config").arg(dir.join("config.toml")).output();
            let status = status.map_or_else(
                |e| e.to_string(),
                |out| String::from_utf8_lossy(&out.stdout).into_owned(),
            );
            format!("{status}{}\n", std::fs::read_to_string(dir.join("log")).unwrap_or_default())
        };
        say(1) + &say(2)
    }

    /// Waits until nothing is pending and both nodes hold the same number of rows.
    pub(crate) fn settle(&self) -> Result<()> {
        let nodes = [self.open(0)?, self.open(1)?];
        // Published changes leave the log with the node's next transaction.
        let pending = "SELECT count(*) FROM __harmonylite__change_log
            WHERE id > max(?1, coalesce((SELECT value FROM __harmonylite__meta WHERE key = \
            'published'), 0))";
        self.wait("the rest", || {
            // Counting at every moment would keep a snapshot open at every moment, for which the
            // marks of published changes wait.
            pause(Duration::from_millis(100));
            let rows = nodes
                .each_ref()
                .map(|db| count(db, "SELECT count(*) FROM item WHERE id > ?1", i64::MIN));
            let [Ok(a), Ok(b)] = rows else { bail!("the rows cannot be counted") };
            Ok(a == b && nodes.iter().all(|db| count(db, pending, 0).is_ok_and(|n| n == 0)))
        })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // Closing the lifeline ends the process with SIGKILL.
            node.lifeline.take();
            let _ = node.child.wait();
        }
    }
}

fn beside_us() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("harmonylite");
    if !program.exists() {
        bail!(
            "{} is not there: build it first (`make bench` does), or name one with --program",
            program.display()
        );
    }
    Ok(program)
}

/// Opens a database like an ordinary application.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(20))?;
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
    Ok(db)
}

/// Returns the result of a count with one parameter.
pub(crate) fn count(db: &Connection, sql: &str, value: i64) -> Result<i64> {
    Ok(db.prepare_cached(sql)?.query_row([value], |r| r.get(0))?)
}

/// Pauses between two looks.
pub(crate) fn pause(time: Duration) {
    std::thread::park_timeout(time);
}
