//! What a start would find at the broker, for `harmonylite doctor`.
//!
//! Arrives: settings and a node's configuration. Leaves: findings. Owns: nothing is changed, and no
//! lease is taken.

use crate::clock;
use crate::model::config::NodeConfig;
use crate::model::ids::Site;
use crate::nats::{Examination, Finding, LinkError};
use crate::repair::lease::{Lease, LeaseStep};
use crate::settings::Settings;
use std::time::Duration;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BrokerFinding {
    /// A start would be refused.
    Refused(String),
    /// The node id is in use elsewhere.
    NodeIdInUse(String),
    /// A start would succeed, but the node would not replicate.
    Broken(String),
    /// A node would run, but not as people may expect.
    Warning(String),
    /// Information.
    Note(String),
}

/// Looks at the servers of `nats.urls`. Takes up to the time of a lease if another process holds
/// that of this node id.
pub(crate) async fn examine_broker(settings: &Settings, config: &NodeConfig) -> Vec<BrokerFinding> {
    let examination = Examination::new(settings, config.node).await;
    let mut found: Vec<BrokerFinding> = examination
        .findings
        .iter()
        .map(|finding| match finding.clone() {
            Finding::Problem(LinkError::Passing(text)) => BrokerFinding::Broken(text),
            Finding::Problem(LinkError::Lasting(text) | LinkError::Split(text)) => {
                BrokerFinding::Refused(text)
            }
            Finding::Warning(text) => BrokerFinding::Warning(text),
            Finding::Note(text) => BrokerFinding::Note(text),
        })
        .collect();
    found.extend(lease(&examination, config).await);
    found
}

/// Looks whether another process renews the lease, as a start does.
async fn lease(examination: &Examination, config: &NodeConfig) -> Option<BrokerFinding> {
    let mut lease = Lease::new(Site(0), &config.instance, &config.place, config.lease_ttl_ms);
    loop {
        let entry = examination.entry(&Lease::key(config.node)).await?;
        match lease.decide(Some(&entry), clock::mono_ms()) {
            LeaseStep::Put { .. } => return None,
            LeaseStep::RetryLater => {
                let wait_ms = (config.lease_ttl_ms / 4).max(1);
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            }
            LeaseStep::Refuse(holder) => {
                return Some(BrokerFinding::NodeIdInUse(format!(
                    "node id {} is in use by {}",
                    config.node, holder.place
                )));
            }
        }
    }
}
