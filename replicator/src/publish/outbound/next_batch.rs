//! Collects the next batch, inside one read transaction.
//!
//! Arrives: a wake. Leaves: a batch in flight, or an acknowledgement of entries that need none.
//! Owns: the layout that is read fits the schema of the same transaction. A crash loses nothing.

use super::{HEADER_BYTES, InFlight, Outbound, Output, REFUSED_RETRY_MS, State};
use crate::actor::{Ack, Fatal, Step};
use crate::broker::Broker;
use crate::capture::fold::FoldFrom;
use crate::capture::install;
use crate::db::connection;
use crate::model::action::Action;
use crate::model::config::Now;
use crate::model::ids::{BatchNo, Hlc};
use crate::publish::collect::{CollectError, CollectFrom, collect};
use crate::store::change_log::{self, log_end};
use crate::store::meta::Meta;
use crate::store::sites::own_sites;

const OVERSIZED_HINT: &str = "the stream drops its beginning before its end is stored, so other \
    nodes have to ask for these rows, and messages of all nodes are dropped with it; raise \
    replication_log.max_bytes and max_entries on all nodes, or change fewer rows in a transaction";

impl<B: Broker> Outbound<B> {
    /// Collects what is pending, and begins to send it.
    pub(super) fn collect(&mut self, now: Now) -> Result<Step, Fatal> {
        self.look = false;
        self.stats.scans += 1;
        connection::run(&self.db, "BEGIN")?;
        let result = self.collect_inside(now);
        connection::run(&self.db, "COMMIT")?;
        match result {
            Ok(found) => {
                if found && self.in_flight.is_some() {
                    self.send()?;
                }
                Ok(if found { Step::Worked } else { Step::Idle })
            }
            Err(CollectError::Database(error)) if error.action() == Action::Retry => {
                self.look = true;
                Ok(Step::Busy)
            }
            Err(CollectError::Database(error)) => Err(Fatal::of(&self.db, error)),
            Err(CollectError::Encode(error)) => {
                let dir = self.config.spill_dir.display();
                self.cannot_send(format!("cannot build a batch in {dir}: {error}"), now);
                Ok(Step::Idle)
            }
            Err(error @ CollectError::TooFarAhead { .. }) => {
                self.cannot_send(error.to_string(), now);
                Ok(Step::Idle)
            }
            Err(error @ CollectError::RowTooLarge { .. }) => {
                Err(Fatal::RowTooLarge(error.to_string()))
            }
        }
    }

    /// Keeps the changes, and tries again later.
    fn cannot_send(&mut self, refusal: String, now: Now) {
        if self.refusal.as_ref() != Some(&refusal) {
            tracing::error!("{refusal}; retrying");
        }
        self.refusal = Some(refusal);
        self.look = true;
        self.state = State::RetryAt(now.mono_ms + REFUSED_RETRY_MS);
    }

    /// Returns the greatest time of a version that the other nodes accept now.
    fn hlc_max(&self, now: Now) -> Hlc {
        self.broker_clock.map_or(Hlc::FOREIGN_MAX, |clock| Hlc::newest_at(clock.at(now)))
    }

    fn collect_inside(&mut self, now: Now) -> Result<bool, CollectError> {
        let version = install::schema_version(&self.db)?;
        if self.layout.as_ref().is_none_or(|l| l.schema_version != version) {
            self.layout = install::load(&self.db, &self.config.filter)?;
        }
        let Some(layout) = &self.layout else {
            // Inbound reinstalls the triggers, and then sends [`Effect::Look`].
            self.outputs.push(Output::Wake);
            return Ok(false);
        };
        let meta = Meta::read(&self.db)?;
        if meta.site != self.site {
            return Ok(false);
        }
        let end = log_end(&self.db)?;
        if end < self.sent {
            // Somebody emptied the log, or restored a backup. Inbound looks which of the two, and
            // lets the numbers continue.
            self.outputs.push(Output::Wake);
            return Ok(false);
        }
        if self.own_sites.is_empty() {
            self.own_sites = own_sites(&self.db)?;
        }
        let fold = FoldFrom {
            site: self.site,
            own_sites: &self.own_sites,
            absorbed: meta.absorbed,
            sent: self.sent,
            upto: end,
        };
        self.unabsorbed.advance(&self.db, layout, &meta, &fold)?;
        let from = CollectFrom {
            node: self.config.node,
            fold,
            base: self.unabsorbed.rows(),
            previous: self.batch,
            now_ms: now.unix_ms,
            entries_max: self.config.limits.batch_entries_max,
            hlc_max: self.hlc_max(now),
        };
        let Some(collected) = collect(&self.db, layout, &from, &mut self.encoder)? else {
            return Ok(false);
        };
        self.unabsorbed.keep(collected.folded, collected.upto);
        self.stats.split += u64::from(collected.split);
        let ack = Ack {
            batch: self.batch,
            upto: collected.upto,
            mark: change_log::mark(&self.db, collected.upto)?,
            seq: None,
            lowest_ms: collected.lowest_ms,
            digests: collected.digests,
        };
        match collected.batch {
            None => {
                self.sent = collected.upto;
                self.outputs.push(Output::Acknowledged(ack));
                self.look |= collected.more;
            }
            Some((header, encoded)) => {
                self.compare_with_stream(header.number, encoded.body.len());
                let part_bytes_max = self
                    .config
                    .limits
                    .part_bytes_max
                    .min(self.broker.max_payload_bytes().saturating_sub(HEADER_BYTES))
                    .max(1);
                let ack = Ack { batch: header.number, ..ack };
                self.in_flight = Some(InFlight {
                    header,
                    encoded,
                    part: 1,
                    part_bytes_max,
                    rows: collected.rows,
                    ack,
                    more: collected.more,
                });
            }
        }
        Ok(true)
    }

    /// Reports a batch that the stream cannot hold as a whole. It is published nevertheless: nodes
    /// that read at this moment get it, and the others ask for its rows, which then come in small
    /// batches.
    fn compare_with_stream(&mut self, batch: BatchNo, bytes: u64) {
        let holds = self.config.stream_bytes_max;
        if bytes <= holds {
            return;
        }
        tracing::error!(
            batch = batch.0,
            bytes,
            holds,
            "a batch is larger than the stream holds: {OVERSIZED_HINT}"
        );
        self.oversized = Some(format!(
            "a batch is larger than the stream holds: this node's batch {batch} has {bytes} bytes, \
            and a stream holds {holds}; {OVERSIZED_HINT}"
        ));
    }
}
