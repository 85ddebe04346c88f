//! Answers other nodes that miss messages.
//!
//! Arrives: questions on the signal subject, and what the other nodes do about them. Leaves: the
//! request to republish rows, an announcement, and after their publication the answer. Owns: an
//! answer is sent only when its rows are acknowledged. It is "whole" only if this node misses
//! nothing and has applied everything up to the asker's position. The nodes take turns, in the
//! order of the members and seconds apart; while the rows of one that answers arrive, others wait.
//! Anybody on the account can send a question, so their number and that of the republications is
//! bounded. Memory only: a node without an answer repeats its question.

use super::signal::Signal;
use crate::model::config::{NodeConfig, Now};
use crate::model::ids::{NodeId, StreamSeq};
use std::collections::VecDeque;

/// A node that is not the origin answers after this wait, unless another node answered. If it
/// misses messages itself, it waits twice as long.
const ANSWER_DELAY_MS: u64 = 5_000;
/// The additional wait of a node that is not yet at the asker's position.
const UNREACHED_DELAY_MS: u64 = 20_000;
/// The turns of two nodes are this far apart.
const TURN_MS: u64 = 2_000;
/// Nodes beyond this turn answer together.
const TURNS_MAX: u64 = 30;
/// A node that announced its answer counts as answering for this time after its last message.
const ANNOUNCED_MS: u64 = 30_000;
/// Whatever was announced, the others wait no longer than this.
const DEFERRED_MS_MAX: u64 = 3_600_000;
/// After a republication for other nodes the next one waits.
const REST_MS: u64 = 10_000;
/// The most waiting questions, and those of one asker about one stream (it has a gap for each
/// origin). An asker without a place repeats its question.
const WAITING_MAX: usize = 64;
const WAITING_PER_STREAM_MAX: usize = 8;
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

impl QuestionId {
    /// Returns whether this is the same gap, before more was found missing.
    fn is_earlier_of(self, other: Self) -> bool {
        (self.asker, self.gap) == (other.asker, other.gap) && self.noticed_ms < other.noticed_ms
    }
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
    received_ms: u64,
    /// The time until this node's turn, milliseconds.
    turn_ms: u64,
    /// The node that announced a whole answer.
    announced_by: Option<u64>,
    /// Set when the logging of its rows starts: whether this node missed nothing at that time.
    begun: Option<bool>,
    /// Set when its rows are logged.
    logged: Option<Logged>,
}

impl Answer {
    /// Postpones this answer, for as long as the rows of the announced one may come.
    fn wait_for_rows(&mut self, now: Now) {
        let last_ms = self.received_ms + DEFERRED_MS_MAX;
        let due_ms = (now.mono_ms + ANNOUNCED_MS + self.turn_ms).min(last_ms);
        self.due_ms = self.due_ms.max(due_ms);
    }
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
    /// No republication starts before this time, on the monotone clock.
    rests_until_ms: u64,
    given: VecDeque<(QuestionId, bool)>,
}

impl Answers {
    /// Creates it without questions.
    pub fn new(config: &NodeConfig) -> Self {
        Self {
            me: config.node,
            replicates: config.replicate,
            waiting: Vec::new(),
            rests_until_ms: 0,
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

    /// Takes a question. `misses` tells whether this node misses messages of that stream itself,
    /// `turn` how many members come before this one. Returns an answer that was already given,
    /// because it may have been lost.
    pub fn receive(
        &mut self,
        question: PeerQuestion,
        misses: bool,
        turn: u64,
        now: Now,
    ) -> Option<Signal> {
        let id = question.id;
        if let Some(known) = self.waiting.iter_mut().find(|a| a.question.id == id) {
            // If the stream was recreated since, its positions started again.
            if known.begun.is_none() {
                known.question.position = question.position;
            }
            return None;
        }
        if let Some((_, whole)) = self.given.iter().find(|(given, _)| *given == id)
            && (*whole || misses)
        {
            return Some(self.signal(id, *whole));
        }
        let turn_ms = turn.min(TURNS_MAX) * TURN_MS;
        let delay = ANSWER_DELAY_MS * if misses { 2 } else { 1 } + turn_ms;
        let answer = Answer {
            question,
            due_ms: now.mono_ms + if question.origin == self.me.0 { 0 } else { delay },
            received_ms: now.mono_ms,
            turn_ms,
            announced_by: None,
            begun: None,
            logged: None,
        };
        // The asker has found more missing: its earlier question about this gap is void.
        let same_gap = |a: &&mut Answer| a.question.id.is_earlier_of(id) && a.begun.is_none();
        if let Some(earlier) = self.waiting.iter_mut().find(same_gap) {
            *earlier = answer;
        } else if self.has_place(&question) {
            self.waiting.push(answer);
        }
        None
    }

    fn has_place(&self, question: &PeerQuestion) -> bool {
        let same = |a: &&Answer| {
            a.question.id.asker == question.id.asker && a.question.shard == question.shard
        };
        self.waiting.len() < WAITING_MAX
            && self.waiting.iter().filter(same).count() < WAITING_PER_STREAM_MAX
    }

    /// Notes the answer of another node. A whole answer replaces ours, unless ours has started.
    pub fn answered_by_another(&mut self, id: QuestionId, whole: bool) {
        self.waiting.retain(|a| !whole || a.question.id != id || a.begun.is_some());
    }

    /// Notes that another node begins to answer. If it misses nothing, ours waits for its rows.
    pub fn announced(&mut self, id: QuestionId, by: u64, whole: bool, now: Now) {
        for answer in self.waiting.iter_mut().filter(|a| whole && a.question.id == id) {
            answer.announced_by = Some(by);
            answer.wait_for_rows(now);
        }
    }

    /// Notes a message of a node in a stream: if it answers, ours waits on.
    pub fn saw_message(&mut self, node: NodeId, now: Now) {
        for answer in self.waiting.iter_mut().filter(|a| a.announced_by == Some(node.0)) {
            answer.wait_for_rows(now);
        }
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
        let due = self.waiting.iter().map(|a| self.due_ms(a, &reached)).min();
        due.map_or(u64::MAX, |due_ms| due_ms.max(self.rests_until_ms))
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

    /// Takes over the progress after the commit. Returns the announcements of started answers, and
    /// the answers whose rows are published, up to log entry `published`.
    pub fn committed(&mut self, done: AnswersDone, published: i64, now: Now) -> Vec<Signal> {
        let mut signals = Vec::new();
        if !done.begun.is_empty() {
            self.rests_until_ms = now.mono_ms + REST_MS;
        }
        for (i, whole) in done.begun {
            self.waiting[i].begun = Some(whole);
            let QuestionId { asker, gap, noticed_ms } = self.waiting[i].question.id;
            signals.push(Signal::Answering { asker, gap, noticed_ms, by: self.me.0, whole });
        }
        for (i, logged) in done.logged {
            self.waiting[i].logged = Some(logged);
        }
        let is_out = |a: &mut Answer| a.logged.is_some_and(|logged| logged.end <= published);
        let out: Vec<Answer> = self.waiting.extract_if(.., is_out).collect();
        signals.extend(out.into_iter().map(|answer| self.give(&answer)));
        signals
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
