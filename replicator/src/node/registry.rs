//! Reads the registry entries of all nodes (FORMAT.md).
//!
//! Arrives: the connection. Leaves: one JSON object per node. Reads only.

use crate::broker::{BrokerError, Reply, Request};
use crate::nats::Asker;
use serde_json::{Value, json};

/// The entries of all nodes by node id. An unreadable entry becomes `{"node_id": ..}`.
///
/// # Errors
/// [`BrokerError`] if the broker does not answer.
pub(super) async fn read(asker: &Asker) -> Result<Vec<Value>, BrokerError> {
    let mut entries = Vec::new();
    for id in asker.registered().await? {
        let Reply::Kv(entry) = asker.ask(Request::KvGet { key: format!("node-{id}") }).await?
        else {
            continue;
        };
        let entry = entry.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
        entries.push(
            entry
                .filter(|value| value["node_id"] == id)
                .unwrap_or_else(|| json!({ "node_id": id })),
        );
    }
    Ok(entries)
}
