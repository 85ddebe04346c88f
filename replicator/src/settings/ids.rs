//! The section `[ids]`. Plain data; docs/ids.md says what the numbers mean.

use serde::{Deserialize, Serialize};

/// `[ids]`: numbers of AUTOINCREMENT tables that no two nodes give.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdsSettings {
    /// Whether each node numbers new rows in blocks of its own.
    pub ranges: bool,
    /// The number of nodes that the cluster may ever have; the same on all of them.
    pub nodes: u32,
    /// Numbers in a block; the same on all nodes. A transaction must not insert more than half of
    /// it into one table.
    pub block: u32,
    /// This node's place among them, 1 to `nodes`; 0: its `node_id`.
    pub slot: u32,
}

impl Default for IdsSettings {
    fn default() -> Self {
        Self { ranges: false, nodes: 16, block: 1_000, slot: 0 }
    }
}
