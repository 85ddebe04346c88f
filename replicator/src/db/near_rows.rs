//! Reads rows by their integer keys, neighbours with one statement.
//!
//! Arrives: keys in any order. Leaves: for each of them its row, or that there is none. Rows are
//! mostly appended, so the next key is the next row, and a step to it costs a fraction of finding
//! it: collecting such rows takes a tenth less time (docs/performance.md). Reads only.

use rusqlite::fallible_streaming_iterator::FallibleStreamingIterator;
use rusqlite::{Row, Rows, Statement};

/// Calls `visit` with the row of each of `count` keys, in the order of `key_of`; None if there is
/// no such row. `select` has the key first, and reads the rows from a key on in ascending order.
///
/// # Errors
/// The error of SQLite or of `visit`.
pub fn visit<E: From<rusqlite::Error>>(
    select: &mut Statement<'_>,
    count: usize,
    key_of: impl Fn(usize) -> i64,
    mut visit: impl FnMut(usize, Option<&Row<'_>>) -> Result<(), E>,
) -> Result<(), E> {
    let mut at = 0;
    while at < count {
        let mut key = key_of(at);
        let mut rows = select.query([key])?;
        let mut found = next(&mut rows)?;
        loop {
            visit(at, rows.get().filter(|_| found == Some(key)))?;
            at += 1;
            // No row is read that is not wanted: it could be large.
            if at == count || key.checked_add(1) != Some(key_of(at)) {
                break;
            }
            if found == Some(key) {
                found = next(&mut rows)?;
            }
            key += 1;
        }
    }
    Ok(())
}

/// Goes to the next row. Returns its key.
fn next(rows: &mut Rows<'_>) -> rusqlite::Result<Option<i64>> {
    rows.advance()?;
    rows.get().map(|row| row.get(0)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    /// Whatever the order of the keys, each gets what a search for it finds.
    #[test]
    fn each_key_gets_its_row() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v)").unwrap();
        for id in [i64::MIN, -1, 0, 1, 2, 4, 5, 9, i64::MAX - 1, i64::MAX] {
            db.execute("INSERT INTO t VALUES (?1, 'v' || ?1)", [id]).unwrap();
        }
        let mut select = db.prepare("SELECT id, v FROM t WHERE id >= ?1 ORDER BY id").unwrap();
        for keys in [
            &[][..],
            &[0, 1, 2, 3, 4, 5, 6],
            &[3, 4],
            &[5, 4, 3, 2, 1],
            &[2, 2, 3, 3, 4],
            &[6, 7, 8, 9, 10, 11],
            &[9, 0, 1, -1, 0],
            &[i64::MAX - 2, i64::MAX - 1, i64::MAX, i64::MIN, i64::MIN + 1],
        ] {
            let mut seen = Vec::new();
            visit::<rusqlite::Error>(
                &mut select,
                keys.len(),
                |at| keys[at],
                |at, row| {
                    let value = row.map(|row| row.get::<_, String>(1)).transpose()?;
                    seen.push((keys[at], value));
                    Ok(())
                },
            )
            .unwrap();
            let one = |id: &i64| -> Option<String> {
                let sql = "SELECT v FROM t WHERE id = ?1";
                db.query_row(sql, [id], |row| row.get(0)).ok()
            };
            let expected: Vec<_> = keys.iter().map(|id| (*id, one(id))).collect();
            assert_eq!(seen, expected);
        }
    }
}
