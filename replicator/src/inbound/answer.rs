//! Answers other nodes that miss something.
//!
//! Arrives: questions on the signal subject. Leaves: log entries that publish again what this node
//! has, and, once they are published, the word that they are, and whether this node missed nothing
//! itself. Owns: an answer is given only when its rows are acknowledged, and "whole" only if
//! everything up to the asker's position is applied here. Memory only: who is not answered asks
//! again.

use super::link::Link;
use super::transact::Done;
use super::{Fatal, Inbound};
use crate::broker::{Broker, Request};
use crate::capture::fold::log_end;
use crate::model::config::Now;
use crate::model::ids::StreamSeq;
use crate::repair::evidence::{Signal, close_gap};
use std::collections::VecDeque;

/// A node that is not the origin answers after so long, if nobody else did; one that misses
/// something itself after twice that.
const ANSWER_DELAY_MS: u64 = 5_000;
/// A node that has not come as far as the asker answers so much later.
const UNREACHED_DELAY_MS: u64 = 20_000;
/// Questions remembered, so that the same one twice is not published for twice.
const GIVEN_MAX: usize = 256;

/// Whose question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    asker: u64,
    gap: i64,
    noticed_ms: i64,
}

/// A question of another node.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    asked: Asked,
    shard: u32,
    /// How far the asker had consumed the stream.
    position: StreamSeq,
    since_ms: i64,
    due_ms: u64,
    /// Once its rows are being logged: whether this node missed nothing then.
    begun: Option<bool>,
    /// Once they are logged: the last log entry, and whether this node missed nothing, neither then
    /// nor now.
    logged: Option<(i64, bool)>,
}

/// Questions of other nodes.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: Vec<Answer>,
    given: VecDeque<(Asked, bool)>,
}

impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What was to be said was about a stream that has to be checked again: who misses something
    /// asks again.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.given.clear();
    }
}

impl<B: Broker> Inbound<B> {
    pub(super) fn signalled(&mut self, signal: Signal, now: Now) {
        match signal {
            Signal::Ask { asker, .. } if asker == self.config.node.0 => {}
            Signal::Ask { asker, gap, noticed_ms, origin, shard, upto, since_ms } => {
                let asked = Asked { asker, gap, noticed_ms };
                // The asker knows of those on the roll only, and the roll may have been lost.
                self.ask_roll();
                if !self.config.publish || !self.joined || shard == 0 || shard > self.config.shards
                {
                    return;
                }
                if let Some(known) = self.answers.waiting.iter_mut().find(|a| a.asked == asked) {
                    // The stream may have begun anew since, and with it the positions.
                    if known.begun.is_none() {
                        known.position = StreamSeq(upto);
                    }
                    return;
                }
                let misses =
                    !self.config.replicate || self.gaps.open.iter().any(|g| g.shard == shard);
                match self.answers.given.iter().find(|(given, _)| *given == asked).copied() {
                    // The word of it may have been lost.
                    Some((_, whole)) if whole || misses => self.send_answer(asked, whole),
                    _ => {
                        let delay = ANSWER_DELAY_MS * if misses { 2 } else { 1 }
                            + self.config.node.0 % 1_000;
                        let due_ms =
                            now.mono_ms + if origin == self.config.node.0 { 0 } else { delay };
                        self.answers.waiting.push(Answer {
                            asked,
                            shard,
                            position: StreamSeq(upto),
                            since_ms,
                            due_ms,
                            begun: None,
                            logged: None,
                        });
                    }
                }
            }
            Signal::Answered { asker, gap, noticed_ms, by, whole } => {
                let asked = Asked { asker, gap, noticed_ms };
                self.answers.waiting.retain(|a| !whole || a.asked != asked || a.begun.is_some());
                if asker == self.config.node.0 {
                    self.gap_answered((gap, noticed_ms), by, whole);
                }
            }
        }
    }

    /// Whether this node has come as far in the stream as the asker.
    fn has_reached(&self, answer: &Answer) -> bool {
        self.streams.iter().any(|s| s.shard == answer.shard && s.cursor.seq() >= answer.position)
    }

    /// When the answer can be begun. A node that has not come as far as the asker waits for that,
    /// but not for ever: what lies between may have expired.
    fn due_ms(&self, answer: &Answer) -> u64 {
        if !matches!(self.link, Link::Up) || answer.begun.is_some() {
            return u64::MAX;
        }
        let waits = self.config.replicate && !self.has_reached(answer);
        answer.due_ms + if waits { UNREACHED_DELAY_MS } else { 0 }
    }

    pub(super) fn answer_is_due(&self, now: Now) -> bool {
        now.mono_ms >= self.answer_deadline()
    }

    pub(super) fn answer_deadline(&self) -> u64 {
        if self.relogs.again.is_some() {
            // A question that comes while rows are logged needs those that were logged before it
            // too.
            return u64::MAX;
        }
        self.answers.waiting.iter().map(|a| self.due_ms(a)).min().unwrap_or(u64::MAX)
    }

    /// Ends own gaps that are answered, and publishes again what others miss: once for all who
    /// wait.
    pub(super) fn answer(&mut self, now: Now, done: &mut Done) -> Result<(), Fatal> {
        for key in &self.gaps.ended {
            close_gap(&self.db, *key)?;
        }
        done.ended_gaps = self.gaps.ended.len();
        done.gaps_changed |= !self.gaps.ended.is_empty();
        if !self.answer_is_due(now) {
            return Ok(());
        }
        // Those that are due, and those that soon will be.
        let is_near = |a: &Answer| self.due_ms(a) <= now.mono_ms + 3 * ANSWER_DELAY_MS;
        let answerable: Vec<usize> = (0..self.answers.waiting.len())
            .filter(|i| is_near(&self.answers.waiting[*i]))
            .collect();
        let since_ms =
            answerable.iter().map(|i| self.answers.waiting[*i].since_ms).min().unwrap_or(0);
        self.publish_again(since_ms, done)?;
        let askers: Vec<u64> =
            answerable.iter().map(|i| self.answers.waiting[*i].asked.asker).collect();
        tracing::info!(
            ?askers,
            since_ms,
            "other nodes miss something; publishing again what this one has"
        );
        for i in answerable {
            let answer = &self.answers.waiting[i];
            done.begun_answers.push((i, self.has_reached(answer) && self.is_whole(answer.shard)?));
        }
        Ok(())
    }

    /// The rows of the answers that were begun are logged.
    pub(super) fn answers_logged(&self, done: &mut Done) -> Result<(), Fatal> {
        let end = log_end(&self.db)?;
        for (i, answer) in self.answers.waiting.iter().enumerate() {
            if let (Some(begun), None) = (answer.begun, answer.logged) {
                done.logged_answers.push((i, (end, begun && self.is_whole(answer.shard)?)));
            }
        }
        Ok(())
    }

    /// Whether everything that this stream had for this node, up to its cursor, is applied.
    fn is_whole(&self, shard: u32) -> Result<bool, Fatal> {
        let nothing_missing: bool = self
            .db
            .prepare_cached(
                "SELECT NOT EXISTS (SELECT 1 FROM main.__harmonylite__gap WHERE shard = ?1)
                 AND NOT EXISTS (SELECT 1 FROM main.__harmonylite__held WHERE shard = ?1)
                 AND NOT EXISTS (SELECT 1 FROM main.__harmonylite__quarantine WHERE shard = ?1)",
            )?
            .query_row([shard], |r| r.get(0))?;
        Ok(nothing_missing && self.config.replicate)
    }

    /// After the commit.
    pub(super) fn answers_committed(
        &mut self,
        begun: Vec<(usize, bool)>,
        logged: Vec<(usize, (i64, bool))>,
    ) {
        for (i, whole) in begun {
            self.answers.waiting[i].begun = Some(whole);
        }
        for (i, what) in logged {
            self.answers.waiting[i].logged = Some(what);
        }
    }

    /// Tells the askers whose rows are published by now.
    pub(super) fn send_answers(&mut self) {
        let published = self.absorb.published;
        let is_out = |a: &mut Answer| a.logged.is_some_and(|(end, _)| end <= published);
        for answer in self.answers.waiting.extract_if(.., is_out).collect::<Vec<_>>() {
            let whole = answer.logged.is_some_and(|(_, whole)| whole);
            self.answers.given.retain(|(asked, _)| *asked != answer.asked);
            self.answers.given.push_back((answer.asked, whole));
            if self.answers.given.len() > GIVEN_MAX {
                self.answers.given.pop_front();
            }
            self.send_answer(answer.asked, whole);
        }
    }

    fn send_answer(&mut self, asked: Asked, whole: bool) {
        let Asked { asker, gap, noticed_ms } = asked;
        let signal = Signal::Answered { asker, gap, noticed_ms, by: self.config.node.0, whole };
        self.broker.request(0, Request::Signal { payload: signal.encode().into() });
    }
}
