//! Answers other nodes that miss something.
//!
//! Arrives: questions on the signal subject. Leaves: the wish to republish, and, once the rows are
//! published, the answer, with whether this node missed nothing itself. Owns: an answer leaves only
//! when its rows are acknowledged, and is "whole" only if everything up to the asker's position is
//! applied here. Memory only: who gets no answer asks again.

use super::signal::Signal;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::{NodeId, StreamSeq};
use std::collections::VecDeque;

/// A node that is not the origin answers after this, if nobody else did; one that misses something
/// itself after twice that.
const ANSWER_DELAY_MS: u64 = 5_000;
/// A node that has not come as far as the asker answers this much later.
const UNREACHED_DELAY_MS: u64 = 20_000;
/// Questions remembered, so that one that comes twice is republished for once.
const GIVEN_MAX: usize = 256;

/// Whose question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuestionId {
    /// The node that asks.
    pub asker: u64,
    /// Its number of the gap.
    pub gap: i64,
    /// When it noticed the gap, unix milliseconds.
    pub noticed_ms: i64,
}

/// A question of another node, as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct PeerQuestion {
    /// Whose.
    pub id: QuestionId,
    /// The node whose batches are missing; 0: unknown.
    pub origin: u64,
    /// The stream.
    pub shard: u32,
    /// How far the asker has consumed the stream.
    pub position: StreamSeq,
    /// Rows from this time on are wanted, unix milliseconds.
    pub since_ms: i64,
}

#[derive(Clone, Debug)]
struct Answer {
    question: PeerQuestion,
    due_ms: u64,
    /// Once its rows are being logged: whether this node missed nothing then.
    begun: Option<bool>,
    /// Once they are logged.
    logged: Option<Logged>,
}

#[derive(Clone, Copy, Debug)]
struct Logged {
    /// The last log entry.
    end: i64,
    /// This node missed nothing, neither then nor now.
    whole: bool,
}

/// What a transaction did about answers; it counts once the transaction is committed.
#[derive(Debug, Default)]
pub struct AnswersDone {
    begun: Vec<(usize, bool)>,
    logged: Vec<(usize, Logged)>,
}

/// The questions that can be answered together.
#[derive(Debug)]
pub struct Answerable {
    /// Rows from this time on are to be republished, unix milliseconds.
    pub since_ms: i64,
    /// Who asks.
    pub askers: Vec<u64>,
    which: Vec<usize>,
}

/// Questions of other nodes.
#[derive(Debug)]
pub struct Answers {
    me: NodeId,
    replicates: bool,
    waiting: Vec<Answer>,
    given: VecDeque<(QuestionId, bool)>,
}

impl Answers {
    /// No question yet.
    pub fn new(config: &NodeConfig) -> Self {
        Self {
            me: config.node,
            replicates: config.replicate,
            waiting: Vec::new(),
            given: VecDeque::new(),
        }
    }

    /// Whether no question waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets all questions: they were about a stream that has to be checked again. Who misses
    /// something asks again.
    pub fn forget(&mut self) {
        self.waiting.clear();
        self.given.clear();
    }

    /// Takes a question in. `misses`: this node misses something of that stream itself. Returns
    /// the answer if it was given before: it may have been lost.
    pub fn receive(&mut self, question: PeerQuestion, misses: bool, now: Now) -> Option<Signal> {
        let id = question.id;
        if let Some(known) = self.waiting.iter_mut().find(|a| a.question.id == id) {
            // The stream may have begun again since, and with it the positions.
            if known.begun.is_none() {
                known.question.position = question.position;
            }
            return None;
        }
        match self.given.iter().find(|(given, _)| *given == id) {
            Some((_, whole)) if *whole || misses => Some(self.signal(id, *whole)),
            _ => {
                let delay = ANSWER_DELAY_MS * if misses { 2 } else { 1 } + self.me.0 % 1_000;
                let due_ms = now.mono_ms + if question.origin == self.me.0 { 0 } else { delay };
                self.waiting.push(Answer { question, due_ms, begun: None, logged: None });
                None
            }
        }
    }

    /// Another node has answered; a whole answer makes ours needless unless it is begun.
    pub fn answered_by_another(&mut self, id: QuestionId, whole: bool) {
        self.waiting.retain(|a| !whole || a.question.id != id || a.begun.is_some());
    }

    /// When an answer can be begun. A node that has not come as far as the asker waits for that,
    /// but not for ever: the messages between may have expired.
    fn due_ms(&self, answer: &Answer, reached: &impl Fn(u32, StreamSeq) -> bool) -> u64 {
        if answer.begun.is_some() {
            return u64::MAX;
        }
        let waits = self.replicates && !reached(answer.question.shard, answer.question.position);
        answer.due_ms + if waits { UNREACHED_DELAY_MS } else { 0 }
    }

    /// When the next answer can be begun, on the monotone clock. `reached`: whether a stream is
    /// applied up to a position.
    pub fn deadline(&self, reached: impl Fn(u32, StreamSeq) -> bool) -> u64 {
        self.waiting.iter().map(|a| self.due_ms(a, &reached)).min().unwrap_or(u64::MAX)
    }

    /// The questions that are due, and those that soon will be: rows are republished once for all.
    pub fn answerable(
        &self,
        now: Now,
        reached: impl Fn(u32, StreamSeq) -> bool,
    ) -> Option<Answerable> {
        if now.mono_ms < self.deadline(&reached) {
            return None;
        }
        let soon_ms = now.mono_ms + 3 * ANSWER_DELAY_MS;
        let is_near = |i: &usize| self.due_ms(&self.waiting[*i], &reached) <= soon_ms;
        let which: Vec<usize> = (0..self.waiting.len()).filter(is_near).collect();
        let question = || which.iter().map(|i| &self.waiting[*i].question);
        Some(Answerable {
            since_ms: question().map(|a| a.since_ms).min().unwrap_or(0),
            askers: question().map(|a| a.id.asker).collect(),
            which,
        })
    }

    /// Their rows are being logged from now on. `whole`: whether this node misses nothing of a
    /// stream.
    ///
    /// # Errors
    /// Those of `whole`.
    pub fn begin<E>(
        &self,
        answerable: Answerable,
        reached: impl Fn(u32, StreamSeq) -> bool,
        whole: impl Fn(u32) -> Result<bool, E>,
        done: &mut AnswersDone,
    ) -> Result<(), E> {
        for i in answerable.which {
            let PeerQuestion { shard, position, .. } = self.waiting[i].question;
            done.begun.push((i, reached(shard, position) && whole(shard)?));
        }
        Ok(())
    }

    /// The rows of the answers that were begun are logged, up to `end`.
    ///
    /// # Errors
    /// Those of `whole`.
    pub fn logged<E>(
        &self,
        end: i64,
        whole: impl Fn(u32) -> Result<bool, E>,
        done: &mut AnswersDone,
    ) -> Result<(), E> {
        for (i, answer) in self.waiting.iter().enumerate() {
            if let (Some(begun), None) = (answer.begun, answer.logged) {
                let whole = begun && whole(answer.question.shard)?;
                done.logged.push((i, Logged { end, whole }));
            }
        }
        Ok(())
    }

    /// After the commit. Returns the answers whose rows are published, up to log entry `published`.
    pub fn committed(&mut self, done: AnswersDone, published: i64) -> Vec<Signal> {
        for (i, whole) in done.begun {
            self.waiting[i].begun = Some(whole);
        }
        for (i, logged) in done.logged {
            self.waiting[i].logged = Some(logged);
        }
        let is_out = |a: &mut Answer| a.logged.is_some_and(|logged| logged.end <= published);
        let out: Vec<Answer> = self.waiting.extract_if(.., is_out).collect();
        out.into_iter().map(|answer| self.give(&answer)).collect()
    }

    fn give(&mut self, answer: &Answer) -> Signal {
        let (id, whole) = (answer.question.id, answer.logged.is_some_and(|l| l.whole));
        self.given.retain(|(given, _)| *given != id);
        self.given.push_back((id, whole));
        if self.given.len() > GIVEN_MAX {
            self.given.pop_front();
        }
        self.signal(id, whole)
    }

    fn signal(&self, QuestionId { asker, gap, noticed_ms }: QuestionId, whole: bool) -> Signal {
        Signal::Answered { asker, gap, noticed_ms, by: self.me.0, whole }
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
