//! Goes on after somebody emptied the change log, which only this program may change.
//!
//! Arrives: a transaction that has just begun. Leaves: a log whose numbers continue, and the order
//! to find and publish what its entries were about. Owns: a backup that was restored is not taken
//! for it. Both lack entries that are published. But a backup has the last entry that the log had
//! at our last transaction, because only we remove entries; and one from before that transaction
//! has another number of transactions. All of it is part of the transaction.

use super::durable::Durable;
use super::transaction::Transaction;
use crate::actor::{Ack, Fatal};
use crate::capture::compare::Compare;
use crate::db::connection::DatabaseError;
use crate::store::change_log::{self, log_end};
use crate::store::comparisons::{self, Comparison, Kind};
use crate::store::meta::{self, Meta};
use crate::store::schema_changes;
use rusqlite::Connection;

/// Numbers that are left out, so that none is used twice: the log had entries that this actor has
/// not seen, and outbound may have them in flight.
const LEFT_OUT: i64 = 1 << 32;

/// Returns whether somebody emptied the log since our last transaction, also if it has grown again.
///
/// # Errors
/// SQLite's error.
pub(super) fn is_emptied(db: &Connection, durable: &Durable) -> Result<bool, DatabaseError> {
    let Some(last) = durable.log_end else { return Ok(log_end(db)? < durable.absorb.published) };
    // A process that has just started knows only how far the log has to go.
    Ok(last.id < durable.absorb.published || change_log::mark(db, last.id)? != Some(last))
}

impl Transaction<'_> {
    /// Goes on if somebody emptied the log. Every table is compared, because changes that were
    /// logged and not absorbed left no other trace; what was absorbed and not published is
    /// published again with all other rows.
    ///
    /// # Errors
    /// [`Fatal::Restored`] if the database is another one; SQLite's error.
    pub(super) fn follow_emptied_log(&mut self, acks: &[Ack]) -> Result<(), Fatal> {
        if !is_emptied(self.db, &self.durable)? {
            return Ok(());
        }
        let stored = Meta::read(self.db)?;
        let (absorbed, published) = (self.durable.absorb.absorbed, self.durable.absorb.published);
        let marks = (self.durable.site(), self.durable.batch, absorbed, published);
        if (stored.site, stored.batch, stored.absorbed, stored.published) != marks {
            return Err(Fatal::Restored);
        }
        tracing::error!(
            "somebody emptied __harmonylite__change_log, which only this program may change; every \
            table is compared now, and what has changed is published"
        );
        let sent = acks.last().map_or(published, |ack| ack.upto.max(published));
        let known = absorbed.max(self.durable.log_end.map_or(0, |last| last.id));
        let was_sent = known <= sent;
        let schema_was_sent = schema_changes::after(self.db, sent)?.is_empty();
        self.continue_log_after(known.max(sent).max(log_end(self.db)?) + LEFT_OUT)?;
        if !schema_was_sent {
            schema_changes::send_again(self.db, self.now.unix_ms)?;
        }
        if !was_sent {
            self.durable.republish.begin(self.db, 0)?;
        }
        self.durable.republish.log_emptied();
        self.compare_every_table()
    }

    /// Gives an empty log an entry, so that it can be seen when somebody empties it.
    ///
    /// # Errors
    /// SQLite's error.
    pub(super) fn begin_log(&mut self) -> Result<(), Fatal> {
        if log_end(self.db)? > 0 {
            return Ok(());
        }
        let absorb = &self.durable.absorb;
        self.continue_log_after(absorb.absorbed.max(absorb.published) + 1)
    }

    fn continue_log_after(&mut self, last: i64) -> Result<(), Fatal> {
        change_log::continue_after(self.db, last)?;
        (self.durable.absorb.absorbed, self.durable.absorb.published) = (last, last);
        meta::set(self.db, meta::ABSORBED, last)?;
        meta::set(self.db, meta::PUBLISHED, last)?;
        self.after.log_replaced = true;
        Ok(())
    }

    fn compare_every_table(&mut self) -> Result<(), Fatal> {
        for table in &self.layout.tables {
            let comparison = Comparison {
                table_id: table.id,
                time_ms: self.now.unix_ms,
                kind: Kind::Compare,
                new_from: u32::MAX,
                logged_upto: 0,
            };
            comparisons::note(self.db, comparison)?;
        }
        self.durable.compare = Compare::read(self.db)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "emptied_log_tests.rs"]
mod tests;
