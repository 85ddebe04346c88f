//! Publishes this node's schema objects in the registry, for `harmonylite schema diff` on the other
//! nodes (FORMAT.md), and reads theirs.
//!
//! Arrives: the database, and news of a schema change or of a connection. Leaves: the entry
//! `schema-<id>`, written when the schema has changed and at each connection. Reads the database
//! only; a crash here loses nothing, because the next start writes the entry again.

use super::report::StatusSources;
use crate::broker::{BrokerError, Reply, Request};
use crate::clock;
use crate::db::objects::Objects;
use crate::db::published_objects::Published;
use crate::model::table_filter::TableFilter;
use crate::nats::Asker;
use std::sync::Arc;
use std::time::Duration;

/// The schema is looked at this often, for views and triggers, whose change nothing reports.
const INTERVAL: Duration = Duration::from_secs(5);

fn key(node: u64) -> String {
    format!("schema-{node}")
}

/// Publishes until the task is aborted or the writer is gone.
pub(super) async fn publish_schema(asker: Asker, sources: Arc<StatusSources>, filter: TableFilter) {
    let (mut writer, mut link) = (sources.writer.clone(), sources.link.clone());
    // The connection and the schema version that the entry was written for.
    let mut written = None;
    loop {
        let layout = Arc::clone(&writer.borrow_and_update().layout);
        let state = link.borrow_and_update().clone();
        if state.connected {
            let known =
                written.and_then(|(link, version)| (link == state.since_ms).then_some(version));
            match publish(&asker, &sources, &filter, known).await {
                Ok(version) => written = Some((state.since_ms, version)),
                Err(error) => tracing::debug!(error, "cannot publish the schema; trying again"),
            }
        }
        let connected = state.connected;
        tokio::select! {
            changed = writer.wait_for(|s| !Arc::ptr_eq(&s.layout, &layout)) => {
                if changed.is_err() {
                    return;
                }
            }
            changed = link.wait_for(|s| s.connected != connected) => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Writes the entry, unless it is that of this schema version. Returns the present one.
async fn publish(
    asker: &Asker,
    sources: &Arc<StatusSources>,
    filter: &TableFilter,
    known: Option<i64>,
) -> Result<i64, String> {
    let (from, filter) = (Arc::clone(sources), filter.clone());
    let read = tokio::task::spawn_blocking(move || read(&from, &filter, known)).await;
    let (version, entry) = read.map_err(|error| error.to_string())??;
    if let Some(entry) = entry {
        let node = sources.node.0;
        let put = Request::KvPut {
            key: key(node),
            value: entry.encode()?.into(),
            expected: None,
            ttl_ms: None,
        };
        asker.ask(put).await.map_err(|error| error.to_string())?;
    }
    Ok(version)
}

fn read(
    sources: &StatusSources,
    filter: &TableFilter,
    known: Option<i64>,
) -> Result<(i64, Option<Published>), String> {
    let held = sources.db.lock();
    let db = held.as_ref().ok_or("the database was replaced")?;
    let read = || -> rusqlite::Result<(i64, Option<Published>)> {
        let snapshot = db.unchecked_transaction()?;
        let version = snapshot.query_row("PRAGMA main.schema_version", [], |row| row.get(0))?;
        if known == Some(version) {
            return Ok((version, None));
        }
        let objects = Objects::read(&snapshot, filter)?;
        let local = objects.local_tables(&snapshot)?;
        let entry = Published::new(sources.node.0, clock::unix_ms(), objects, local);
        Ok((version, Some(entry)))
    };
    read().map_err(|error| error.to_string())
}

/// What another node has published; None if it never did.
///
/// # Errors
/// The broker's error, or what is wrong with the entry.
pub(super) async fn fetch(asker: &Asker, node: u64) -> Result<Option<Published>, FetchError> {
    let Reply::Kv(Some(entry)) = asker.ask(Request::KvGet { key: key(node) }).await? else {
        return Ok(None);
    };
    let published =
        Published::decode(&entry.value).map_err(|reason| FetchError::Entry { node, reason })?;
    if published.node_id != node {
        return Err(FetchError::Entry { node, reason: "it is that of another node".to_owned() });
    }
    Ok(Some(published))
}

/// Why the schema of another node is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The broker's error.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The entry is invalid.
    #[error("the schema that node {node} has published is invalid: {reason}")]
    Entry {
        /// The node.
        node: u64,
        /// Why.
        reason: String,
    },
}
