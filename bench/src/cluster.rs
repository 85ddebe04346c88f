//! A broker and some nodes as real processes, which end with this one.
//!
//! Arrives: a schema and settings. Leaves: databases to write to and to read. Owns: everything is
//! looked at from outside, so that any program with the same configuration file can be measured.

use crate::Parts;
use crate::broker::{Broker, BrokerKind};
use crate::database::{contents, count, counts, difference, open};
use crate::process::Process;
use crate::time::{now, pause};
use crate::usage;
use anyhow::{Context, Result, bail};
use rusqlite::Connection;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The longest time for a change to arrive, unless a workload sets another one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// The table in which every run looks for its own rows.
pub(crate) const PROBE: &str =
    "CREATE TABLE harmonylite_bench_probe (id INTEGER PRIMARY KEY, note TEXT);";
const READY: &str = "SELECT count(*) FROM harmonylite_bench_probe WHERE id = ?1";

/// How often the first rows are written again.
const AGAIN: Duration = Duration::from_millis(500);

/// What a cluster is made of.
pub(crate) struct Plan<'a> {
    pub(crate) nodes: usize,
    pub(crate) broker: BrokerKind,
    /// The application's tables and rows before anything runs, the same on every node.
    pub(crate) prepare: &'a dyn Fn(&mut Connection) -> Result<()>,
    /// Keys of the configuration file.
    pub(crate) settings: toml::Table,
    pub(crate) patience: Duration,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            nodes: 2,
            broker: BrokerKind::Plain,
            prepare: &|db| Ok(db.execute_batch(crate::measure::SCHEMA)?),
            settings: toml::Table::new(),
            patience: PATIENCE,
        }
    }
}

/// Fields drop in this order: nodes before the broker before the files.
pub(crate) struct Cluster<'a> {
    nodes: Vec<Node>,
    broker: RefCell<Broker>,
    dir: TempDir,
    parts: &'a Parts,
    patience: Duration,
}

struct Node {
    db: PathBuf,
    config: PathBuf,
    process: RefCell<Process>,
}

/// CPU nanoseconds of the processes.
#[derive(Clone, Debug)]
pub(crate) struct CpuUse {
    pub(crate) nodes: Vec<i64>,
    pub(crate) broker: i64,
}

impl<'a> Cluster<'a> {
    pub(crate) fn start(parts: &'a Parts, plan: &Plan) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("harmonylite-bench-").tempdir()?;
        let broker = Broker::start(parts, plan.broker, dir.path())?;
        let (broker, patience) = (RefCell::new(broker), plan.patience);
        let mut cluster = Self { nodes: Vec::new(), broker, dir, parts, patience };
        for id in 1..=plan.nodes {
            let node = cluster.node(id, plan)?;
            cluster.nodes.push(node);
        }
        cluster.ready()?;
        Ok(cluster)
    }

    fn node(&self, id: usize, plan: &Plan) -> Result<Node> {
        let dir = self.dir.path().join(format!("node-{id}"));
        std::fs::create_dir(&dir)?;
        let (db, config) = (dir.join("app.db"), dir.join("config.toml"));
        let mut app = open(&db)?;
        app.execute_batch(PROBE)?;
        (plan.prepare)(&mut app)?;
        let mut settings = plan.settings.clone();
        settings.insert("db_path".to_owned(), db.to_string_lossy().as_ref().into());
        settings.insert("node_id".to_owned(), i64::try_from(id)?.into());
        // HarmonyLite (Go) stores its positions there; its default is one file for all nodes.
        let positions = dir.join("seq-map.cbor");
        settings.insert("seq_map_path".to_owned(), positions.to_string_lossy().as_ref().into());
        let nats = settings.entry("nats").or_insert_with(|| toml::Table::new().into());
        let nats = nats.as_table_mut().context("`nats` of the settings is not a table")?;
        nats.insert("urls".to_owned(), vec![self.broker.borrow().url.clone()].into());
        // No other process uses the directory.
        std::fs::write(&config, toml::to_string(&settings)?)?;
        let process = RefCell::new(self.run(&config)?);
        Ok(Node { db, config, process })
    }

    fn run(&self, config: &Path) -> Result<Process> {
        let arguments = ["-config", &*config.to_string_lossy()];
        let log = config.with_file_name("log");
        let program = &self.parts.program;
        Process::start(self.parts.lifeline, "harmonylite", program, &arguments, log)
    }

    /// All nodes are joined and connected when a row of each has arrived at each. The rows are
    /// written again and again: other programs do not capture what is written before their triggers
    /// are there.
    fn ready(&self) -> Result<()> {
        let apps = (0..self.len()).map(|node| self.open(node)).collect::<Result<Vec<_>>>()?;
        let id = |node: usize| -1 - i64::try_from(node).unwrap_or(0);
        for (node, app) in apps.iter().enumerate() {
            let insert = "INSERT INTO harmonylite_bench_probe VALUES (?1, 'ready')";
            app.execute(insert, [id(node)])?;
        }
        let update = "UPDATE harmonylite_bench_probe SET note = 'ready' WHERE id = ?1";
        let mut again = now() + AGAIN;
        self.wait("the first row", || {
            for app in &apps {
                for (node, writer) in apps.iter().enumerate() {
                    if count(app, READY, id(node))? == 1 {
                        continue;
                    }
                    if now() >= again {
                        again = now() + AGAIN;
                        writer.execute(update, [id(node)])?;
                    }
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the server's address.
    pub(crate) fn broker_url(&self) -> String {
        self.broker.borrow().url.clone()
    }

    /// Opens a connection of an application.
    pub(crate) fn open(&self, node: usize) -> Result<Connection> {
        open(self.database(node)?)
    }

    pub(crate) fn database(&self, node: usize) -> Result<&Path> {
        Ok(&self.at(node)?.db)
    }

    fn at(&self, node: usize) -> Result<&Node> {
        self.nodes.get(node).context("no such node")
    }

    /// Returns the process id of a node, where the system shows it.
    pub(crate) fn pid(&self, node: usize) -> Option<u32> {
        self.nodes.get(node)?.process.borrow().pid()
    }

    /// Stops a node with SIGTERM.
    pub(crate) fn stop(&self, node: usize) -> Result<()> {
        self.at(node)?.process.borrow_mut().stop()
    }

    /// Starts a stopped node again.
    pub(crate) fn resume(&self, node: usize) -> Result<()> {
        let node = self.at(node)?;
        let started = self.run(&node.config)?;
        *node.process.borrow_mut() = started;
        Ok(())
    }

    /// Returns the CPU time that the processes have used, where the system shows it.
    pub(crate) fn cpu(&self) -> Option<CpuUse> {
        let nodes = (0..self.len()).map(|node| usage::cpu_ns(self.pid(node)?));
        let broker = usage::cpu_ns(self.broker.borrow().process.pid()?)?;
        Some(CpuUse { nodes: nodes.collect::<Option<_>>()?, broker })
    }

    /// Waits for a change to arrive, for 120 s or as the plan says.
    pub(crate) fn wait(
        &self,
        what: &str,
        mut is_there: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let gives_up = now() + self.patience;
        while !is_there()? {
            if now() > gives_up {
                let within = self.patience.as_secs();
                bail!("{what} has not arrived after {within} s\n{}", self.what_they_report());
            }
            for node in &self.nodes {
                node.process.borrow_mut().check()?;
            }
            self.broker.borrow_mut().process.check()?;
            pause(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Returns the status of all nodes and the ends of their logs, for an error.
    pub(crate) fn what_they_report(&self) -> String {
        let mut text = String::new();
        for (at, node) in self.nodes.iter().enumerate() {
            text += &format!("node {}:\n", at + 1);
            // Another program may take `status` for something else.
            if self.parts.own {
                let mut status = Command::new(&self.parts.program);
                let status = status.arg("status").arg("--config").arg(&node.config).output();
                text += &status.map_or_else(
                    |e| e.to_string(),
                    |out| String::from_utf8_lossy(&out.stdout).into_owned(),
                );
            }
            text += &node.process.borrow().last_words();
        }
        text
    }

    /// Waits until all nodes hold the same rows and nothing is left to publish.
    ///
    /// # Errors
    /// They do not within the time: the nodes and a table in which they differ.
    pub(crate) fn settle(&self) -> Result<()> {
        let gives_up = now() + self.patience;
        let apps = (0..self.len()).map(|node| self.open(node)).collect::<Result<Vec<_>>>()?;
        loop {
            // Counting at every moment would keep a snapshot open at every moment, for which the
            // marks of published changes wait.
            pause(Duration::from_millis(100))?;
            let late = now() > gives_up;
            let of_all = apps.iter().map(counts).collect::<Result<Vec<_>>>()?;
            let same = of_all.windows(2).all(|two| two[0] == two[1]);
            let quiet = apps.iter().all(|app| pending(app) == 0);
            if (same && quiet) || late {
                match self.unequal(&apps)? {
                    None if quiet => return Ok(()),
                    None if late => bail!("changes are still to be published"),
                    Some(difference) if late => {
                        return Err(Unequal(difference, self.patience.as_secs()).into());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Waits until nothing is left to publish. Quicker than [`Self::settle`]: no row is compared.
    pub(crate) fn published(&self) -> Result<()> {
        let apps = (0..self.len()).map(|node| self.open(node)).collect::<Result<Vec<_>>>()?;
        self.wait("the end of the log", || {
            // As in `settle`.
            pause(Duration::from_millis(100))?;
            Ok(apps.iter().all(|app| pending(app) == 0))
        })
    }

    fn unequal(&self, apps: &[Connection]) -> Result<Option<String>> {
        let of_all = apps.iter().map(contents).collect::<Result<Vec<_>>>()?;
        let Some((first, others)) = of_all.split_first() else { return Ok(None) };
        Ok(others.iter().enumerate().find_map(|(at, other)| {
            difference(first, other).map(|how| format!("nodes 1 and {} differ: {how}", at + 2))
        }))
    }
}

/// Nodes that do not hold the same rows.
#[derive(Debug, thiserror::Error)]
#[error("{0} ({1} s after the last write)")]
pub(crate) struct Unequal(String, u64);

/// Returns the changes that are not published. A program with other tables is taken for one that
/// has none; its rows are compared all the same.
fn pending(app: &Connection) -> i64 {
    // Published changes leave the log with the node's next transaction.
    let pending = "SELECT count(*) FROM __harmonylite__change_log
        WHERE id > max(?1, coalesce((SELECT value FROM __harmonylite__meta WHERE key = \
        'published'), 0))";
    count(app, pending, 0).unwrap_or(0)
}
