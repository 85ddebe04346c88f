//! What only some worlds have. Each has its own stream of random numbers, so a new one leaves the
//! worlds without it unchanged.

use crate::plan::{Action, ActionKind, Direction, Plan};
use crate::rng::Rng;
use harmonylite::model::config::{OnJoin, SchemaMode};

impl Plan {
    /// Gives the world what it has of this.
    pub(crate) fn vary(&mut self) {
        self.migrate();
        self.be_polite();
        self.absorb_in_pieces();
        self.make_streams_small();
        self.save_snapshots();
        self.damage_messages();
        self.refuse_rows();
        self.be_one_way();
        self.replace_rows();
    }

    /// Inserts up to `most` actions of a kind, each anywhere.
    fn insert(&mut self, rng: &mut Rng, kind: ActionKind, most: i64) {
        for _ in 0..rng.range(1, most) {
            let action = Action { kind, node: rng.index(self.nodes), seed: rng.bits() };
            self.actions.insert(rng.index(self.actions.len()), action);
        }
    }

    /// Some worlds change their schema.
    fn migrate(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x5c4e_3a00_0000_0001);
        if rng.chance(20) {
            self.schema_mode = if Rng::new(self.seed ^ 0x7a4e_1000_0000_0003).chance(40) {
                SchemaMode::All
            } else if Rng::new(self.seed ^ 0x7a4e_1000_0000_0005).chance(40) {
                SchemaMode::Additive
            } else {
                SchemaMode::Off
            };
            // Few worlds stay long between the first versions otherwise.
            let most = if rng.chance(50) { 7 } else { 16 };
            self.insert(&mut rng, ActionKind::Migrate, most);
        }
    }

    /// Some worlds have an application that keeps snapshots open, and some write their bookkeeping
    /// soon.
    fn be_polite(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x5c4e_3a00_0000_0002);
        if rng.chance(40) {
            self.limits.bookkeeping_entries_max = rng.range(1, 12).cast_unsigned();
        }
        if rng.chance(40) {
            self.politeness_ms = rng.pick(&[1, 20, 500]);
            self.snapshots_percent = rng.pick(&[10, 50, 95]);
        }
    }

    /// Some worlds absorb few log entries in one transaction, as any does after a long outage, some
    /// keep few folded rows in memory, and some few bytes of batches.
    fn absorb_in_pieces(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x5c4e_3a00_0000_0008);
        if rng.chance(30) {
            self.limits.absorb_entries_max = rng.range(1, 6);
        }
        if rng.chance(30) {
            self.limits.folded_rows_max = rng.index(12);
        }
        if rng.chance(30) {
            self.limits.plain_bytes_max = rng.index(900);
        }
    }

    /// In some worlds the stream drops messages because it is full, as after
    /// [`ActionKind::Expire`].
    fn make_streams_small(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x5c4e_3a00_0000_0004);
        let loses = self.has(ActionKind::RollBack) || self.has(ActionKind::Hole);
        if rng.chance(10) && !loses {
            self.stream_bytes = rng.range(3_000, 10_000).cast_unsigned();
            // Rows that are republished in pieces may show half of a lost transaction.
            self.splits = true;
        }
    }

    /// In some worlds snapshots are saved, and gaps are filled from them; in some of these, disks
    /// are lost.
    fn save_snapshots(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x5c4e_3a00_0000_0006);
        if !rng.chance(25) {
            return;
        }
        self.snapshots = true;
        self.insert(&mut rng, ActionKind::Save, 8);
        if Rng::new(self.seed ^ 0x5c4e_3a00_0000_0007).chance(50) {
            self.insert(&mut rng, ActionKind::LoseDisk, 3);
        }
    }

    /// In some worlds messages are damaged, and in some of these the quarantine is small.
    fn damage_messages(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x5c4e_3a00_0000_0009);
        // A migration that does not travel can be lost, and the row about the next one arrive.
        if !rng.chance(25) || self.schema_mode == SchemaMode::Additive {
            return;
        }
        // Who joins answers no questions, so if all nodes do, a full quarantine stays full.
        if rng.chance(40) && !self.populated {
            // With room for one, each message waits for a repair, and repairs wait for each other.
            self.limits.quarantine_max = rng.range(3, 6).cast_unsigned();
        }
        self.insert(&mut rng, ActionKind::Damage, 16);
    }

    /// In some worlds nodes refuse rows for a while. What makes them do so must not travel, nor
    /// come to another node with a snapshot.
    fn refuse_rows(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x5c4e_3a00_0000_000a);
        let travels = self.schema_mode != SchemaMode::Off || self.has(ActionKind::LoseDisk);
        if !rng.chance(15) || travels {
            return;
        }
        self.insert(&mut rng, ActionKind::Refuse, 6);
    }

    /// In some worlds nodes that join give up their rows if others have published some; processes
    /// end while they join, which takes many steps.
    fn replace_rows(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x5c4e_3a00_0000_000c);
        if !self.populated || !rng.chance(40) {
            return;
        }
        self.on_join = OnJoin::Replace;
        self.limits.republish_rows_max = rng.range(1, 3).cast_unsigned();
        self.splits = true;
        if rng.chance(60) {
            // Only then the rows of the first node must stay.
            use ActionKind::{Damage, Expire, Hole, LoseDisk, PowerCut, Recreate, RollBack};
            let lose = [Damage, Expire, Hole, LoseDisk, PowerCut, Recreate, RollBack];
            self.actions.retain(|action| !lose.contains(&action.kind));
            self.stream_bytes = u64::MAX;
        }
        let soon = self.actions.len().min(60);
        for _ in 0..rng.range(1, 4) {
            for kind in [ActionKind::Start, ActionKind::Crash] {
                let action = Action { kind, node: rng.index(self.nodes), seed: rng.bits() };
                self.actions.insert(rng.index(soon), action);
            }
        }
    }

    /// In some worlds some nodes only publish or only apply.
    fn be_one_way(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x5c4e_3a00_0000_000b);
        if !rng.chance(15) {
            return;
        }
        for direction in &mut self.directions[1..] {
            *direction = rng.pick(&[Direction::Both, Direction::Publishes, Direction::Applies]);
        }
        let directions = &self.directions;
        self.actions.retain(|action| match action.kind {
            // A deletion that did not reach every node protects from the row only as long as its
            // tombstone is kept (docs/design.md, section 4).
            ActionKind::LongQuiet => false,
            // It does not get back what it has published since the snapshot.
            ActionKind::LoseDisk => directions[action.node] != Direction::Publishes,
            _ => true,
        });
    }
}
