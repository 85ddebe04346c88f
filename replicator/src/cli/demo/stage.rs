//! The stage: nodes, writers, observers, the screen, and the duration of each scene.

use super::interrupt::Interrupt;
use super::nodes::Node;
use super::observe::Observer;
use super::table::{Frame, Line, Screen};
use super::traffic::Traffic;
use crate::clock;
use crate::model::status::Status;
use anyhow::{Result, bail};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(200);
/// The number of ticks over which rates are averaged.
const RATE_TICKS: usize = 5;

/// All participants. Fields drop in this order: writers stop before nodes are killed.
pub(super) struct Stage {
    pub(super) traffic: Option<Traffic>,
    pub(super) observers: Vec<Observer>,
    pub(super) nodes: Vec<Node>,
    pub(super) states: Vec<&'static str>,
    pub(super) screen: Screen,
    pub(super) interrupt: Interrupt,
    pub(super) began_ms: u64,
    pub(super) length_ms: u64,
    history: VecDeque<(u64, Vec<(u64, u64)>)>,
}

impl Stage {
    pub(super) fn new(nodes: Vec<Node>, interrupt: Interrupt, length_ms: u64) -> Result<Self> {
        let observers =
            nodes.iter().map(|node| Observer::start(node.db.clone())).collect::<Result<_>>()?;
        Ok(Self {
            traffic: None,
            observers,
            states: vec!["starting"; nodes.len()],
            nodes,
            screen: Screen::new(),
            interrupt,
            began_ms: clock::mono_ms(),
            length_ms,
            history: VecDeque::new(),
        })
    }

    /// Adds a node that runs and has its database file.
    pub(super) fn add(&mut self, node: Node) -> Result<()> {
        self.observers.push(Observer::start(node.db.clone())?);
        self.states.push("starting");
        self.nodes.push(node);
        Ok(())
    }

    /// Shows the scene for a duration.
    pub(super) fn play(&mut self, phase: &str, ms: u64) -> Result<()> {
        let ends = clock::mono_ms() + ms;
        while clock::mono_ms() < ends {
            self.tick(phase)?;
        }
        Ok(())
    }

    /// Shows the scene until a condition holds; fails after `ms`.
    pub(super) fn until(
        &mut self,
        phase: &str,
        ms: u64,
        mut is_true: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let ends = clock::mono_ms() + ms;
        while !is_true(self) {
            if clock::mono_ms() > ends {
                let words: String = self
                    .nodes
                    .iter()
                    .map(|n| format!("the end of the log of node {}:\n{}", n.id, n.last_words()))
                    .collect();
                bail!("{phase}: still not after {} s\n{words}", ms / 1_000);
            }
            self.tick(phase)?;
        }
        Ok(())
    }

    fn tick(&mut self, phase: &str) -> Result<()> {
        self.interrupt.pause(TICK)?;
        self.nodes.iter_mut().try_for_each(Node::check)?;
        if let Some(traffic) = &self.traffic {
            traffic.check()?;
        }
        let frame = self.frame(phase);
        self.screen.show(&frame);
        Ok(())
    }

    fn frame(&mut self, phase: &str) -> Frame {
        let now = clock::mono_ms();
        let looks: Vec<_> = self.observers.iter().map(Observer::look).collect();
        let received =
            |status: &Status| status.counters.rows_applied + status.counters.rows_skipped;
        let written = |i: usize| {
            self.traffic.as_ref().and_then(|t| t.tallies.get(i)).map_or(0, |t| t.rows.load(Relaxed))
        };
        let counts: Vec<_> = looks
            .iter()
            .enumerate()
            .map(|(i, look)| (written(i), look.status.as_ref().map_or(0, received)))
            .collect();
        self.history.push_back((now, counts.clone()));
        if self.history.len() > RATE_TICKS + 1 {
            self.history.pop_front();
        }
        let (then, before) = self.history.front().cloned().unwrap_or_default();
        // A restarted node counts from 0, so there is no rate for a moment.
        let rate = |now_count: u64, count: u64| {
            now_count.saturating_sub(count) * 1_000 / (now - then).max(1)
        };
        let lines = looks.into_iter().enumerate().map(|(i, look)| {
            let (count, old) = (
                counts.get(i).copied().unwrap_or_default(),
                before.get(i).copied().unwrap_or_default(),
            );
            let received = if old.1 == 0 { 0 } else { rate(count.1, old.1) };
            Line {
                id: i as u64 + 1,
                state: self.states.get(i).copied().unwrap_or(""),
                look,
                rates: (rate(count.0, old.0), received),
            }
        });
        let elapsed_ms = now - self.began_ms;
        let progress = elapsed_ms as f64 / self.length_ms.max(1) as f64;
        Frame { elapsed_ms, progress, phase: phase.to_owned(), lines: lines.collect() }
    }

    /// Sets the state that the table shows for node `i + 1`.
    pub(super) fn state(&mut self, i: usize, state: &'static str) {
        if let Some(place) = self.states.get_mut(i) {
            *place = state;
        }
    }

    /// Prints that a scene is done.
    pub(super) fn done(&mut self, what: &str) {
        let seconds = (clock::mono_ms() - self.began_ms) as f64 / 1_000.0;
        self.screen.say(&format!("{seconds:5.1} s  done: {what}"));
    }

    /// Returns the last status of all nodes, if all answer.
    pub(super) fn statuses(&self) -> Option<Vec<Status>> {
        self.observers.iter().map(|o| o.look().status).collect()
    }

    /// Returns the least number of observations of any node.
    pub(super) fn looks(&self) -> u64 {
        self.observers.iter().map(|o| o.look().number).min().unwrap_or(0)
    }
}

/// Whether everything committed is published, and everything published applied.
pub(super) fn is_drained(nodes: &[Status]) -> bool {
    let newest =
        nodes.iter().flat_map(|s| &s.streams).map(|s| s.last.max(s.cursor)).max().unwrap_or(0);
    let drained = |s: &Status| {
        s.broker.linked
            && s.joined
            && s.pending_rows == 0
            && s.held.is_empty()
            && s.open_gaps == 0
            && s.streams.iter().all(|t| t.cursor == newest)
    };
    nodes.iter().all(drained)
}
