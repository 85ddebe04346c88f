//! Brings back rows whose versions lie in the far future, which no node sends or accepts.
//!
//! Arrives: the layout, the greatest time that other nodes accept, and the present time. Leaves:
//! versions of now of this database, and log entries that publish them. Every other node lets them
//! win, because a stored version in the far future loses against any version that it accepts. It
//! runs inside one write transaction of the caller: all or none.

use super::site_numbers::SiteNumbers;
use super::{change_log, meta};
use crate::db::connection::DatabaseError;
use crate::db::layout::Layout;
use crate::db::sql::quote;
use crate::model::batch::Value;
use crate::model::ids::{Hlc, Site};
use rusqlite::{Connection, params};

/// The rows and changes that are brought back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BroughtBack {
    /// Rows with a stored version in the far future, deleted ones included.
    pub rows: usize,
    /// Logged changes with a time in the far future.
    pub changes: usize,
}

/// Gives the present time to all versions and logged changes beyond `hlc_max`.
///
/// # Errors
/// SQLite's error.
pub fn bring_back(
    db: &Connection,
    layout: &Layout,
    hlc_max: Hlc,
    now_ms: i64,
) -> Result<BroughtBack, DatabaseError> {
    let site = meta::get(db, meta::SITE)?.unwrap_or(Site(0));
    let number = SiteNumbers::default().number(db, site)?;
    let changes = change_log::restamp(db, 0, hlc_max.ms() + 1..i64::MAX, now_ms)?;
    let mut rows = 0;
    for table in &layout.tables {
        let versions = format!("main.{}", quote(&table.version_table()));
        let keys = table.key_of_version();
        let from = format!("FROM {versions} AS v WHERE hlc > ?1");
        let logged =
            change_log::publish_rows(db, table.id, &keys, &from, &[Value::Integer(hlc_max.0)])?;
        if logged > 0 {
            db.execute(
                &format!("UPDATE {versions} SET hlc = ?2, site = ?3 WHERE hlc > ?1"),
                params![hlc_max, Hlc::from_ms(now_ms), number],
            )?;
        }
        rows += logged;
    }
    Ok(BroughtBack { rows, changes })
}
