//! Checks the digests that stand beside the versions.

use harmonylite::capture::install;
use harmonylite::db::packed_key;
use harmonylite::db::row_digest::{self, digest_sql};
use harmonylite::db::sql::quote;
use harmonylite::model::table_filter::TableFilter;
use rusqlite::Connection;

/// Checks at rest that each version has the digest of the row as it is stored, and that the version
/// of a row that is gone has none. Otherwise a comparison of the table would find changes that
/// nobody made, or miss some.
pub(crate) fn check(db: &Connection) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    row_digest::register(db).and_then(|()| packed_key::register(db)).map_err(|e| text(&e))?;
    let layout = install::load(db, &TableFilter::default()).map_err(|e| text(&e))?;
    for table in &layout.ok_or("the schema has a change that was not followed")?.tables {
        let wrong: i64 = db
            .query_row(
                &format!(
                    "SELECT count(*) FROM {} AS v LEFT JOIN {} AS t ON {} WHERE v.digest IS NOT \
                    iif(t.{} IS NULL, NULL, {})",
                    quote(&table.version_table()),
                    quote(table.name()),
                    table.version_of_row(),
                    quote(&table.schema.key[0].name),
                    digest_sql(table, "t"),
                ),
                [],
                |r| r.get(0),
            )
            .map_err(|e| text(&e))?;
        if wrong > 0 {
            return Err(format!(
                "{wrong} versions of {} have another digest than their rows",
                table.name()
            ));
        }
    }
    Ok(())
}
