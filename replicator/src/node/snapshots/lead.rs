//! Holds the lease of the node that takes the snapshots, and reads what the leader reports.
//!
//! Arrives: this node's status, the registry entries. Leaves: whether this process leads. Owns: a
//! node that is behind does not lead, and a leader that stops or is killed is replaced within
//! `snapshot.leader_ttl`.

use super::Shared;
use crate::broker::{BrokerError, KvEntry, Reply, Request};
use crate::clock;
use crate::model::status::{SnapshotsStatus, Status};
use crate::snapshots::leader::{LEADER_KEY, Leader};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// The key of the leader's report in the registry bucket.
const STATE_KEY: &str = "snapshot-state";
/// A node that is further behind does not lead.
const LAG_MS_MAX: i64 = 10_000;

/// The lease lives for two thirds of `leader_ttl` and is looked at six times in it, so that a
/// leader that was killed is replaced before `leader_ttl` is over.
pub(super) fn lease_ms(leader_ttl_ms: u64) -> u64 {
    leader_ttl_ms / 3 * 2
}

/// The leader's report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Report {
    place: String,
    saved: String,
    saved_ms: i64,
    verified: String,
    verified_ms: i64,
    checked_ms: i64,
}

impl Report {
    fn of(seen: &SnapshotsStatus) -> Self {
        let SnapshotsStatus { place, saved, verified, .. } = seen.clone();
        let (saved_ms, verified_ms, checked_ms) =
            (seen.saved_ms, seen.verified_ms, seen.checked_ms);
        Self { place, saved, saved_ms, verified, verified_ms, checked_ms }
    }

    fn show(self, seen: &mut SnapshotsStatus) {
        let Self { place, saved, saved_ms, verified, verified_ms, checked_ms } = self;
        (seen.place, seen.saved, seen.saved_ms) = (place, saved, saved_ms);
        (seen.verified, seen.verified_ms, seen.checked_ms) = (verified, verified_ms, checked_ms);
    }
}

/// Looks at the lease again and again.
pub(super) async fn lead(shared: Arc<Shared>) {
    let ttl_ms = shared.sources.settings.snapshot.leader_ttl;
    loop {
        let looked = look(&shared).await;
        let leads = shared.leadership.lock().leads(clock::mono_ms());
        if shared.leads.send_replace(leads) != leads {
            tracing::info!(leads, "this node takes the snapshots of the cluster, or no longer");
        }
        shared.seen.send_modify(|seen| {
            seen.leads = leads;
            if let Ok(leader) = looked {
                seen.leader = leader;
            }
        });
        tokio::time::sleep(Duration::from_millis((ttl_ms / 6).max(50))).await;
    }
}

/// Reads the lease and the report, and takes the lease if that is right. Returns the leader.
async fn look(shared: &Arc<Shared>) -> Result<u64, BrokerError> {
    let me = shared.sources.node.0;
    let entry = get(shared, LEADER_KEY).await?;
    let sources = Arc::clone(&shared.sources);
    // The task fails only by a panic; then this node is not fit.
    let status = tokio::task::spawn_blocking(move || sources.status()).await.unwrap_or_default();
    if !is_fit(&status) {
        if shared.leadership.lock().leads(clock::mono_ms()) {
            release(shared).await?;
            return Ok(0);
        }
        take_report(shared).await?;
        return Ok(Leader::read(entry.as_ref()).node);
    }
    let asked_ms = clock::mono_ms();
    let claim = shared.leadership.lock().claim(entry.as_ref(), asked_ms);
    let Some(expected) = claim else {
        take_report(shared).await?;
        return Ok(Leader::read(entry.as_ref()).node);
    };
    let led = shared.leadership.lock().leads(asked_ms);
    let (value, ttl_ms) =
        (shared.leadership.lock().value(), lease_ms(shared.sources.settings.snapshot.leader_ttl));
    let written = put(shared, LEADER_KEY, value, Some(expected), Some(ttl_ms)).await?;
    shared.leadership.lock().written(written, asked_ms);
    if !led {
        take_report(shared).await?;
    }
    Ok(me)
}

/// Whether snapshots of this node's database are what the cluster needs.
pub(super) fn is_fit(status: &Status) -> bool {
    let is_near = |lag_ms: Option<i64>| lag_ms.is_some_and(|lag_ms| lag_ms <= LAG_MS_MAX);
    status.broker.linked
        && status.joined
        && status.publish
        && status.replicate
        && status.open_gaps == 0
        && is_near(status.lag_ms())
}

async fn take_report(shared: &Shared) -> Result<(), BrokerError> {
    let Some(entry) = get(shared, STATE_KEY).await? else { return Ok(()) };
    // A report that cannot be read is from another version.
    if let Ok(report) = serde_json::from_slice::<Report>(&entry.value) {
        shared.seen.send_modify(|seen| report.show(seen));
    }
    Ok(())
}

/// Reports to the other nodes what this leader has saved and verified.
pub(super) async fn report(shared: &Shared) {
    let value = serde_json::to_vec(&Report::of(&shared.seen.borrow())).unwrap_or_default();
    if let Err(error) = put(shared, STATE_KEY, value, None, None).await {
        tracing::debug!(%error, "the other nodes do not learn of the snapshot yet");
    }
}

/// Frees the lease, if this process holds it.
pub(super) async fn release(shared: &Shared) -> Result<(), BrokerError> {
    let held = shared.leadership.lock().release();
    if let Some((value, revision)) = held {
        put(shared, LEADER_KEY, value, Some(revision), None).await?;
    }
    Ok(())
}

pub(super) async fn get(shared: &Shared, key: &str) -> Result<Option<KvEntry>, BrokerError> {
    match shared.asker.ask(Request::KvGet { key: key.to_owned() }).await? {
        Reply::Kv(entry) => Ok(entry),
        _ => Err(BrokerError::Unreachable("another answer".to_owned())),
    }
}

pub(super) async fn put(
    shared: &Shared,
    key: &str,
    value: Vec<u8>,
    expected: Option<u64>,
    ttl_ms: Option<u64>,
) -> Result<u64, BrokerError> {
    let request = Request::KvPut { key: key.to_owned(), value: value.into(), expected, ttl_ms };
    match shared.asker.ask(request).await? {
        Reply::KvPut(revision) => Ok(revision),
        _ => Err(BrokerError::Unreachable("another answer".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::status::{BrokerStatus, StreamStatus};

    #[test]
    fn a_node_that_is_behind_does_not_lead() {
        let stream = |lag_ms| StreamStatus { lag_ms, ..StreamStatus::default() };
        let fit = Status {
            broker: BrokerStatus { linked: true, ..BrokerStatus::default() },
            joined: true,
            publish: true,
            replicate: true,
            streams: vec![stream(Some(0)), stream(Some(LAG_MS_MAX))],
            ..Status::default()
        };
        assert!(is_fit(&fit));
        let unfit: [fn(&mut Status); 6] = [
            |s| s.broker.linked = false,
            |s| s.joined = false,
            |s| s.publish = false,
            |s| s.open_gaps = 1,
            |s| s.streams[0].lag_ms = None,
            |s| s.streams[1].lag_ms = Some(LAG_MS_MAX + 1),
        ];
        for change in unfit {
            let mut status = fit.clone();
            change(&mut status);
            assert!(!is_fit(&status), "{status:?}");
        }
    }

    #[test]
    fn a_killed_leader_is_replaced_in_time() {
        for ttl_ms in [1_000, 3_000, 30_000] {
            assert!(lease_ms(ttl_ms) + ttl_ms / 6 < ttl_ms);
        }
    }
}
