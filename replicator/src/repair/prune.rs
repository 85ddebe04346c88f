//! Drops versions, of rows and tombstones alike, that are older than anybody can still need.
//!
//! Arrives: an idle moment of the writing actor, and the time before which versions may go. Leaves:
//! smaller version tables, a bounded number of them looked at in one transaction. Owns: nothing
//! younger goes, and nothing while the log still needs a version. A crash loses the place in the
//! pass; the next pass begins anew.

use crate::db::connection::DatabaseError;
use crate::db::key_pages::stretch;
use crate::db::layout::Layout;
use crate::db::sql::quote;
use crate::model::batch::Value;
use crate::model::ids::Hlc;
use crate::model::planted_bugs::{Bug, planted};
use rusqlite::{Connection, params_from_iter};

/// Where a pass over all version tables is.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    table: usize,
    /// The last key looked at in it.
    after: Option<Vec<Value>>,
}

/// Versions looked at in one transaction: some milliseconds of work.
pub const PRUNE_ROWS_MAX: u64 = 2_000;

/// Looks at the next versions and drops those before `before_ms`. Inside the caller's write
/// transaction, after absorb, with nothing pending in the log. Returns how many were dropped, and
/// the place to go on from; None: the pass is complete.
///
/// # Errors
/// What SQLite says.
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
    let keys: Vec<String> = (0..table.schema.key.len()).map(|i| format!("key{i}")).collect();
    let mut some = stretch(db, &format!("main.{name}"), &keys, pass.after.as_deref(), rows_max)?;
    some.values.push(Value::Integer(Hlc::from_ms(before_ms).0));
    let sql = format!(
        "DELETE FROM main.{name} WHERE {} AND hlc < ?{}",
        some.condition,
        some.values.len()
    );
    let dropped = db.prepare_cached(&sql)?.execute(params_from_iter(&some.values))?;
    let next = match some.end {
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
    let same: Vec<String> = table
        .schema
        .key
        .iter()
        .enumerate()
        .map(|(i, k)| format!("v.key{i} = t.{}", quote(&k.name)))
        .collect();
    let sql = format!(
        "DELETE FROM main.{} AS v WHERE NOT EXISTS (SELECT 1 FROM main.{} AS t WHERE {})",
        quote(&table.version_table()),
        quote(table.name()),
        same.join(" AND ")
    );
    Ok((db.execute(&sql, [])? as u64, Some(Pass { table: at + 1, after: None })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install::install;
    use crate::db::connection::{begin_site, create_tables};
    use crate::model::ids::Site;
    use crate::model::table_filter::TableFilter;

    /// However small the pieces are, exactly the versions before the bound go, in tables of every
    /// kind of key.
    #[test]
    fn exactly_what_is_older_goes() {
        for piece in [1, 2, 3, 100] {
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
                    "INSERT INTO __harmonylite__a_version VALUES (?1, ?2, 7)",
                    (i * 37 % 20, hlc),
                )
                .unwrap();
                db.execute(
                    "INSERT INTO __harmonylite__b_version VALUES (?1, ?2, ?3, 7)",
                    (format!("k{}", i % 3), i, hlc),
                )
                .unwrap();
            }
            let (mut pass, mut dropped, mut turns) = (Some(Pass::default()), 0, 0);
            while let Some(at) = pass {
                let (n, next) = prune(&db, &layout, &at, 1_005, piece).unwrap();
                (pass, dropped, turns) = (next, dropped + n, turns + 1);
                assert!(turns < 100, "a pass ends");
            }
            assert_eq!(dropped, 10, "pieces of {piece}");
            let left: i64 = db
                .query_row(
                    "SELECT (SELECT min(hlc) FROM __harmonylite__a_version) + (SELECT min(hlc) \
                    FROM __harmonylite__b_version)",
                    [],
                    |r| r.get(0),
                )
                .unwrap();
            assert_eq!(left, 2 * Hlc::from_ms(1_005).0);
        }
    }
}
