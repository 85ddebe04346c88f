//! Answers other nodes that miss something, and takes their answers.
//!
//! Arrives: signals. Leaves: log entries that publish again what is asked for, and, once they are published, the word that they are.
//! Owns: an answer is given only when its rows are acknowledged. Memory only: who is not answered asks again.

use super::transact::Done;
use super::{Fatal, Inbound};
use crate::broker::{Broker, Request};
use crate::config::Now;
use crate::fold::log_end;
use crate::repair::{Signal, close_gap, republish};

/// A node that is not the origin answers a request for repair after so long, if nobody else did.
const ANSWER_DELAY_MS: u64 = 5_000;

/// A request of another node for repair.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    asker: u64,
    gap: i64,
    since_ms: i64,
    pub(super) due_ms: u64,
    /// The last log entry of the answer, once it is logged.
    pub(super) upto: Option<i64>,
}

impl<B: Broker> Inbound<B> {
    pub(super) fn signalled(&mut self, signal: Signal, now: Now) {
        match signal {
            Signal::Ask { asker, .. } if asker == self.config.node.0 => {}
            Signal::Ask { asker, gap, origin, since_ms } => {
                if self.config.publish && self.joined && !self.answers.iter().any(|a| (a.asker, a.gap) == (asker, gap)) {
                    let delay = if origin == self.config.node.0 { 0 } else { ANSWER_DELAY_MS + self.config.node.0 % 1_000 };
                    self.answers.push(Answer { asker, gap, since_ms, due_ms: now.mono_ms + delay, upto: None });
                }
            }
            Signal::Answered { asker, gap } => {
                self.answers.retain(|a| (a.asker, a.gap) != (asker, gap) || a.upto.is_some());
                if asker == self.config.node.0 {
                    self.answered_gaps.push(gap);
                }
            }
        }
    }

    pub(super) fn answer(&mut self, now: Now, done: &mut Done) -> Result<(), Fatal> {
        let answered: Vec<i64> = std::mem::take(&mut self.answered_gaps);
        for gap in &answered {
            close_gap(&self.db, *gap)?;
        }
        done.gaps_changed |= !answered.is_empty();
        for i in 0..self.answers.len() {
            if self.answers[i].upto.is_some() || now.mono_ms < self.answers[i].due_ms {
                continue;
            }
            let rows = republish(&self.db, &self.layout, self.answers[i].since_ms)?;
            self.stats.rows_republished += rows;
            tracing::info!(
                rows,
                asker = self.answers[i].asker,
                since_ms = self.answers[i].since_ms,
                "publishing again what another node misses"
            );
            done.logged_answers.push((i, log_end(&self.db)?));
            done.look = true;
        }
        Ok(())
    }

    /// Tells the askers whose rows are published by now.
    pub(super) fn send_answers(&mut self) {
        let published = self.absorb.published;
        for answer in self.answers.extract_if(.., |a| a.upto.is_some_and(|upto| upto <= published)).collect::<Vec<_>>() {
            let signal = Signal::Answered { asker: answer.asker, gap: answer.gap };
            self.broker.request(0, Request::Signal { payload: signal.encode().into() });
        }
    }
}
