//! Decides when a database has joined: everything that the streams held at its start is applied.
//!
//! Arrives: the ends of the streams at the check of a connection. Leaves: whether joining can end.
//! Owns: joining ends even if the last message was destroyed. Memory only: after a crash the next
//! connection gives the ends.

use super::durable::Durable;
use super::inbox::Inbox;
use crate::actor::Fatal;
use crate::capture::baseline;
use crate::db::layout::Layout;
use crate::model::config::{Now, OnJoin};
use crate::model::ids::{NodeId, StreamSeq};
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::verdict::BrokerAnswers;
use crate::store::{gaps, meta, origins, quarantine};
use rusqlite::Connection;
use std::collections::HashMap;

/// Joining ends after this time without any message. It is longer than the wait for an incomplete
/// batch.
const JOIN_IDLE_MS: u64 = 900_000;
/// The most rows to count for the message of a refusal.
const REFUSED_ROWS_MAX: i64 = 1_000;

/// The ends of the streams when this database came.
#[derive(Debug)]
pub(super) struct Join {
    replicates: bool,
    targets: HashMap<u32, StreamSeq>,
}

impl Join {
    /// Creates it with unknown ends.
    pub(super) fn new(replicates: bool) -> Self {
        Self { replicates, targets: HashMap::new() }
    }

    /// Takes the ends of the streams on a checked connection.
    pub(super) fn checked(&mut self, answered: &BrokerAnswers) {
        for (shard, state) in &answered.states {
            // A stream that was recreated, or that lost its tail, may never be as long again.
            let target = self.targets.entry(*shard).or_insert(state.last);
            *target = state.last.min(*target);
        }
    }

    /// Returns whether a position is after the end of its stream when this process came.
    pub(super) fn is_newer(&self, shard: u32, seq: StreamSeq) -> bool {
        self.targets.get(&shard).is_some_and(|end| seq > *end)
    }

    /// Returns whether the streams had a message when this process came.
    pub(super) fn found_messages(&self) -> bool {
        self.targets.values().any(|t| t.0 > 0)
    }

    /// Returns whether joining can end on a checked connection: everything up to the ends is
    /// applied. If no message arrives for a very long time, joining ends too, because the last
    /// message may have been destroyed. For `served` see [`Inbox::has_consumed_to`].
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

    /// Returns when joining ends although the ends of the streams were not reached, on the monotone
    /// clock.
    pub(super) fn deadline(inbox: &Inbox) -> u64 {
        inbox.delivered_ms.saturating_add(JOIN_IDLE_MS)
    }
}

/// Returns whether a joining database came before anybody had published.
fn is_first(db: &Connection) -> Result<bool, Fatal> {
    Ok(meta::get(db, meta::JOINS_FIRST)?.unwrap_or(false))
}

/// Returns whether other nodes had published something when this database came: it is here, or
/// messages are missing and the cluster has another member. What this node has published itself,
/// before it had joined, does not count. Without the data of another node nothing may be removed:
/// it could be the only copy.
///
/// # Errors
/// SQLite's error.
pub(super) fn has_others(
    db: &Connection,
    me: NodeId,
    durable: &Durable,
    other_members: bool,
) -> Result<bool, Fatal> {
    if planted(Bug::OwnDataReplaces) {
        return Ok(true);
    }
    let is_other = |node: &NodeId| *node != me;
    Ok(!is_first(db)?
        && (origins::newest_by_node(db)?.keys().any(is_other)
            || durable.held_origins().iter().any(is_other)
            || quarantine::nodes(db)?.iter().any(is_other)
            || (other_members && gaps::count(db)? > 0)))
}

/// Refuses to join if both sides have rows and `on_join = "refuse"`.
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
    if durable.joined || on_join != OnJoin::Refuse || !has_data || is_first(db)? {
        return Ok(());
    }
    match baseline::unversioned_rows(db, layout, REFUSED_ROWS_MAX)? {
        0 => Ok(()),
        rows => Err(Fatal::JoinRefused { rows }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::NodeConfig;
    use crate::store::test_database;

    /// Only what another node has published lets "replace" remove rows.
    #[test]
    fn own_messages_and_gaps_without_a_member_are_no_data_of_others() {
        let own = "INSERT INTO __harmonylite__origin (site, node, batch, created) VALUES (5, 1, 2, \
            3);";
        let other = "INSERT INTO __harmonylite__origin (site, node, batch, created) VALUES (6, 2, \
            2, 3);";
        let held = "INSERT INTO __harmonylite__held (node, shard, seq, reason, since) VALUES (2, \
            1, 4, 'x', 0);";
        let gap = "INSERT INTO __harmonylite__gap (shard, node, since, noticed, reason) VALUES \
            (1, 0, 0, 0, 'x');";
        let first = "INSERT INTO __harmonylite__meta (key, value) VALUES ('joins_first', 1);";
        for (stored, members, expected) in [
            (vec![], true, false),
            (vec![own], true, false),
            (vec![other], false, true),
            (vec![held], false, true),
            (vec![gap], false, false),
            (vec![gap], true, true),
            (vec![first, other, held, gap], true, false),
        ] {
            let db = test_database();
            db.execute_batch(&stored.concat()).unwrap();
            let durable = Durable::read(&db, &NodeConfig::for_tests(1)).unwrap();
            let found = has_others(&db, NodeId(1), &durable, members).unwrap();
            assert_eq!(found, expected, "{stored:?} {members}");
        }
    }
}
