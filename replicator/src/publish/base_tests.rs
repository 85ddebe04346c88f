use super::*;
use crate::capture::absorb::{AbsorbState, Acknowledged, absorb, published};
use crate::capture::compare::Compare;
use crate::capture::install::install;
use crate::model::config::NodeConfig;
use crate::model::ids::{BatchNo, Hlc, NodeId, Version};
use crate::model::limits::Limits;
use crate::publish::collect::{CollectFrom, collect};
use crate::store::change_log::log_end;
use crate::store::test_database;
use crate::wire::encode::Encoder;
use std::collections::{BTreeMap, HashSet};

const SITE: Site = Site(7);

/// A node whose log is published and absorbed by turns, in no order.
struct Node {
    db: Connection,
    layout: Layout,
    encoder: Encoder,
    state: AbsorbState,
    sent: i64,
    meta: Meta,
    kept: PublishedRows,
    /// The version with which each row was published last, and whether as deleted.
    said: BTreeMap<i64, (Version, bool)>,
    /// A piece was absorbed since the last collect.
    piece: bool,
    /// The collects that began with rows kept over a piece.
    over_pieces: u64,
    random: u64,
}

impl Node {
    fn new(seed: u64, rows_max: usize) -> Self {
        let config = NodeConfig::for_tests(1);
        let db = test_database();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, a UNIQUE)").unwrap();
        let (layout, _) = install(&db, &config.filter, 0).unwrap();
        let own_sites = HashSet::from([SITE]);
        Self {
            meta: Meta { site: SITE, ..Meta::read(&db).unwrap() },
            db,
            layout,
            encoder: Encoder::new(&Limits::default(), config.spill_dir).unwrap(),
            state: AbsorbState { site: SITE, own_sites, absorbed: 0, published: 0 },
            sent: 0,
            kept: PublishedRows::new(rows_max),
            said: BTreeMap::new(),
            piece: false,
            over_pieces: 0,
            random: seed,
        }
    }

    fn below(&mut self, n: i64) -> i64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33).cast_signed() % n
    }

    /// A statement of an application, at a time that hardly goes on.
    fn write(&mut self, time_ms: i64) {
        let (id, a) = (self.below(5), self.below(4));
        let sql = match self.below(6) {
            0 => format!("DELETE FROM t WHERE id = {id}"),
            1 => format!("UPDATE OR IGNORE t SET a = NULL WHERE id = {id}"),
            2..4 => format!("INSERT OR IGNORE INTO t VALUES ({id}, {a})"),
            _ => format!("INSERT OR REPLACE INTO t VALUES ({id}, {a})"),
        };
        let end = log_end(&self.db).unwrap();
        self.db.execute_batch(&sql).unwrap();
        let sql = "UPDATE __harmonylite__change_log SET time = ?1 WHERE id > ?2";
        self.db.execute(sql, [time_ms, end]).unwrap();
    }

    fn publish(&mut self) {
        let end = log_end(&self.db).unwrap();
        let fold = FoldFrom {
            site: SITE,
            own_sites: &self.state.own_sites,
            absorbed: self.state.absorbed,
            sent: self.sent,
            upto: end,
        };
        self.kept.advance(&self.db, &self.layout, &self.meta, &fold).unwrap();
        let base = self.kept.rows();
        self.over_pieces += u64::from(self.piece && base.is_some_and(|base| base.count() > 0));
        self.piece = false;
        let from = CollectFrom {
            node: NodeId(1),
            fold,
            base,
            previous: BatchNo(0),
            now_ms: 0,
            entries_max: 1_000,
            hlc_max: Hlc::FOREIGN_MAX,
        };
        let found = collect(&self.db, &self.layout, &from, &mut self.encoder).unwrap();
        let Some(collected) = found else { return };
        for row in collected.folded.published() {
            let key = collected.folded.integer_key(row.at).unwrap();
            let sql = "SELECT NOT EXISTS (SELECT 1 FROM t WHERE id = ?1)";
            let is_gone = self.db.query_row(sql, [key], |r| r.get(0)).unwrap();
            self.said.insert(key, (row.version, is_gone));
        }
        self.sent = collected.upto;
        self.kept.keep(collected.folded, collected.upto);
    }

    fn absorb(&mut self, entries_max: i64) {
        let (db, layout, state) = (&self.db, &self.layout, &mut self.state);
        let upto = self.sent.min(state.absorbed.saturating_add(entries_max));
        let acknowledged = Acknowledged { upto, digests: &[] };
        let compare = Compare::default();
        let (_, is_whole) = absorb(db, layout, state, acknowledged, entries_max, &compare).unwrap();
        let upto = self.sent.min(state.absorbed).max(state.published);
        published(db, state, upto).unwrap();
        self.meta.writes += 1;
        self.meta.pieces += i64::from(!is_whole);
        self.piece = !is_whole;
    }

    fn check(&mut self, seed: u64) {
        self.publish();
        self.absorb(i64::MAX);
        for (key, (version, is_gone)) in &self.said {
            let sql = "SELECT hlc, digest IS NULL FROM __harmonylite__t_version WHERE key0 = ?1";
            let read = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?));
            let stored: (Hlc, bool) = self.db.query_row(sql, [key], read).unwrap();
            assert_eq!(stored, (version.hlc, *is_gone), "seed {seed}, row {key}");
        }
    }
}

/// A row must have the version with which it was published, whatever was absorbed between the
/// collects, and however few rows are kept.
#[test]
fn what_is_published_over_pieces_is_what_absorb_stores() {
    let mut over_pieces = 0;
    for seed in 0..500 {
        let rows_max = if seed % 3 == 0 { 4 } else { 1_000 };
        let (mut node, mut time_ms) = (Node::new(seed, rows_max), 5);
        for _ in 0..40 {
            match node.below(10) {
                0..5 => node.write(time_ms),
                5..7 => node.publish(),
                7..9 => {
                    let entries = node.below(3) + 1;
                    node.absorb(entries);
                }
                _ => time_ms += node.below(2),
            }
            if node.below(15) == 0 {
                node.check(seed);
            }
        }
        node.check(seed);
        over_pieces += node.over_pieces;
    }
    assert!(over_pieces > 300, "{over_pieces}");
}
