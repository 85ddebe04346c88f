//! Several nodes around one broker.

use crate::{Broker, Node, contents, eventually};
use std::path::Path;
use tempfile::TempDir;

/// Nodes 1, 2, 3 and so on with the same schema, and an external broker. Fields drop in this order:
/// nodes before the broker.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub broker: Broker,
    pub dir: TempDir,
}

impl Cluster {
    /// Creates `count` nodes with this schema. They do not run yet.
    pub fn new(count: u64, schema: &str) -> Self {
        Self::with(count, schema, "")
    }

    /// Does the same as [`Cluster::new`], with lines of configuration for all nodes.
    pub fn with(count: u64, schema: &str, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::start(dir.path());
        let nodes =
            (1..=count).map(|id| Self::node(dir.path(), &broker, id, schema, settings)).collect();
        Self { nodes, broker, dir }
    }

    /// Adds a node, which does not run yet.
    pub fn add(&mut self, schema: &str, settings: &str) -> &mut Node {
        let id = self.nodes.len() as u64 + 1;
        let node = Self::node(self.dir.path(), &self.broker, id, schema, settings);
        self.nodes.push(node);
        self.nodes.last_mut().unwrap()
    }

    fn node(dir: &Path, broker: &Broker, id: u64, schema: &str, settings: &str) -> Node {
        let node = Node::new(
            dir,
            id,
            &format!(
                "{settings}\n[nats]\nurls = [{:?}]\nreconnect_wait_seconds = 1\n",
                broker.url()
            ),
        );
        node.app().execute_batch(schema).unwrap();
        node
    }

    /// Starts all nodes and waits until all have joined.
    #[track_caller]
    pub fn run(&mut self) {
        self.nodes.iter_mut().for_each(Node::start);
        self.nodes.iter_mut().for_each(Node::ready);
    }

    /// Waits until all databases are equal, and every change is acknowledged and applied.
    #[track_caller]
    pub fn converge(&self) {
        let nodes: Vec<&Node> = self.nodes.iter().collect();
        converge(&nodes);
    }
}

/// Waits until these nodes are equal with nothing pending, and then compares them again.
#[track_caller]
pub fn converge(nodes: &[&Node]) {
    let connections: Vec<_> = nodes.iter().map(|n| n.app()).collect();
    let pending = |db: &rusqlite::Connection| -> i64 {
        let sql = "SELECT count(*) FROM __harmonylite__change_log WHERE id > coalesce((SELECT \
            value FROM __harmonylite__meta WHERE key = 'published'), 0)";
        db.query_row(sql, [], |r| r.get(0)).unwrap()
    };
    let mut last = Vec::new();
    eventually("all nodes hold the same", || {
        if connections.iter().any(|db| pending(db) > 0) {
            return false;
        }
        last = connections.iter().map(contents).collect();
        last.windows(2).all(|pair| pair[0] == pair[1])
    });
    assert!(!last.is_empty(), "nothing was compared");
}
