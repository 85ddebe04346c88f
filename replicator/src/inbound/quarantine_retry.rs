//! Retries the batches in quarantine that people asked for.
//!
//! Arrives: the numbers of batches, inside the write transaction. Leaves: their rows, or the reason
//! why they still cannot be applied, and what was asked of their origin. The transaction decides
//! what a crash leaves.

use super::apply_batch::{Outcome, Sender, Source, apply_body};
use super::batch_body::BatchBody;
use super::process::{Processing, note_gap};
use crate::actor::Fatal;
use crate::model::ids::NodeId;
use crate::model::planted_bugs::{Bug, planted};
use crate::repair::gaps::Need;
use crate::repair::refetch::{OriginSchema, Refetching, Retry};
use crate::store::gaps;
use crate::store::quarantine::LOOKING_UP;
use crate::store::quarantine::{self, Entry};
use crate::wire::spill::Spill;

/// Damaged bytes can be a batch too, with other values.
const NOT_AS_SENT: &str =
    "the bytes are not surely those that were sent, so they are never applied";

/// Returns the reason of an entry with such bytes: why it is in quarantine, and that.
fn not_as_sent(reason: &str) -> String {
    let why = reason.split(NOT_AS_SENT).next().unwrap_or_default().trim_end_matches("; ");
    format!("{why}; {NOT_AS_SENT}")
}

impl Processing<'_, '_> {
    /// Retries the batches. What fails for the first time has the schema of its origin looked up;
    /// then the retry comes here again.
    pub(super) fn retry_quarantine(&mut self, retries: &[Retry]) -> Result<(), Fatal> {
        for retry in retries {
            let Some(mut entry) = quarantine::load(self.tx.db, retry.id)? else { continue };
            if !entry.is_as_sent() && !planted(Bug::RetryDamaged) {
                self.failed_again(&entry, &not_as_sent(&entry.reason), &retry.origin)?;
                continue;
            }
            let (node, site, batch) = (entry.node, entry.site, entry.batch);
            let sender = Some(Sender { node, site, batch });
            let body = BatchBody::new(Spill::from_bytes(std::mem::take(&mut entry.body)));
            // When the message was stored is not known any more.
            let source = Source { sender, broker_ms: self.tx.now.unix_ms };
            match apply_body(self.tx, self.unpacker, &body, source)? {
                Outcome::Applied { applied, brought, .. } => {
                    let (id, rows) = (retry.id, applied.taken);
                    self.take_schema(brought);
                    tracing::info!(id, rows, "applied a batch from quarantine");
                    self.count(&applied);
                    self.tx.after.look |= applied.compensated > 0;
                    quarantine::remove(self.tx.db, id)?;
                }
                Outcome::Held { reason, .. } | Outcome::Quarantine(reason) => {
                    self.failed_again(&entry, &reason, &retry.origin)?;
                }
            }
        }
        self.tx.after.served.retries = retries.len();
        Ok(())
    }

    fn failed_again(
        &mut self,
        entry: &Entry,
        reason: &str,
        origin: &OriginSchema,
    ) -> Result<(), Fatal> {
        let what_next = self.ask_origin(entry, origin)?;
        let (id, reason) = (entry.id, format!("{reason}; {what_next}"));
        tracing::warn!(id, reason, "a batch in quarantine still cannot be applied");
        Ok(quarantine::set_reason(self.tx.db, id, &reason)?)
    }

    /// Asks the origin for its rows if they would fit; the other nodes, if this node made them
    /// itself and has lost them since. Returns what was done, for people.
    fn ask_origin(&mut self, entry: &Entry, origin: &OriginSchema) -> Result<String, Fatal> {
        let node = entry.node;
        if node.0 == 0 {
            return Ok("no node is known to have its rows, so none was asked".to_owned());
        }
        Ok(match origin {
            OriginSchema::Asked => "its rows were asked for and have not come yet; once they are \
                                    republished, this entry is dropped"
                .to_owned(),
            _ if node == self.tx.config.node => {
                self.ask(entry, NodeId(0))?;
                "the other nodes were asked for the rows of this node; once they are republished, \
                 this entry is dropped"
                    .to_owned()
            }
            OriginSchema::NotRead => {
                self.tx.after.refetching.push((entry.id, Refetching::Read(node)));
                format!("{LOOKING_UP} of node {node}")
            }
            OriginSchema::Ours => {
                self.ask(entry, node)?;
                format!(
                    "node {node}, whose schema is that of this node, was asked for its rows; once \
                    they are republished, this entry is dropped"
                )
            }
            OriginSchema::Differs(tables) if tables.is_empty() => format!(
                "node {node} was not asked for its rows, because its schema is another one: make \
                the schemas equal (`harmonylite schema diff {node}`), then retry"
            ),
            OriginSchema::Differs(tables) => format!(
                "node {node} was not asked for its rows, because its schema is another one (table \
                {}): make the schemas equal (`harmonylite schema diff {node}`), then retry",
                tables.join(", ")
            ),
            OriginSchema::Missing => format!(
                "node {node} was not asked for its rows, because it has no entry in the registry \
                that shows its schema: retry when it has run again, or drop this entry"
            ),
        })
    }

    /// Asks for the rows of an entry by a gap.
    fn ask(&mut self, entry: &Entry, origin: NodeId) -> Result<(), Fatal> {
        let (shard, node, batch) = (entry.shard, entry.node, entry.batch);
        let why = format!("node {node}: batch {batch} in quarantine cannot be applied");
        let need = Need::Messages(self.tx.durable.position(shard));
        note_gap(self.tx, shard, origin, &why, need)?;
        let open = gaps::list(self.tx.db)?;
        let key = open.iter().find(|gap| gap.shard == shard).map(gaps::Gap::key);
        self.tx.after.refetching.extend(key.map(|key| (entry.id, Refetching::Asked(key))));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_the_damage_however_often_it_is_retried() {
        let first = not_as_sent("cut short; 3 bytes");
        assert_eq!(first, format!("cut short; 3 bytes; {NOT_AS_SENT}"));
        assert_eq!(not_as_sent(&format!("{first}; node 2 was asked for its rows")), first);
    }
}
