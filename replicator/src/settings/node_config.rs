//! Builds the stages' configuration from the settings.

use super::check::globs;
use super::identity::{machine_id, random};
use super::{IdsSettings, Settings, SettingsError};
use crate::model::config::{NodeConfig, SchemaMode};
use crate::model::id_ranges::IdRanges;
use crate::model::ids::NodeId;
use crate::model::limits::Limits;
use crate::model::table_filter::{TableFilter, names_tables};
use std::path::{Path, PathBuf};

/// How long a lease is valid without renewal: short enough to replace a dead node, long enough for
/// a busy one.
const LEASE_TTL_MS: u64 = 10_000;

/// Why a node's configuration cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum NodeConfigError {
    /// The database's path leads nowhere.
    #[error("cannot find the database {path}: {error}")]
    Path {
        /// As configured.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The settings are invalid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No random number for the instance.
    #[error(transparent)]
    Random(#[from] super::identity::NoRandom),
}

impl Settings {
    /// Returns the filter of replicated tables.
    ///
    /// # Errors
    /// [`SettingsError::Value`] for an invalid pattern; never after [`Settings::load`].
    pub fn table_filter(&self) -> Result<TableFilter, SettingsError> {
        let wrong = |(key, reason): (&str, String)| SettingsError::Value {
            path: "settings".into(),
            key: key.to_owned(),
            reason,
        };
        Ok(TableFilter {
            include: globs("tables.include", &self.tables.include, |_| true).map_err(wrong)?,
            exclude: globs("tables.exclude", &self.tables.exclude, |_| true).map_err(wrong)?,
            named: globs("tables.include", &self.tables.include, names_tables).map_err(wrong)?,
            migrations_travel: self.schema.replicate != SchemaMode::Off,
            without_key: self.tables.without_key,
        })
    }

    /// Returns the ids that this node may give; None without `ids.ranges`.
    fn id_ranges(&self, node: NodeId) -> Result<Option<IdRanges>, NodeConfigError> {
        let IdsSettings { ranges, nodes, block, slot } = self.ids;
        if !ranges {
            return Ok(None);
        }
        let slot = if slot == 0 { node.0 } else { u64::from(slot) };
        if !(1..=u64::from(nodes)).contains(&slot) {
            return Err(NodeConfigError::Settings(SettingsError::Value {
                path: "settings".into(),
                key: "ids.slot".to_owned(),
                reason: format!(
                    "is not set, and node_id {node} is not 1 to ids.nodes ({nodes}): give each \
                    node its own number of these"
                ),
            }));
        }
        let slot = i64::try_from(slot - 1).unwrap_or(0);
        Ok(Some(IdRanges { slot, nodes: nodes.into(), block: block.into() }))
    }

    /// Returns the stages' configuration of a node. The database must exist.
    ///
    /// # Errors
    /// [`NodeConfigError`].
    pub fn node_config(&self, node: NodeId) -> Result<NodeConfig, NodeConfigError> {
        let path = self
            .db_path
            .canonicalize()
            .map_err(|error| NodeConfigError::Path { path: self.db_path.clone(), error })?;
        let machine = machine_id().unwrap_or_else(|| "unknown machine".to_owned());
        Ok(NodeConfig {
            node,
            shards: self.replication_log.shards,
            stream_bytes_max: self.replication_log.stream_bytes_max(),
            filter: self.table_filter()?,
            schema_mode: self.schema.replicate,
            publish: self.publish,
            replicate: self.replicate,
            on_join: self.on_join,
            version_retention_ms: signed(self.version_retention.as_ms()),
            max_clock_drift_ms: signed(self.max_clock_drift.as_ms()),
            spill_dir: path.parent().unwrap_or(Path::new("/")).to_owned(),
            lease_ttl_ms: LEASE_TTL_MS,
            instance: format!("{:016x}", random()?),
            // Containers of one image share the machine's id and the path, but not the host's name.
            place: format!(
                "{machine}:{}:{}",
                rustix::system::uname().nodename().to_string_lossy(),
                path.display()
            ),
            politeness_ms: self.politeness,
            id_ranges: self.id_ranges(node)?,
            gaps_from_snapshots: self.snapshot.enabled,
            limits: Limits::default(),
            path,
        })
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_a_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("app.db");
        let mut settings = Settings { db_path: db.clone(), ..Settings::default() };
        assert!(matches!(settings.node_config(NodeId(1)), Err(NodeConfigError::Path { .. })));
        std::fs::write(&db, "").unwrap();
        settings.tables.exclude = vec!["tmp_*".into()];
        let (a, b) =
            (settings.node_config(NodeId(3)).unwrap(), settings.node_config(NodeId(3)).unwrap());
        assert_eq!(
            (a.node, a.version_retention_ms, a.max_clock_drift_ms),
            (NodeId(3), 30 * 86_400_000, 60_000)
        );
        assert!(a.filter.exclude.is_match("tmp_1") && !a.filter.exclude.is_match("users"));
        assert_eq!(a.spill_dir, dir.path().canonicalize().unwrap());
        assert!(a.place == b.place && a.place.ends_with("/app.db"));
        assert_ne!(a.instance, b.instance, "each start is another instance");
        settings.tables.include = vec!["*".into(), "django_*".into()];
        let filter = settings.table_filter().unwrap();
        assert!(filter.named.is_match("django_migrations") && !filter.named.is_match("users"));
        settings.ids.ranges = true;
        let slot =
            |s: &Settings, node| s.node_config(NodeId(node)).map(|c| c.id_ranges.unwrap().slot);
        assert_eq!(slot(&settings, 16).unwrap(), 15);
        let refused = slot(&settings, 17).unwrap_err().to_string();
        assert!(refused.contains("ids.slot") && refused.contains("node_id 17"), "{refused}");
        settings.ids.slot = 2;
        assert_eq!(slot(&settings, 17).unwrap(), 1);
        settings.tables.include = vec!["a[".into()];
        assert!(matches!(settings.node_config(NodeId(3)), Err(NodeConfigError::Settings(_))));
    }
}
