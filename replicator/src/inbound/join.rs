//! When a database has joined: everything the streams held when it came is applied.
//!
//! Arrives: the streams' ends at the check of a connection. Leaves: whether joining can end. Owns:
//! joining ends even if the last message was destroyed. Only memory: after a crash the ends are
//! those of the next connection.

use super::durable::Durable;
use super::inbox::Inbox;
use crate::actor::Fatal;
use crate::capture::baseline;
use crate::db::layout::Layout;
use crate::model::config::{Now, OnJoin};
use crate::model::ids::StreamSeq;
use crate::repair::verdict::BrokerAnswers;
use rusqlite::Connection;
use std::collections::HashMap;

/// Joining ends after this long without any message: longer than an incomplete batch is waited for.
const JOIN_IDLE_MS: u64 = 900_000;
/// Rows counted for the message of a refusal, at most.
const REFUSED_ROWS_MAX: i64 = 1_000;

/// Where the streams ended when this database came.
#[derive(Debug)]
pub(super) struct Join {
    replicates: bool,
    targets: HashMap<u32, StreamSeq>,
}

impl Join {
    /// The ends are not known yet.
    pub(super) fn new(replicates: bool) -> Self {
        Self { replicates, targets: HashMap::new() }
    }

    /// A checked connection shows where the streams end now.
    pub(super) fn checked(&mut self, answered: &BrokerAnswers) {
        for (shard, state) in &answered.states {
            // A stream that was made again, or that lost its tail, may never again be as long.
            let target = self.targets.entry(*shard).or_insert(state.last);
            *target = state.last.min(*target);
        }
    }

    /// Whether the cluster had data when this database came.
    pub(super) fn found_data(&self) -> bool {
        self.targets.values().any(|t| t.0 > 0)
    }

    /// Whether joining can end on a checked connection: everything is applied that was there. If
    /// nothing comes for very long, nothing is there: the last message may have been destroyed.
    /// `served`: see [`Inbox::has_consumed_to`].
    pub(super) fn is_complete(
        &self,
        durable: &Durable,
        inbox: &Inbox,
        served: &[usize],
        now: Now,
    ) -> bool {
        let target = |shard| self.targets.get(&shard).map(|t| t.0);
        !durable.joined
            && !durable.republish.is_joining()
            && (!self.replicates
                || now.mono_ms >= Self::deadline(inbox)
                || inbox.has_consumed_to(target, served))
    }

    /// When joining ends although the streams' ends were not seen, on the monotone clock.
    pub(super) fn deadline(inbox: &Inbox) -> u64 {
        inbox.delivered_ms.saturating_add(JOIN_IDLE_MS)
    }
}

/// `on_join = "refuse"`: the node does not join if both sides have rows.
///
/// # Errors
/// [`Fatal::JoinRefused`]; SQLite's error.
pub(super) fn refuse_join(
    db: &Connection,
    layout: &Layout,
    on_join: OnJoin,
    durable: &Durable,
    answered: &BrokerAnswers,
) -> Result<(), Fatal> {
    let has_data = answered.states.values().any(|s| s.last.0 > 0);
    if durable.joined || on_join != OnJoin::Refuse || !has_data {
        return Ok(());
    }
    match baseline::unversioned_rows(db, layout, REFUSED_ROWS_MAX)? {
        0 => Ok(()),
        rows => Err(Fatal::JoinRefused { rows }),
    }
}
