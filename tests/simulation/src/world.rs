//! One world with nodes, a broker and true time. It runs the actions of its plan, heals, drains,
//! and is checked.

use crate::application::{self, TABLES};
use crate::broker::SimBroker;
use crate::clock::BEGIN_MS;
use crate::coverage::Marks;
use crate::describe;
use crate::network::{Actor, Served};
use crate::node::Node;
use crate::oracle::Oracle;
use crate::plan::{Action, ActionKind, Fates, Plan};
use crate::rng::Rng;
use crate::snapshots::{Healer, Image};
use crate::stored_versions::Version;
use harmonylite::actor::{Fatal, Step};
use harmonylite::broker::BrokerEvent;
use harmonylite::model::config::OnJoin;
use std::collections::BTreeMap;

/// The result of a world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The reason of a failure.
    pub failure: Option<String>,
    /// The trace, if it was requested.
    pub trace: Vec<String>,
    /// Counts.
    pub marks: Marks,
    /// The number of committed transactions of all applications.
    pub transactions: u64,
}

/// A running world.
pub struct World<'p> {
    pub(crate) plan: &'p Plan,
    pub(crate) nodes: Vec<Node>,
    pub(crate) broker: SimBroker,
    pub(crate) oracle: Oracle,
    pub(crate) marks: Marks,
    pub(crate) fates: Fates,
    pub(crate) true_ms: i64,
    /// Whether versions may be missing from now on.
    pub(crate) pruned: bool,
    /// For each node: the number of passed checks of its process when the broker last lost
    /// something, and when its power was last cut.
    pub(crate) unseen_loss: Vec<Option<u64>>,
    pub(crate) unseen_cut: Vec<Option<u64>>,
    /// The highest level of the schema that any node has had.
    pub(crate) level_max: i64,
    traced: bool,
    trace: Vec<String>,
    /// The last seen versions of each node and table. They only grow.
    pub(crate) seen: Vec<Vec<BTreeMap<String, Version>>>,
    pub(crate) sites: Vec<i64>,
    pub(crate) absorbed: Vec<i64>,
    transactions_tried: u64,
    /// The newest images, oldest first, and how many were saved in all.
    pub(crate) images: Vec<Image>,
    pub(crate) saved: u64,
    /// For each node.
    pub(crate) healers: Vec<Healer>,
}

/// The most rounds of the last drain. A world that needs more never comes to rest.
const DRAIN_ROUNDS_MAX: u32 = 400;
/// The most rounds of it with a long step of time.
const LONG_ROUNDS_MAX: u32 = 40;
/// A person retries what is in quarantine in every long round, and once in so many short ones.
const RETRY_ROUNDS: u32 = 20;

/// Runs a plan.
pub fn run(plan: &Plan, traced: bool) -> Outcome {
    let mut world = match World::new(plan, traced) {
        Ok(world) => world,
        Err(failure) => return Outcome { failure: Some(failure), ..Outcome::default() },
    };
    let failure = world.live().err();
    for node in &mut world.nodes {
        if let Some(process) = &node.process {
            process.count(&mut world.marks);
        }
    }
    if let Some(failure) = &failure {
        let line = format!("FAILED: {failure}");
        world.say(|| line);
    }
    Outcome {
        failure,
        trace: world.trace,
        marks: world.marks,
        transactions: world.oracle.transactions,
    }
}

pub(crate) fn sql(error: rusqlite::Error) -> String {
    error.to_string()
}

impl<'p> World<'p> {
    fn new(plan: &'p Plan, traced: bool) -> Result<Self, String> {
        let nodes = (0..plan.nodes)
            .map(|i| Node::new(plan, i))
            .collect::<rusqlite::Result<Vec<_>>>()
            .map_err(sql)?;
        Ok(Self {
            plan,
            seen: vec![vec![BTreeMap::new(); TABLES.len()]; nodes.len()],
            sites: vec![0; nodes.len()],
            absorbed: vec![0; nodes.len()],
            broker: SimBroker::of_size(plan.stream_bytes),
            oracle: Oracle::default(),
            marks: Marks::default(),
            fates: plan.fates,
            true_ms: BEGIN_MS,
            pruned: harmonylite::model::planted_bugs::planted(
                harmonylite::model::planted_bugs::Bug::TombstoneEarly,
            ),
            unseen_loss: vec![None; nodes.len()],
            unseen_cut: vec![None; nodes.len()],
            level_max: 0,
            traced,
            trace: Vec::new(),
            transactions_tried: 0,
            images: Vec::new(),
            saved: 0,
            healers: nodes.iter().map(|_| Healer::default()).collect(),
            nodes,
        })
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if self.traced {
            let line = format!("{:>9} {}", self.true_ms - BEGIN_MS, what());
            self.trace.push(line);
        }
    }

    fn live(&mut self) -> Result<(), String> {
        self.begin()?;
        for i in 0..self.plan.actions.len() {
            let action = self.plan.actions[i];
            self.act(action)?;
        }
        self.heal_and_judge()
    }

    fn begin(&mut self) -> Result<(), String> {
        for n in 0..self.nodes.len() {
            if self.plan.populated {
                let rows = format!(
                    "INSERT INTO item VALUES (1, 'before', 0), ({}, 'before {n}', 0), ({}, \
                    'before {n}', 1)",
                    n + 2,
                    n + 20
                );
                self.nodes[n].app.execute_batch(&rows).map_err(sql)?;
            }
            self.start(n)?;
            if self.plan.populated {
                let stays = self.plan.on_join == OnJoin::Merge;
                self.oracle.populated(n, self.sites[n], &self.nodes[n].app, 0, stays)?;
            }
            self.nodes[n].sync().map_err(sql)?;
        }
        Ok(())
    }

    /// Heals all faults, lets the nodes come to rest, and compares them with each other and with
    /// the oracle.
    pub(crate) fn heal_and_judge(&mut self) -> Result<(), String> {
        self.heal()?;
        self.drain()?;
        self.judge()
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        let mut rng = Rng::new(action.seed);
        let n = action.node % self.nodes.len();
        match action.kind {
            ActionKind::App => self.application(n, &mut rng)?,
            ActionKind::Pump => self.pump(n, &mut rng)?,
            ActionKind::Tick => {
                // Mostly a short time, and sometimes long enough that deadlines pass.
                let most = if rng.chance(10) { 12_000 } else { self.plan.tick_ms };
                self.true_ms += rng.range(0, most);
            }
            _ => self.fault(action.kind, n, &mut rng)?,
        }
        Ok(())
    }

    pub(crate) fn application(&mut self, n: usize, rng: &mut Rng) -> Result<(), String> {
        self.transactions_tried += 1;
        let tag = format!("n{n}t{}", self.transactions_tried);
        // The application reads the node's clock.
        self.nodes[n].clock.now(self.true_ms);
        let said = match application::transaction(&self.nodes[n].app, &self.plan.work, rng, &tag) {
            Err(error) if self.meets_part_of_migration(&error) => {
                return self.fails_at_schema(n, &error);
            }
            said => said.map_err(sql)?,
        };
        self.say(|| format!("node {n}: application:{said}"));
        self.oracle.committed(n, &self.nodes[n].app)?;
        self.check_pairs(n)?;
        if rng.chance(80) {
            self.nodes[n].wake();
        }
        Ok(())
    }

    fn pump(&mut self, n: usize, rng: &mut Rng) -> Result<(), String> {
        for _ in 0..=rng.below(12) {
            match rng.below(7) {
                0 => drop(self.inbound_handles(n)?),
                1 => drop(self.outbound_handles(n)?),
                2 => drop(self.inbound_steps(n)?),
                3 => drop(self.outbound_steps(n)?),
                4 | 5 => drop(self.serve(n, rng)?),
                _ => drop(self.deliver(n, rng)),
            }
            self.fill_gaps(n)?;
        }
        Ok(())
    }

    pub(crate) fn inbound_handles(&mut self, n: usize) -> Result<bool, String> {
        let now = self.nodes[n].clock.now(self.true_ms);
        let Some(process) = &mut self.nodes[n].process else { return Ok(false) };
        let Some(input) = process.inbound_in.pop_front() else { return Ok(false) };
        let line = if self.traced { describe::to_inbound(&input) } else { None };
        let result = process.inbound.handle(input, now);
        process.exchange();
        if let Some(line) = line {
            self.say(|| format!("node {n}: inbound hears {line}"));
        }
        self.survive(n, result)?;
        Ok(true)
    }

    /// A late request of the previous process can take the lease from this one, which then ends. It
    /// is restarted.
    fn survive(&mut self, n: usize, result: Result<(), Fatal>) -> Result<(), String> {
        match result {
            Err(Fatal::SecondNode { place, .. })
                if self.nodes[n].starts > 1 && place == self.nodes[n].place() =>
            {
                self.say(|| {
                    format!(
                        "node {n}: the lease is held by its own former process; it \
                    ends and starts again"
                    )
                });
                self.marks.hit("lease taken by a late request");
                self.cut(n, &mut Rng::new(3));
                self.nodes[n].end_process(&mut self.marks);
                self.start(n)
            }
            other => other.map_err(|e| format!("node {n}: {e}")),
        }
    }

    pub(crate) fn outbound_handles(&mut self, n: usize) -> Result<bool, String> {
        let now = self.nodes[n].clock.now(self.true_ms);
        let Some(process) = &mut self.nodes[n].process else { return Ok(false) };
        let Some(input) = process.outbound_in.pop_front() else { return Ok(false) };
        let line = if self.traced { describe::to_outbound(&input) } else { None };
        let result = process.outbound.handle(input, now);
        process.exchange();
        if let Some(line) = line {
            self.say(|| format!("node {n}: outbound hears {line}"));
        }
        result.map_err(|e| format!("node {n}: {e}"))?;
        Ok(true)
    }

    pub(crate) fn inbound_steps(&mut self, n: usize) -> Result<bool, String> {
        let now = self.nodes[n].clock.now(self.true_ms);
        let Some(process) = &mut self.nodes[n].process else { return Ok(false) };
        let result = process.inbound.step(now);
        process.exchange();
        match result.map_err(|e| format!("node {n}: {e}"))? {
            Step::Worked => {
                if let (true, Some(process)) = (self.traced, &self.nodes[n].process) {
                    let line = describe::work(&process.inbound);
                    self.say(|| format!("node {n}: inbound works: {line}"));
                }
                self.note_first(n);
                // Changes that no trigger saw are in the log now.
                self.oracle.committed(n, &self.nodes[n].app)?;
                self.check_node(n)?;
                Ok(true)
            }
            Step::Idle | Step::Busy | Step::Polite => Ok(false),
        }
    }

    pub(crate) fn outbound_steps(&mut self, n: usize) -> Result<bool, String> {
        let now = self.nodes[n].clock.now(self.true_ms);
        let Some(process) = &mut self.nodes[n].process else { return Ok(false) };
        let result = process.outbound.step(now);
        process.exchange();
        let worked = result.map_err(|e| format!("node {n}: {e}"))? == Step::Worked;
        if worked {
            self.say(|| format!("node {n}: outbound works"));
        }
        Ok(worked)
    }

    pub(crate) fn serve(&mut self, n: usize, rng: &mut Rng) -> Result<bool, String> {
        self.broker.at(self.true_ms);
        match self.nodes[n].link.serve(&mut self.broker, &self.fates, rng, &mut self.marks) {
            Served::Nothing => return Ok(false),
            Served::Events(actor, events) => {
                for event in events {
                    self.say(|| {
                        format!("broker to node {n} {actor:?}: {}", describe::event(&event))
                    });
                    self.nodes[n].tell(actor, event);
                }
            }
            Served::Signal(bytes) => {
                self.say(|| format!("node {n} signals"));
                for to in 0..self.nodes.len() {
                    let link = &self.nodes[to].link;
                    if !link.up || !link.hears {
                        continue;
                    }
                    if rng.chance(self.fates.signal_lost) {
                        self.marks.hit("signal lost");
                    } else {
                        self.nodes[to].tell(Actor::Inbound, BrokerEvent::Signal(bytes.clone()));
                    }
                }
            }
        }
        Ok(true)
    }

    pub(crate) fn deliver(&mut self, n: usize, rng: &mut Rng) -> bool {
        let Some(event) = self.nodes[n].link.deliver(&mut self.broker, rng) else { return false };
        if let BrokerEvent::Delivered { message, .. } = &event {
            let (shard, seq) = (message.shard, message.seq);
            self.say(|| format!("broker to node {n}: message {seq} of stream {shard}"));
        }
        self.nodes[n].tell(Actor::Inbound, event);
        true
    }

    pub(crate) fn start(&mut self, n: usize) -> Result<(), String> {
        let (loss, cut) =
            (self.is_unseen(&self.unseen_loss, n), self.is_unseen(&self.unseen_cut, n));
        if self.nodes[n].start(self.true_ms)? {
            (self.unseen_loss[n], self.unseen_cut[n]) = (loss.then_some(0), cut.then_some(0));
            self.say(|| format!("node {n}: process starts"));
            self.note_site(n)?;
            self.oracle.follow(n, &self.nodes[n].app)?;
        }
        Ok(())
    }

    pub(crate) fn checks_passed(&self, n: usize) -> u64 {
        self.nodes[n].process.as_ref().map_or(0, |p| p.inbound.checks_passed())
    }

    /// Returns whether a node has not passed a check since the loss.
    pub(crate) fn is_unseen(&self, since: &[Option<u64>], n: usize) -> bool {
        since[n].is_some_and(|passed| self.checks_passed(n) <= passed)
    }

    pub(crate) fn heal(&mut self) -> Result<(), String> {
        self.say(|| "all heals".to_owned());
        self.fates = Fates::default();
        for n in 0..self.nodes.len() {
            self.start(n)?;
            // Nodes notice the loss of acknowledged messages at a reconnect.
            if self.plan.broker_loses() || !self.nodes[n].link.sends || !self.nodes[n].link.hears {
                self.cut(n, &mut Rng::new(1));
            }
            self.nodes[n].reachable = true;
            self.nodes[n].close_snapshots();
            self.accept(n)?;
            self.nodes[n].connected();
            self.nodes[n].wake();
        }
        self.migrate_all()
    }

    pub(crate) fn cut(&mut self, n: usize, rng: &mut Rng) {
        self.broker.at(self.true_ms);
        let was_up = self.nodes[n].link.up;
        let asked = self.nodes[n].link.cut(&mut self.broker, rng);
        if was_up {
            for actor in [Actor::Inbound, Actor::Outbound] {
                self.nodes[n].tell(actor, BrokerEvent::Disconnected("cut".to_owned()));
            }
        }
        for (actor, ticket) in asked {
            let unreachable = harmonylite::broker::BrokerError::Unreachable("cut".to_owned());
            self.nodes[n].tell(actor, BrokerEvent::Reply(ticket, Err(unreachable)));
        }
    }

    pub(crate) fn drain(&mut self) -> Result<(), String> {
        let mut rng = Rng::new(self.plan.seed);
        let (mut rested, mut long_rounds) = (0, 0);
        for round in 0..DRAIN_ROUNDS_MAX {
            let before = self.broker.last();
            let mut moved = true;
            while moved {
                moved = false;
                for n in 0..self.nodes.len() {
                    moved |= self.exhaust(n, &mut rng)?;
                }
            }
            self.note_migrations_of_held()?;
            if round % RETRY_ROUNDS == 4 || long_rounds > 0 {
                self.retry_quarantine()?;
            }
            rested = if self.is_at_rest() { rested + 1 } else { 0 };
            // The world must also be at rest after some time, when the work that is due by time
            // alone is done.
            if rested >= 3 {
                return Ok(());
            }
            // Long waits (an incomplete batch is given up after ten minutes) get enough time; but
            // a node that republishes page by page gets the rounds for its pages.
            let is_long = round >= 40 && self.broker.last() == before;
            long_rounds += u32::from(is_long);
            if long_rounds > LONG_ROUNDS_MAX {
                break;
            }
            self.true_ms += if is_long { 61_000 } else { 1_100 };
            for node in &mut self.nodes {
                node.wake();
            }
        }
        Err(format!("never comes to rest: {}", self.unrest()))
    }

    fn exhaust(&mut self, n: usize, rng: &mut Rng) -> Result<bool, String> {
        let mut any = false;
        for _ in 0..10_000 {
            let mut moved = self.inbound_handles(n)?;
            moved |= self.outbound_handles(n)?;
            moved |= self.inbound_steps(n)?;
            moved |= self.outbound_steps(n)?;
            moved |= self.serve(n, rng)?;
            moved |= self.deliver(n, rng);
            moved |= self.fill_gaps(n)?;
            any |= moved;
            if !moved {
                return Ok(any);
            }
        }
        Err(format!("node {n} works without end"))
    }

    fn is_at_rest(&self) -> bool {
        self.unrest().is_empty()
    }

    pub(crate) fn is_holding(&self, n: usize) -> bool {
        let process = self.nodes[n].process.as_ref();
        process.is_some_and(|p| p.inbound.streams().any(|(_, s)| !s.held.is_empty()))
    }

    fn unrest(&self) -> String {
        let mut why = String::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let Some(p) = &node.process else { continue };
            for (is, what) in [
                (!p.inbound.is_connected(), "not linked"),
                (!p.inbound.is_drained(), "inbound not drained"),
                (p.inbound.republished_rows().0.is_some(), "joins"),
                (p.inbound.republished_rows().1.is_some(), "republishes"),
                (!p.outbound.is_drained(), "outbound not drained"),
                (!p.inbound.is_joined(), "not joined"),
                (!p.inbound.open_gaps().is_empty(), "gaps open"),
                // All schemas are equal by then.
                (self.is_holding(n), "an origin held"),
                (self.has_quarantine(n), "a batch in quarantine"),
            ] {
                if is {
                    why.push_str(&format!(" node {n} {what};"));
                }
            }
        }
        why
    }
}
