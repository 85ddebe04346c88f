//! Nodes with embedded servers, started as by users of HarmonyLite (Go).

use crate::broker::server_binary;
use crate::{Node, binary, converge, eventually};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nodes 1, 2, 3 whose embedded servers form a cluster.
pub struct EmbeddedCluster {
    pub nodes: Vec<Node>,
    /// The ports on which their servers listen for each other.
    pub ports: Vec<u16>,
    pub dir: TempDir,
}

impl EmbeddedCluster {
    /// Creates three nodes with this schema. They do not run yet. `settings` returns the first
    /// lines of each node's configuration, by its id.
    pub fn new(schema: &str, replicas: usize, settings: impl Fn(u64) -> String) -> Self {
        // Build the binary before any time is measured.
        binary();
        let dir = tempfile::tempdir().unwrap();
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let nodes = (1..=3).map(|id: u64| {
            let own = ports[id as usize - 1];
            let peers: Vec<String> = ports
                .iter()
                .filter(|port| **port != own)
                .map(|port| format!("nats://127.0.0.1:{port}"))
                .collect();
            let log = format!("[replication_log]\nreplicas = {replicas}\n");
            let node = Node::new(dir.path(), id, &format!("{}\n{log}{}", settings(id), embedded()));
            let node = node.with(&[
                "-cluster-addr",
                &format!("127.0.0.1:{own}"),
                "-cluster-peers",
                &peers.join(","),
            ]);
            node.app().execute_batch(schema).unwrap();
            node
        });
        Self { nodes: nodes.collect(), ports, dir }
    }

    /// Starts the nodes one after another, each when the previous one is up, and waits until all
    /// have joined.
    #[track_caller]
    pub fn run(&mut self) {
        for (node, port) in self.nodes.iter_mut().zip(&self.ports) {
            node.start();
            server_is_up(*port);
        }
        self.nodes.iter_mut().for_each(Node::ready);
    }

    /// Waits until all databases are equal, and every change is acknowledged and applied.
    #[track_caller]
    pub fn converge(&self) {
        converge(&self.nodes.iter().collect::<Vec<_>>());
    }
}

/// Returns the `[nats]` table of a node that runs its own server.
pub fn embedded() -> String {
    format!("[nats]\nreconnect_wait_seconds = 1\nserver_binary = {:?}\n", server_binary())
}

/// Waits until the server of a `-cluster-addr` is up. A client sees that by the server's greeting.
#[track_caller]
pub(crate) fn server_is_up(port: u16) {
    eventually(&format!("a server listens on {port}"), || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).is_ok() && &greeting == b"INFO "
    });
}

/// Returns a free port that no other process gets: below the ports that the kernel assigns, and
/// chosen by process id.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = 20_000 + (std::process::id() % 120) as u16 * 100;
    (0..100)
        .map(|_| own + NEXT.fetch_add(1, Ordering::Relaxed) % 100)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Runs `work` and prints how long it took (`cargo test -- --nocapture`).
#[allow(clippy::disallowed_methods)]
pub fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = work();
    println!("{:6.2} s  {what}", begin.elapsed().as_secs_f64());
    result
}

/// Returns the nats-server processes that keep their files below a directory.
pub fn servers_below(dir: &Path) -> Vec<u32> {
    let dir = dir.to_str().unwrap();
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_server = |pid: &u32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = command.split('\0').collect();
        words.first().is_some_and(|program| program.contains("nats-server"))
            && words.iter().any(|word| word.contains(dir))
    };
    processes.filter(is_server).collect()
}

/// Returns the status of a database's node, read without its configuration.
pub fn status_of(db: &Path) -> Option<serde_json::Value> {
    let out =
        Command::new(binary()).arg("--db").arg(db).args(["status", "--json"]).output().unwrap();
    serde_json::from_slice(&out.stdout).ok().filter(|_| out.status.success())
}
