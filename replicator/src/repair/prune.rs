//! Drops tombstones that no node can need any more. The version of a row that is there stays,
//! because the digest of the row stands beside it.
//!
//! Arrives: an idle moment of the writing actor, and the time before which versions may be dropped.
//! Leaves: smaller version tables. Each transaction examines a bounded number of versions. Owns:
//! younger versions stay, and nothing is dropped while the log still needs a version. A crash loses
//! the place in the pass; the next pass starts from the beginning.

use crate::db::connection::DatabaseError;
use crate::db::key_pages::next_page;
use crate::db::layout::{Layout, version_keys};
use crate::db::sql::quote;
use crate::model::batch::Value;
use crate::model::config::Now;
use crate::model::ids::Hlc;
use crate::model::planted_bugs::{Bug, planted};
use rusqlite::{Connection, params_from_iter};

/// The interval between passes over all versions.
const INTERVAL_MS: u64 = 3_600_000;
/// The wait before a postponed pass is retried.
const LATER_MS: u64 = 60_000;

/// Schedules the dropping of old versions: one pass an hour, in idle moments, in bounded
/// transactions.
///
/// The caller postpones a pass while anything may need old versions. A clock that jumped ahead does
/// no harm, because the earlier of our own time and the newest applied message counts.
#[derive(Debug)]
pub struct Pruning {
    pass: Option<Pass>,
    due_ms: u64,
}

impl Pruning {
    /// Creates the schedule. The first pass starts after one interval.
    pub fn new(now: Now) -> Self {
        Self { pass: None, due_ms: now.mono_ms + interval_ms() }
    }

    /// Returns when the next step is due, on the monotone clock.
    pub fn deadline(&self) -> u64 {
        self.due_ms
    }

    /// Postpones the pass.
    pub fn postpone(&mut self, now: Now) {
        self.due_ms = now.mono_ms + LATER_MS;
    }

    /// Takes the place in the pass for a step. If the step fails, the pass starts again.
    pub fn take(&mut self) -> Pass {
        self.pass.take().unwrap_or_default()
    }

    /// Takes over a committed step. [`prune`] returned `next`.
    pub fn committed(&mut self, next: Option<Pass>, now: Now) {
        if next.is_none() {
            self.due_ms = now.mono_ms + interval_ms();
        }
        self.pass = next;
    }
}

fn interval_ms() -> u64 {
    if planted(Bug::TombstoneEarly) { 1_000 } else { INTERVAL_MS }
}

/// Returns the time before which versions may be dropped, unix milliseconds; None if nothing may be
/// dropped. `newest_ns` is the time at which the broker stored the newest applied message.
pub fn prune_before_ms(newest_ns: Option<i64>, now: Now, retention_ms: i64) -> Option<i64> {
    let before_ms = (newest_ns? / 1_000_000).min(now.unix_ms).checked_sub(retention_ms)?;
    (before_ms > 0).then_some(before_ms)
}

/// The place in a pass over all version tables.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    table: usize,
    /// The last examined key of the table.
    after: Option<Vec<Value>>,
}

/// The number of versions examined in one transaction: some milliseconds of work.
pub const PRUNE_ROWS_MAX: u64 = 2_000;

/// Examines the next versions and drops the tombstones before `before_ms`. Runs inside the caller's
/// write transaction, after absorb, with nothing pending in the log. Returns the number of dropped
/// versions and the next place; None if the pass is complete.
///
/// # Errors
/// SQLite's error.
pub fn prune(
    db: &Connection,
    layout: &Layout,
    pass: &Pass,
    before_ms: i64,
    rows_max: u64,
) -> Result<(u64, Option<Pass>), DatabaseError> {
    let Some(table) = layout.tables.get(pass.table) else { return Ok((0, None)) };
    let name = quote(&table.version_table());
    if planted(Bug::TombstoneEarly) {
        return tombstones_early(db, table, pass.table);
    }
    let keys = version_keys(&table.schema);
    let mut page = next_page(db, &format!("main.{name}"), &keys, pass.after.as_deref(), rows_max)?;
    page.values.push(Value::Integer(Hlc::from_ms(before_ms).0));
    let sql = format!(
        "DELETE FROM main.{name} WHERE {} AND hlc < ?{} AND digest IS NULL",
        page.condition,
        page.values.len()
    );
    let dropped = db.prepare_cached(&sql)?.execute(params_from_iter(&page.values))?;
    let next = match page.end {
        Some(after) => Pass { table: pass.table, after: Some(after) },
        None => Pass { table: pass.table + 1, after: None },
    };
    Ok((dropped as u64, (next.table < layout.tables.len()).then_some(next)))
}

fn tombstones_early(
    db: &Connection,
    table: &crate::db::layout::TableLayout,
    at: usize,
) -> Result<(u64, Option<Pass>), DatabaseError> {
    let sql = format!(
        "DELETE FROM main.{} AS v WHERE NOT EXISTS (SELECT 1 FROM main.{} AS t WHERE {})",
        quote(&table.version_table()),
        quote(table.name()),
        table.row_of_version()
    );
    Ok((db.execute(&sql, [])? as u64, Some(Pass { table: at + 1, after: None })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install::install;
    use crate::model::ids::Site;
    use crate::model::table_filter::TableFilter;
    use crate::store::install::create_tables;
    use crate::store::sites::begin_site;

    #[test]
    fn the_earlier_of_our_clock_and_the_newest_message_counts() {
        let now = Now { unix_ms: 10_000, mono_ms: 0 };
        for (newest_ms, retention_ms, before_ms) in [
            (Some(9_000), 1_000, Some(8_000)),
            (Some(20_000), 1_000, Some(9_000)),
            (Some(9_000), 9_000, None),
            (Some(9_000), i64::MAX, None),
            (None, 1_000, None),
        ] {
            let newest_ns = newest_ms.map(|ms: i64| ms * 1_000_000);
            assert_eq!(prune_before_ms(newest_ns, now, retention_ms), before_ms);
        }
    }

    #[test]
    fn a_complete_pass_waits_for_an_hour_and_a_postponed_one_for_a_minute() {
        let now = |mono_ms| Now { unix_ms: 0, mono_ms };
        let mut pruning = Pruning::new(now(0));
        assert_eq!(pruning.deadline(), INTERVAL_MS);
        pruning.postpone(now(INTERVAL_MS));
        assert_eq!(pruning.deadline(), INTERVAL_MS + LATER_MS);
        pruning.committed(Some(Pass { table: 1, after: None }), now(INTERVAL_MS + LATER_MS));
        assert_eq!(pruning.deadline(), INTERVAL_MS + LATER_MS, "the pass continues at once");
        assert_eq!(pruning.take().table, 1);
        pruning.committed(None, now(2 * INTERVAL_MS));
        assert_eq!(pruning.deadline(), 3 * INTERVAL_MS);
    }

    /// With pages of any size, exactly the versions before the bound are dropped, in tables with
    /// every kind of key.
    #[test]
    fn exactly_the_older_tombstones_go() {
        for rows_max in [1, 2, 3, 100] {
            let db = Connection::open_in_memory().unwrap();
            db.execute_batch(
                "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (x TEXT \
                COLLATE NOCASE, y, PRIMARY KEY (x, y)); CREATE TABLE empty (id INTEGER PRIMARY \
                KEY)",
            )
            .unwrap();
            create_tables(&db, std::path::Path::new(":memory:")).unwrap();
            begin_site(&db, Site(7), 0).unwrap();
            let (layout, _) = install(&db, &TableFilter::default(), 0).unwrap();
            for i in 0..20 {
                let hlc = Hlc::from_ms(1_000 + i).0;
                db.execute(
                    "INSERT INTO __harmonylite__a_version VALUES (?1, ?2, 7, NULL)",
                    (i * 37 % 20, hlc),
                )
                .unwrap();
                db.execute(
                    "INSERT INTO __harmonylite__b_version VALUES (?1, ?2, ?3, 7, NULL)",
                    (format!("k{}", i % 3), i, hlc),
                )
                .unwrap();
            }
            // A row that is there keeps its version, however old: the digest beside it is needed.
            db.execute("INSERT INTO __harmonylite__a_version VALUES (99, 5, 7, 0)", []).unwrap();
            let (mut pass, mut dropped, mut turns) = (Some(Pass::default()), 0, 0);
            while let Some(at) = pass {
                let (n, next) = prune(&db, &layout, &at, 1_005, rows_max).unwrap();
                (pass, dropped, turns) = (next, dropped + n, turns + 1);
                assert!(turns < 100, "a pass ends");
            }
            assert_eq!(dropped, 10, "pages of {rows_max}");
            let left: i64 = db
                .query_row(
                    "SELECT (SELECT min(hlc) FROM __harmonylite__a_version WHERE key0 < 99) + \
                    (SELECT min(hlc) FROM __harmonylite__b_version) + (SELECT hlc - 5 FROM \
                    __harmonylite__a_version WHERE key0 = 99)",
                    [],
                    |r| r.get(0),
                )
                .unwrap();
            assert_eq!(left, 2 * Hlc::from_ms(1_005).0);
        }
    }
}
