//! Answers other nodes that miss messages.
//!
//! Arrives: questions on the signal subject. Leaves: the request to republish rows, and after their
//! publication the answer. Owns: an answer is sent only when its rows are acknowledged. It is
//! "whole" only if this node misses nothing and has applied everything up to the asker's position.
//! Memory only: a node without an answer repeats its question.

use super::signal::Signal;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::{NodeId, StreamSeq};
use std::collections::VecDeque;

/// A node that is not the origin answers after this wait, unless another node answered. If it
/// misses messages itself, it waits twice as long.
const ANSWER_DELAY_MS: u64 = 5_000;
/// The additional wait of a node that is not yet at the asker's position.
const UNREACHED_DELAY_MS: u64 = 20_000;
/// The number of remembered answers, so that a repeated question does not republish again.
const GIVEN_MAX: usize = 256;

/// The identity of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuestionId {
    /// The asking node.
    pub asker: u64,
    /// The asker's number of the gap.
    pub gap: i64,
    /// When the asker noticed the gap, unix milliseconds.
    pub noticed_ms: i64,
}

/// A question of another node.
#[derive(Clone, Copy, Debug)]
pub struct PeerQuestion {
    /// Its identity.
    pub id: QuestionId,
    /// The node whose batches are missing; 0: unknown.
    pub origin: u64,
    /// The stream.
    pub shard: u32,
    /// The position up to which the asker has consumed the stream.
    pub position: StreamSeq,
    /// The oldest requested row time, unix milliseconds.
    pub since_ms: i64,
}

#[derive(Clone, Debug)]
struct Answer {
    question: PeerQuestion,
    due_ms: u64,
    /// Set when the logging of its rows starts: whether this node missed nothing at that time.
    begun: Option<bool>,
    /// Set when its rows are logged.
    logged: Option<Logged>,
}

#[derive(Clone, Copy, Debug)]
struct Logged {
    /// The last log entry.
    end: i64,
    /// This node missed nothing, neither at the start nor at the end.
    whole: bool,
}

/// The progress of answers in a transaction. It counts after the commit.
#[derive(Debug, Default)]
pub struct AnswersDone {
    begun: Vec<(usize, bool)>,
    logged: Vec<(usize, Logged)>,
}

/// Questions that are answered together.
#[derive(Debug)]
pub struct Answerable {
    /// The oldest row time to republish, unix milliseconds.
    pub since_ms: i64,
    /// The asking nodes.
    pub askers: Vec<u64>,
    which: Vec<usize>,
}

/// The questions of other nodes, and the given answers.
#[derive(Debug)]
pub struct Answers {
    me: NodeId,
    replicates: bool,
    waiting: Vec<Answer>,
    given: VecDeque<(QuestionId, bool)>,
}

impl Answers {
    /// Creates it without questions.
    pub fn new(config: &NodeConfig) -> Self {
        Self {
            me: config.node,
            replicates: config.replicate,
            waiting: Vec::new(),
            given: VecDeque::new(),
        }
    }

    /// Returns whether no question waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns whether answers wait for the publication of their rows.
    pub fn await_publication(&self) -> bool {
        self.waiting.iter().any(|answer| answer.logged.is_some())
    }

    /// Forgets all questions, because the stream has to be checked again. The askers repeat them.
    pub fn forget(&mut self) {
        self.waiting.clear();
        self.given.clear();
    }

    /// Takes a question. `misses` tells whether this node misses messages of that stream itself.
    /// Returns an answer that was already given, because it may have been lost.
    pub fn receive(&mut self, question: PeerQuestion, misses: bool, now: Now) -> Option<Signal> {
        let id = question.id;
        if let Some(known) = self.waiting.iter_mut().find(|a| a.question.id == id) {
            // If the stream was recreated since, its positions started again.
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

    /// Notes the answer of another node. A whole answer replaces ours, unless ours has started.
    pub fn answered_by_another(&mut self, id: QuestionId, whole: bool) {
        self.waiting.retain(|a| !whole || a.question.id != id || a.begun.is_some());
    }

    /// Returns when an answer can start. A node that is not yet at the asker's position waits
    /// longer, but not without end, because the messages between may have expired.
    fn due_ms(&self, answer: &Answer, reached: &impl Fn(u32, StreamSeq) -> bool) -> u64 {
        if answer.begun.is_some() {
            return u64::MAX;
        }
        let waits = self.replicates && !reached(answer.question.shard, answer.question.position);
        answer.due_ms + if waits { UNREACHED_DELAY_MS } else { 0 }
    }

    /// Returns when the next answer can start, on the monotone clock. `reached` returns whether a
    /// stream is applied up to a position.
    pub fn deadline(&self, reached: impl Fn(u32, StreamSeq) -> bool) -> u64 {
        self.waiting.iter().map(|a| self.due_ms(a, &reached)).min().unwrap_or(u64::MAX)
    }

    /// Returns the questions that can be answered now or soon, so that rows are republished once
    /// for all of them.
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

    /// Notes that the logging of their rows starts. `whole` returns whether this node misses
    /// nothing of a stream.
    ///
    /// # Errors
    /// The errors of `whole`.
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

    /// Notes that the rows of the started answers are logged, up to the log entry `end`.
    ///
    /// # Errors
    /// The errors of `whole`.
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

    /// Takes over the progress after the commit. Returns the answers whose rows are published, up
    /// to log entry `published`.
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
