//! The faults of processes, machines, connections, the broker's disk and clocks.

use crate::application;
use crate::node::RETENTION_MS;
use crate::oracle::meta;
use crate::plan::{ActionKind, Direction};
use crate::rng::Rng;
use crate::world::{World, sql};
use harmonylite::model::config::{OnJoin, SchemaMode};

impl World<'_> {
    pub(crate) fn fault(
        &mut self,
        kind: ActionKind,
        n: usize,
        rng: &mut Rng,
    ) -> Result<(), String> {
        match kind {
            ActionKind::Sync => {
                self.nodes[n].sync().map_err(sql)?;
                self.say(|| format!("node {n}: synced"));
            }
            ActionKind::Crash => {
                self.last_step(n, rng)?;
                self.crash(n, rng);
                self.maybe_start(n, rng)?;
            }
            // If an origin forgets a batch by a power cut, and the broker loses it before the two
            // connect again, nothing shows the origin that it went back in time. These are two
            // failures at once, which the design does not survive.
            ActionKind::PowerCut if self.is_unseen(&self.unseen_loss, n) => self.crash(n, rng),
            ActionKind::PowerCut => self.power_cut(n, rng)?,
            ActionKind::Start => self.start(n)?,
            ActionKind::Cut => self.cut_off(n, rng),
            ActionKind::Heal => self.reach(n),
            ActionKind::OneWay => self.one_way(n, rng),
            ActionKind::Ghost => {
                self.broker.at(self.true_ms);
                if self.nodes[n].link.ghost(&mut self.broker) {
                    self.marks.hit("late request arrived");
                    self.say(|| format!("a late request of node {n} arrives"));
                }
            }
            ActionKind::ConsumerLost => self.lose_consumers(n),
            ActionKind::Redeliver => {
                if let Some(event) = self.nodes[n].link.redeliver(&mut self.broker, rng) {
                    self.marks.hit("message redelivered");
                    self.nodes[n].tell(crate::network::Actor::Inbound, event);
                    self.say(|| format!("node {n}: a message comes again"));
                }
            }
            ActionKind::RollBack | ActionKind::Hole | ActionKind::Recreate | ActionKind::Expire => {
                self.broker_fault(kind, rng)
            }
            ActionKind::ClockJump => {
                let by = rng.pick(&[-5_000, -1, 1, 400, 30_000, -600_000, 3_600_000]);
                self.nodes[n].clock.skew_ms += by;
                self.marks.hit("clock jumped");
                self.say(|| format!("node {n}: its clock jumps by {by} ms"));
            }
            ActionKind::LongQuiet => self.long_quiet()?,
            ActionKind::Lock => self.lock(n)?,
            ActionKind::Migrate => drop(self.migrate(n)?),
            ActionKind::Save => self.save(n)?,
            ActionKind::LoseDisk => self.lose_disk(n, rng)?,
            ActionKind::Damage => self.damage(rng),
            ActionKind::Refuse => self.refuse(n, rng)?,
            ActionKind::App | ActionKind::Pump | ActionKind::Tick => {}
        }
        Ok(())
    }

    /// Restarts most processes at once, as a service manager does.
    fn maybe_start(&mut self, n: usize, rng: &mut Rng) -> Result<(), String> {
        if rng.chance(60) { self.start(n) } else { Ok(()) }
    }

    /// Often the end comes directly after a step, while work is in transit, and not in a pause.
    fn last_step(&mut self, n: usize, rng: &mut Rng) -> Result<(), String> {
        match rng.below(5) {
            0 | 1 => {
                // After any step of the writing actor, with a waiting message.
                self.deliver(n, rng);
                while self.inbound_handles(n)? {}
                self.inbound_steps(n)?;
            }
            2 => {
                // After the broker stored a batch, and before the node gets the acknowledgement.
                self.outbound_steps(n)?;
                self.serve(n, rng)?;
            }
            3 => {
                while self.outbound_handles(n)? {}
                self.outbound_steps(n)?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn crash(&mut self, n: usize, rng: &mut Rng) {
        self.cut(n, rng);
        if self.nodes[n].end_process(&mut self.marks) {
            self.marks.hit("crash");
            self.say(|| format!("node {n}: process killed"));
        }
    }

    fn power_cut(&mut self, n: usize, rng: &mut Rng) -> Result<(), String> {
        self.last_step(n, rng)?;
        self.crash(n, rng);
        // No packet in flight survives the reboot of its machine, and it takes a moment at least.
        self.nodes[n].link.ghosts.clear();
        self.nodes[n].clock.skew_ms += 1;
        let acknowledged = self.acknowledged(n)?;
        self.nodes[n].power_cut().map_err(sql)?;
        let lost = self.oracle.power_cut(n, &self.nodes[n].app, acknowledged)?;
        self.forget_seen(n)?;
        self.unseen_cut[n] = Some(0);
        self.marks.hit("power cut");
        self.marks.add("power cut lost commits", lost);
        self.say(|| format!("node {n}: power cut, {lost} writes may be lost"));
        self.maybe_start(n, rng)
    }

    /// Returns the last log entry of a node that the broker has and keeps.
    pub(crate) fn acknowledged(&self, n: usize) -> Result<i64, String> {
        // A piece of a split batch is acknowledged before the final versions of its rows are in the
        // stream. A batch of a schema that no other node has is held, and skipped once its origin
        // has the present one: its rows then come from the origin, if that has not forgotten them.
        let keeps =
            !self.plan.broker_loses() && !self.plan.splits && !self.plan.has(ActionKind::Migrate);
        let publishes = self.plan.directions[n] != Direction::Applies;
        if keeps && publishes { meta(&self.nodes[n].app, "published").map_err(sql) } else { Ok(0) }
    }

    fn cut_off(&mut self, n: usize, rng: &mut Rng) {
        self.cut(n, rng);
        self.nodes[n].reachable = rng.chance(40);
        self.marks.hit("connection cut");
        self.say(|| format!("node {n}: connection cut"));
        if self.nodes[n].reachable {
            self.nodes[n].connected();
        }
    }

    fn reach(&mut self, n: usize) {
        // One of the directions had failed. The client notices that and reconnects.
        if self.nodes[n].link.up && !(self.nodes[n].link.sends && self.nodes[n].link.hears) {
            self.cut(n, &mut Rng::new(7));
        }
        self.nodes[n].reachable = true;
        self.nodes[n].connected();
        self.say(|| format!("node {n}: reachable"));
    }

    fn one_way(&mut self, n: usize, rng: &mut Rng) {
        if self.nodes[n].link.up {
            let sends = rng.chance(50);
            (self.nodes[n].link.sends, self.nodes[n].link.hears) = (sends, !sends);
            self.marks.hit("one-way partition");
            self.say(|| {
                format!("node {n}: only {} works", if sends { "sending" } else { "hearing" })
            });
        }
    }

    fn lose_consumers(&mut self, n: usize) {
        for event in self.nodes[n].link.lose_consumers() {
            self.marks.hit("consumer lost");
            self.say(|| format!("node {n}: {event:?}"));
            self.nodes[n].tell(crate::network::Actor::Inbound, event);
        }
    }

    fn broker_fault(&mut self, kind: ActionKind, rng: &mut Rng) {
        // No message expires shortly before or after a power cut that makes its origin forget it,
        // because messages are kept for days. So an expiry counts as a loss like the others, in
        // either order.
        if (0..self.nodes.len()).any(|n| self.is_unseen(&self.unseen_cut, n)) {
            return;
        }
        self.unseen_loss = (0..self.nodes.len()).map(|n| Some(self.checks_passed(n))).collect();
        let shard = u32::try_from(rng.below(u64::from(self.plan.shards))).unwrap_or(0) + 1;
        self.broker.at(self.true_ms);
        let (first, last) = {
            let stream = self.broker.stream(shard);
            (stream.first, stream.last)
        };
        match kind {
            ActionKind::RollBack if last >= first => {
                // The server restarts and all connections end. No node can tell the states before
                // and after apart.
                self.restart_broker(rng);
                let by = 1 + rng.below(4);
                self.broker.roll_back(shard, by);
                self.marks.hit("broker rolled back");
                self.say(|| {
                    format!("the broker forgets {by} messages of stream {shard} from {last} back")
                });
                self.connect_all();
            }
            ActionKind::Hole if last >= first => {
                let seq = first + rng.below(last - first + 1);
                if self.broker.destroy(shard, seq) {
                    self.marks.hit("message destroyed");
                    self.say(|| format!("message {seq} of stream {shard} is destroyed"));
                    if rng.chance(50) {
                        self.restart_broker(rng);
                        self.connect_all();
                    }
                }
            }
            ActionKind::Recreate => {
                if rng.chance(50) {
                    self.restart_broker(rng);
                } else {
                    (0..self.nodes.len()).for_each(|n| self.lose_consumers(n));
                }
                self.broker.recreate(shard);
                if rng.chance(50) {
                    self.broker.forget_bucket();
                }
                self.marks.hit("stream recreated");
                self.say(|| format!("stream {shard} is deleted and made again"));
                self.connect_all();
            }
            ActionKind::Expire if last >= first => {
                let upto = first + rng.below(last - first + 1);
                self.broker.expire(shard, upto);
                self.marks.hit("messages expired");
                self.say(|| format!("messages of stream {shard} up to {upto} expire"));
            }
            _ => {}
        }
    }

    fn restart_broker(&mut self, rng: &mut Rng) {
        for n in 0..self.nodes.len() {
            self.cut(n, rng);
            // No part of an old connection survives the end of the server.
            self.nodes[n].link.ghosts.clear();
        }
    }

    fn connect_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|n| n.reachable) {
            node.connected();
        }
    }

    /// All nodes come up and to rest, and then nothing happens for longer than anything is kept.
    fn long_quiet(&mut self) -> Result<(), String> {
        self.heal_and_judge()?;
        self.marks.hit("long quiet");
        for node in &mut self.nodes {
            node.sync().map_err(sql)?;
            // No packet is in transit for longer than versions are kept.
            node.link.ghosts.clear();
        }
        self.say(|| "a long quiet time".to_owned());
        self.true_ms += RETENTION_MS * 2;
        self.broker.at(self.true_ms);
        for shard in 1..=self.plan.shards {
            let last = self.broker.stream(shard).last;
            self.broker.expire(shard, last);
        }
        self.pruned = true;
        // Older than tombstones are kept.
        self.images.clear();
        self.fates = self.plan.fates;
        Ok(())
    }

    fn migrate(&mut self, n: usize) -> Result<bool, String> {
        let level = match application::migrate(&self.nodes[n].app) {
            Err(error) if self.meets_part_of_migration(&error) => {
                self.fails_at_schema(n, &error)?;
                return Ok(false);
            }
            level => level.map_err(sql)?,
        };
        let Some(level) = level else { return Ok(false) };
        self.level_max = self.level_max.max(level);
        self.marks.hit("schema migrated");
        self.say(|| format!("node {n}: the application migrates its schema to level {level}"));
        let site = meta(&self.nodes[n].app, "site").map_err(sql)?;
        if level == 2 {
            // A power cut may undo the migration, and perhaps no other node ever runs it. A node
            // that has not joined yet may remove the row.
            let stays = self.plan.on_join == OnJoin::Merge;
            let firm = stays && !self.plan.has(ActionKind::PowerCut);
            self.oracle.populated(n, site, &self.nodes[n].app, level, firm)?;
        }
        self.nodes[n].wake();
        Ok(true)
    }

    /// Whether an error of the application comes from a migration of which only a part has come.
    /// Transactions in pieces, and rows that are republished, are not whole at every moment: the
    /// change can be there before its row in the bookkeeping.
    pub(crate) fn meets_part_of_migration(&self, error: &rusqlite::Error) -> bool {
        let is_torn = self.plan.splits || self.plan.broker_loses();
        is_torn && self.plan.schema_mode != SchemaMode::Off && application::is_of_schema(error)
    }

    /// The application rolls back.
    pub(crate) fn fails_at_schema(
        &mut self,
        n: usize,
        error: &rusqlite::Error,
    ) -> Result<(), String> {
        let app = &self.nodes[n].app;
        if !app.is_autocommit() {
            app.execute_batch("ROLLBACK").map_err(sql)?;
        }
        self.say(|| format!("node {n}: the application meets a part of a migration: {error}"));
        Ok(())
    }

    /// At the end all nodes migrate to the highest schema that any node had. A power cut may have
    /// undone it on all nodes, but batches in the stream may still have it.
    pub(crate) fn migrate_all(&mut self) -> Result<(), String> {
        let most = self.level_max;
        for n in 0..self.nodes.len() {
            while application::level(&self.nodes[n].app).map_err(sql)? < most && self.migrate(n)? {}
        }
        Ok(())
    }

    /// An origin is held until a migration runs here, and that fails, because its change has come
    /// without its row in the bookkeeping: a person notes it as run, as migration tools allow.
    pub(crate) fn note_migrations_of_held(&mut self) -> Result<(), String> {
        for n in 0..self.nodes.len() {
            let is_behind = application::level(&self.nodes[n].app).map_err(sql)? < self.level_max;
            if is_behind && self.is_holding(n) && !self.migrate(n)? {
                let level = application::note_migration(&self.nodes[n].app).map_err(sql)?;
                self.say(|| format!("node {n}: a person notes level {level} as reached"));
                self.nodes[n].wake();
            }
        }
        Ok(())
    }

    /// The application holds the write lock while both actors have work.
    fn lock(&mut self, n: usize) -> Result<(), String> {
        self.nodes[n].app.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        self.marks.hit("write lock held");
        self.say(|| format!("node {n}: the application holds the write lock"));
        let steps = self.inbound_steps(n).and(self.outbound_steps(n));
        self.nodes[n].app.execute_batch("ROLLBACK").map_err(sql)?;
        steps.map(|_| ())
    }
}
