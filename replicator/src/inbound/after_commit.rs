//! What a transaction leaves to do for the components, the log and outbound.
//!
//! Arrives: the work of a transaction, piece by piece. Leaves: the consequences, which are carried
//! out only after its commit. A crash before that leaves nothing to do: the next start reads the
//! database.

use super::clocks::Stamped;
use super::from_snapshot::Merged;
use super::inbox::Served;
use super::schema::Adopted;
use crate::model::ids::NodeId;
use crate::repair::answers::AnswersDone;
use crate::repair::gaps::Need;
use crate::repair::refetch::Refetching;

/// The work that remains after the commit of a transaction.
#[derive(Debug, Default)]
pub(super) struct AfterCommit {
    /// The processed part of the inbox.
    pub(super) served: Served,
    /// The schema changed, so the transaction did nothing.
    pub(super) schema_moved: bool,
    /// Outbound has entries to collect.
    pub(super) look: bool,
    /// The numbers of the log continue after others than outbound has read.
    pub(super) log_replaced: bool,
    /// The verdict on the connection is carried out.
    pub(super) connection_passes: bool,
    /// A new incarnation has begun.
    pub(super) new_incarnation: bool,
    /// The noted gaps: their streams, and what is missing.
    pub(super) gaps: Vec<(u32, Need)>,
    /// The number of closed gaps.
    pub(super) ended_gaps: usize,
    /// The progress of answers.
    pub(super) answers: AnswersDone,
    /// Origins with superseded batches about which the other nodes are now asked.
    pub(super) superseded_asked: Vec<NodeId>,
    /// The steps about retried batches that failed, by their numbers in quarantine.
    pub(super) refetching: Vec<(i64, Refetching)>,
    /// Origins of applied batches, and when the batches were made.
    pub(super) seen_origins: Vec<(NodeId, i64)>,
    /// Tables with changed rows with NULL in the key.
    pub(super) null_key_tables: Vec<String>,
    /// Tables in which this node or another has a row under the key of another row.
    pub(super) inserted_twice: Vec<String>,
    /// Tables whose rows have taken all ids that this node may give.
    pub(super) without_ids: Vec<String>,
    /// The schema as changed for a batch, and the changes.
    pub(super) adopted: Vec<Adopted>,
    /// A batch brought an index, a view or a trigger that could not be made.
    pub(super) unmade: bool,
    /// Whether one is left after an attempt to make them; None: there was none.
    pub(super) unmade_tried: Option<bool>,
    /// The times of applied batches.
    pub(super) stamped: Vec<Stamped>,
    /// A message found no room in quarantine, so its origin is held.
    pub(super) quarantine_full: bool,
    /// What was done with the rows of a snapshot.
    pub(super) merged: Option<Merged>,
    /// Released origins, by stream. They are stored at the end of the transaction.
    pub(super) released: Vec<(u32, NodeId)>,
}
