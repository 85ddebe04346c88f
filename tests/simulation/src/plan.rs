//! The plan of a world, decided by a seed: its shape, its limits, its faults, and every action in
//! order.
//!
//! Actions have their own seeds and do not depend on the state of the world, so any of them can be
//! removed. This is how a failing trace shrinks. An action that is impossible in the present state
//! does nothing.

use crate::rng::Rng;
use harmonylite::model::config::{OnJoin, SchemaMode};
use harmonylite::model::limits::Limits;

/// The kinds of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum ActionKind {
    /// The application commits a transaction.
    App,
    /// The sidecar, its connection and its consumers do some steps, in any order.
    Pump,
    /// Time passes.
    Tick,
    /// The operating system writes everything to the disk.
    Sync,
    /// The process ends at once. Its commits stay.
    Crash,
    /// The machine ends at once. Changes without a sync are lost.
    PowerCut,
    /// The process starts.
    Start,
    /// The connection ends.
    Cut,
    /// The connection is restored.
    Heal,
    /// Only one direction works.
    OneWay,
    /// A late request of an older connection arrives.
    Ghost,
    /// The consumer ends.
    ConsumerLost,
    /// A message is delivered again.
    Redeliver,
    /// The broker's disk goes back in time.
    RollBack,
    /// A message in the middle is destroyed.
    Hole,
    /// The stream is recreated.
    Recreate,
    /// Old messages expire.
    Expire,
    /// The clock of a node jumps.
    ClockJump,
    /// Nothing happens for longer than versions and messages are kept.
    LongQuiet,
    /// The application holds the write lock while the sidecar needs it.
    Lock,
    /// The application of one node changes its schema; the others follow later.
    Migrate,
    /// A snapshot of a node is saved.
    Save,
    /// The disk of a node is gone, and the node starts from a snapshot.
    LoseDisk,
    /// The bytes of a message are damaged.
    Damage,
    /// A node begins or ceases to refuse rows of another node.
    Refuse,
}

/// All faults, with the greatest weight that a seed may give them.
const FAULTS: [(ActionKind, u64); 17] = [
    (ActionKind::Sync, 12),
    (ActionKind::Crash, 10),
    (ActionKind::PowerCut, 10),
    (ActionKind::Cut, 12),
    (ActionKind::OneWay, 8),
    (ActionKind::Ghost, 20),
    (ActionKind::ConsumerLost, 8),
    (ActionKind::Redeliver, 10),
    (ActionKind::RollBack, 8),
    (ActionKind::Hole, 6),
    (ActionKind::Recreate, 4),
    (ActionKind::Expire, 6),
    (ActionKind::ClockJump, 8),
    (ActionKind::LongQuiet, 3),
    (ActionKind::Lock, 10),
    (ActionKind::Start, 10),
    (ActionKind::Heal, 20),
];

/// One action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The kind.
    pub kind: ActionKind,
    /// The index of the node.
    pub node: usize,
    /// The seed for the details.
    pub seed: u64,
}

/// The possible faults of a request, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fates {
    /// The request never arrives.
    pub lost: u64,
    /// The request is executed, and its answer is lost.
    pub deaf: u64,
    /// The request arrives after its sender gave up.
    pub late: u64,
    /// The request is answered twice.
    pub doubled: u64,
    /// A signal to one node is lost.
    pub signal_lost: u64,
}

/// What a node does with changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It publishes its own and applies those of others.
    Both,
    /// `replicate = false`: it applies nothing.
    Publishes,
    /// `publish = false`: nothing leaves it.
    Applies,
}

/// The shape of the application's work.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The number of keys in each table.
    pub keys: u64,
    /// The number of values in a unique column.
    pub values: u64,
    /// The weights of the statements (`application`).
    pub statements: [u64; 10],
    /// The most statements in a transaction.
    pub statements_max: u64,
    /// The most filler bytes of a value.
    pub filler: u64,
}

/// A whole world before its start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of the plan.
    pub seed: u64,
    /// The number of nodes.
    pub nodes: usize,
    /// The number of streams.
    pub shards: u32,
    /// The limits, often reduced.
    pub limits: Limits,
    /// The bytes that a stream holds before it drops its oldest messages.
    pub stream_bytes: u64,
    /// The largest payload of the server.
    pub max_payload: usize,
    /// Whether batches may be split. Then pairs are not whole at every moment.
    pub splits: bool,
    /// The clocks: skew in milliseconds, drift in millionths.
    pub clocks: Vec<(i64, i64)>,
    /// For each node. The first one has both.
    pub directions: Vec<Direction>,
    /// Requests.
    pub fates: Fates,
    /// Application.
    pub work: Work,
    /// The most milliseconds of a tick.
    pub tick_ms: i64,
    /// The nodes whose databases have rows before they join.
    pub populated: bool,
    /// What becomes of these rows if the cluster has data.
    pub on_join: OnJoin,
    /// Which migrations travel with the batches of their transactions.
    pub schema_mode: SchemaMode,
    /// How long a transaction waits for the application's snapshots, milliseconds.
    pub politeness_ms: u64,
    /// How many looks of a hundred find an open snapshot, until all heals.
    pub snapshots_percent: u64,
    /// Whether gaps are filled from snapshots that were saved.
    pub snapshots: bool,
    /// The actions.
    pub actions: Vec<Action>,
}

/// A bound is reduced once in this many cases.
const SHRINK_PERCENT: u64 = 35;

fn limits(rng: &mut Rng) -> (Limits, bool) {
    let mut limits = Limits {
        conflicts_max: 1_000,
        quarantine_max: 20,
        // Rebuilds are one transaction here, and the wait would be in real time.
        dropped_table_wait_ms: 0,
        ..Limits::default()
    };
    let mut splits = false;
    let shrink = |rng: &mut Rng| rng.chance(SHRINK_PERCENT);
    if shrink(rng) {
        limits.part_bytes_max = usize::try_from(rng.range(60, 400)).unwrap_or(60);
    }
    if shrink(rng) {
        limits.batch_memory_bytes_max = rng.range(0, 900).cast_unsigned();
    }
    if rng.chance(15) {
        limits.batch_entries_max = rng.range(1, 6).cast_unsigned();
        splits = true;
    }
    if rng.chance(10) {
        limits.batch_atomic_bytes_max = rng.range(3_200, 4_200).cast_unsigned();
        splits = true;
    }
    if splits {
        // Rows that are republished in pieces may show half of a lost transaction.
        limits.republish_rows_max = limits.batch_entries_max.min(6);
    }
    if shrink(rng) {
        limits.apply_rows_max = rng.range(1, 8).cast_unsigned();
    }
    if shrink(rng) {
        limits.cursor_trail_max = rng.index(5) + 2;
        limits.cursor_trail_step = rng.range(1, 4).cast_unsigned();
    }
    if rng.chance(10) {
        limits.conflicts_max = rng.range(1, 6).cast_unsigned();
    }
    (limits, splits)
}

fn fates(rng: &mut Rng) -> Fates {
    let mut one = |most: i64| if rng.chance(40) { rng.range(1, most).cast_unsigned() } else { 0 };
    Fates { lost: one(15), deaf: one(25), late: one(20), doubled: one(20), signal_lost: one(60) }
}

fn work(rng: &mut Rng) -> Work {
    let mut statements = [0; 10];
    for weight in &mut statements {
        *weight = if rng.chance(55) { rng.range(1, 10).cast_unsigned() } else { 0 };
    }
    if statements.iter().all(|w| *w == 0) {
        statements[0] = 1;
    }
    Work {
        keys: rng.range(1, 9).cast_unsigned(),
        values: rng.range(2, 8).cast_unsigned(),
        statements,
        statements_max: rng.range(1, 5).cast_unsigned(),
        filler: if rng.chance(25) { 150 } else { 0 },
    }
}

impl Plan {
    /// Makes the plan of a seed. `actions_max` bounds the length.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = rng.pick(&[2, 2, 3, 3, 3, 4]);
        let (limits, splits) = limits(&mut rng);
        let skewed = rng.chance(50);
        let clocks = (0..nodes)
            .map(|_| {
                if skewed {
                    (
                        rng.pick(&[0, 0, -50, 30, 500, -3_000, 90_000]),
                        rng.pick(&[0, 0, 0, 200, -200]),
                    )
                } else {
                    (0, 0)
                }
            })
            .collect();
        let mut plan = Self {
            seed,
            nodes,
            shards: rng.pick(&[1, 1, 2]),
            limits,
            stream_bytes: u64::MAX,
            max_payload: if rng.chance(20) { 1_024 + 80 } else { 1 << 20 },
            splits,
            clocks,
            directions: vec![Direction::Both; nodes],
            fates: fates(&mut rng),
            work: work(&mut rng),
            tick_ms: rng.pick(&[1, 3, 20, 200, 4_000]),
            populated: rng.chance(25),
            on_join: OnJoin::Merge,
            schema_mode: SchemaMode::Off,
            politeness_ms: 0,
            snapshots_percent: 0,
            snapshots: false,
            actions: Vec::new(),
        };
        plan.actions = actions(&mut rng, nodes);
        // A message that was lost, and whose position expired before its publisher checked it,
        // leaves no trace. This needs a node that was away for longer than the stream keeps its
        // messages.
        if plan.has(ActionKind::RollBack) || plan.has(ActionKind::Hole) {
            plan.actions.retain(|a| a.kind != ActionKind::Expire);
        }
        plan.vary();
        plan
    }

    /// Returns whether the plan has an action of this kind.
    pub fn has(&self, kind: ActionKind) -> bool {
        self.actions.iter().any(|a| a.kind == kind)
    }

    /// Returns whether the broker loses acknowledged messages.
    pub fn broker_loses(&self) -> bool {
        use ActionKind::{Damage, Expire, Hole, Recreate, RollBack};
        [RollBack, Hole, Recreate, Expire, Damage].iter().any(|w| self.has(*w))
            || self.stream_bytes < u64::MAX
    }
}

fn actions(rng: &mut Rng, nodes: usize) -> Vec<Action> {
    let mut weights: Vec<(ActionKind, u64)> = vec![
        (ActionKind::App, rng.range(20, 60).cast_unsigned()),
        (ActionKind::Pump, rng.range(60, 300).cast_unsigned()),
        (ActionKind::Tick, rng.range(10, 60).cast_unsigned()),
    ];
    for (kind, most) in FAULTS {
        if rng.chance(35) {
            weights.push((kind, rng.range(1, most.cast_signed()).cast_unsigned()));
        }
    }
    // Everything that ends must be able to start again.
    let needs = |kind: &[ActionKind]| weights.iter().any(|(w, _)| kind.contains(w));
    let (dies, cut) = (
        needs(&[ActionKind::Crash, ActionKind::PowerCut]),
        needs(&[ActionKind::Cut, ActionKind::OneWay, ActionKind::RollBack]),
    );
    for (kind, needed) in
        [(ActionKind::Start, dies), (ActionKind::Heal, cut), (ActionKind::Sync, dies)]
    {
        if needed && !weights.iter().any(|(w, _)| *w == kind) {
            weights.push((kind, rng.range(5, 25).cast_unsigned()));
        }
    }
    let total = weights.iter().map(|(_, w)| w).sum();
    let length = rng.range(60, 360);
    (0..length)
        .map(|_| {
            let mut at = rng.below(total);
            let kind = weights
                .iter()
                .find(|(_, w)| {
                    let here = at < *w;
                    at = at.saturating_sub(*w);
                    here
                })
                .map_or(ActionKind::Pump, |(kind, _)| *kind);
            Action { kind, node: rng.index(nodes), seed: rng.bits() }
        })
        .collect()
}
