//! Checks the conditions that must always hold, and those that must hold at the end.

use crate::application::{TABLES, Table};
use crate::oracle::{self, Reach, Write, meta};
use crate::plan::{ActionKind, Direction};
use crate::stored_digests;
use crate::stored_versions;
use crate::world::{World, sql};
use harmonylite::model::config::OnJoin;
use std::collections::BTreeMap;

impl World<'_> {
    /// Checks the conditions that must always hold.
    pub(crate) fn check_node(&mut self, n: usize) -> Result<(), String> {
        self.note_site(n)?;
        self.check_pairs(n)?;
        for (t, table) in TABLES.iter().enumerate() {
            let now = stored_versions::versions(&self.nodes[n].app, table).map_err(sql)?;
            for (key, before) in &self.seen[n][t] {
                match now.get(key) {
                    Some(version) if version >= before => {}
                    None if self.pruned => {}
                    other => {
                        return Err(format!(
                            "node {n}: the version of {} {key} went from {before:?} to {other:?}",
                            table.name
                        ));
                    }
                }
            }
            self.seen[n][t] = now;
        }
        Ok(())
    }

    pub(crate) fn check_pairs(&mut self, n: usize) -> Result<(), String> {
        if !self.plan.splits
            && let Some(pair) = oracle::broken_pair(&self.nodes[n].app).map_err(sql)?
        {
            return Err(format!("node {n} shows half of a transaction: pair {pair}"));
        }
        Ok(())
    }

    /// A new incarnation becomes the writer of all changes that are not absorbed yet.
    pub(crate) fn note_site(&mut self, n: usize) -> Result<(), String> {
        let db = &self.nodes[n].app;
        let site = meta(db, "site").map_err(sql)?;
        if site != self.sites[n] {
            self.oracle.new_site(n, self.absorbed[n], self.sites[n], site);
            self.sites[n] = site;
            self.say(|| format!("node {n} is site {site}"));
        }
        self.absorbed[n] = meta(&self.nodes[n].app, "absorbed").map_err(sql)?;
        Ok(())
    }

    /// After a power cut, forgets all observations since the last sync.
    pub(crate) fn forget_seen(&mut self, n: usize) -> Result<(), String> {
        for (t, table) in TABLES.iter().enumerate() {
            self.seen[n][t] = stored_versions::versions(&self.nodes[n].app, table).map_err(sql)?;
        }
        self.sites[n] = meta(&self.nodes[n].app, "site").map_err(sql)?;
        self.absorbed[n] = meta(&self.nodes[n].app, "absorbed").map_err(sql)?;
        Ok(())
    }

    /// The rows of a node stay if it comes to join before anybody has published.
    pub(crate) fn note_first(&mut self, n: usize) {
        let forgets =
            [ActionKind::PowerCut, ActionKind::LoseDisk].iter().any(|k| self.plan.has(*k));
        let comes = self.nodes[n].starts == 1 && self.checks_passed(n) == 1;
        let is_empty = self.broker.last() == 0;
        if comes && is_empty && !forgets && !self.plan.broker_loses() {
            self.oracle.populated_stays(n);
            if self.plan.on_join == OnJoin::Replace {
                self.marks.hit("first node keeps its rows");
            }
        }
    }

    /// Checks the conditions that must hold at rest.
    pub(crate) fn judge(&mut self) -> Result<(), String> {
        self.check_bounds()?;
        for (n, node) in self.nodes.iter().enumerate() {
            stored_digests::check(&node.app).map_err(|reason| format!("node {n}: {reason}"))?;
        }
        for table in TABLES {
            self.check_equal(table)?;
        }
        for (n, direction) in self.plan.directions.iter().enumerate() {
            match direction {
                Direction::Publishes => self.marks.hit("node that only publishes"),
                Direction::Applies => self.marks.hit("node that only applies"),
                Direction::Both if n == 0 => {}
                // It equals the first one.
                Direction::Both => continue,
            }
            let reach = |write: &Write| self.reach_of(write, n);
            let judged = self.oracle.judge(&self.nodes[n].app, self.pruned, reach);
            judged.map_err(|reason| format!("node {n}: {reason}"))?;
        }
        Ok(())
    }

    /// Returns how a write reaches a node.
    fn reach_of(&self, write: &Write, to: usize) -> Reach {
        let directions = &self.plan.directions;
        match (directions[write.node], directions[to]) {
            (_, Direction::Publishes) if write.node == to && !write.is_lost_by_disk() => {
                Reach::Always
            }
            // It does not get back what its disk has lost. What others wrote may have come with the
            // image of another node.
            (_, Direction::Publishes) => Reach::Perhaps,
            (Direction::Applies, _) if write.node != to => Reach::Never,
            _ => Reach::Always,
        }
    }

    /// Checks that all nodes that publish and apply have the same rows and versions.
    fn check_equal(&self, table: &Table) -> Result<(), String> {
        let rows = |n: usize| oracle::rows(&self.nodes[n].app, table).map_err(sql);
        let versions = |n: usize| stored_versions::versions(&self.nodes[n].app, table).map_err(sql);
        let (first, first_versions) = (rows(0)?, versions(0)?);
        for n in 1..self.nodes.len() {
            if self.plan.directions[n] != Direction::Both {
                continue;
            }
            let (rows, versions) = (rows(n)?, versions(n)?);
            if rows != first {
                return Err(format!(
                    "diverged in {}: node 0 {} node {n} {}",
                    table.name,
                    differ(&first, &rows),
                    differ(&rows, &first)
                ));
            }
            if !self.pruned && versions != first_versions {
                return Err(format!(
                    "versions diverged in {}: {first_versions:?} and {versions:?}",
                    table.name
                ));
            }
        }
        Ok(())
    }

    /// Checks that logs and journals are bounded.
    pub(crate) fn check_bounds(&mut self) -> Result<(), String> {
        let limits = &self.plan.limits;
        let trail = (limits.cursor_trail_max.max(2) as i64) * i64::from(self.plan.shards);
        let bounds = [
            ("change_log", 1),
            ("cursor", trail),
            ("conflict", limits.conflicts_max.cast_signed()),
            ("quarantine", 0),
            ("gap", 0),
            ("held", 0),
        ];
        for (n, node) in self.nodes.iter().enumerate() {
            for (table, most) in bounds {
                let sql_text = format!("SELECT count(*) FROM __harmonylite__{table}");
                let count: i64 = node
                    .app
                    .prepare_cached(&sql_text)
                    .and_then(|mut s| s.query_row([], |r| r.get(0)))
                    .map_err(sql)?;
                if count > most {
                    return Err(format!(
                        "node {n}: {count} entries in {table} at rest, {most} at most"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn differ(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> String {
    let only: Vec<String> =
        a.iter().filter(|(k, v)| b.get(*k) != Some(v)).map(|(k, v)| format!("{k} = {v}")).collect();
    format!("[{}]", only.join("; "))
}
