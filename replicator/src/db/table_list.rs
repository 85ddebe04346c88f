//! The tables and views of `main`, as `PRAGMA table_list` reports them.

use rusqlite::{Connection, Row};

/// Runs `select` (its columns and conditions) over `pragma_table_list` of `main`.
///
/// The pragma finds out the columns of every view and virtual table, and starts its search anew
/// after each: 5,000 views, which we create for 5,000 tables, take it seconds. So each is looked at
/// before; then the pragma has nothing left to find out.
///
/// # Errors
/// SQLite's error, for instance a damaged schema.
pub(super) fn table_list<T>(
    db: &Connection,
    (columns, condition): (&str, &str),
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut views = db.prepare(
        "SELECT printf('SELECT * FROM main.\"%w\"', name) FROM main.sqlite_schema WHERE type = \
        'view' OR type = 'table' AND rootpage = 0",
    )?;
    let mut views = views.query([])?;
    while let Some(view) = views.next()? {
        // A view of what is gone, or of a module that is not here, is not known to SQLite either.
        let _ = db.prepare(view.get_ref(0)?.as_str()?);
    }
    let sql = format!("SELECT {columns} FROM pragma_table_list WHERE schema = 'main' {condition}");
    db.prepare(&sql)?.query_map([], read)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_virtual_tables_and_their_shadows_are_listed() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE t (a); CREATE VIEW \"v\"\"w\" AS SELECT a FROM t; CREATE VIEW broken AS \
            SELECT * FROM gone; CREATE VIRTUAL TABLE f USING fts5(x);",
        )
        .unwrap();
        let mut list: Vec<(String, String)> =
            table_list(&db, ("name, type", "AND name NOT LIKE 'sqlite_%'"), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        list.sort();
        let shadows = ["f_config", "f_content", "f_data", "f_docsize", "f_idx"];
        let mut expected = vec![("broken", "view"), ("f", "virtual"), ("t", "table")];
        expected.push(("v\"w", "view"));
        expected.extend(shadows.map(|name| (name, "shadow")));
        expected.sort_unstable();
        let list: Vec<(&str, &str)> = list.iter().map(|(n, k)| (n.as_str(), k.as_str())).collect();
        assert_eq!(list, expected);
    }
}
