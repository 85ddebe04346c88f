//! Restores a losing write of a conflict as a new local write.
//!
//! Arrives: an entry of the conflict journal. Leaves: one transaction of an ordinary connection,
//! captured like any other. Owns: no text of the journal reaches SQL. Names are quoted and must
//! exist; literals are parsed and bound.

use super::exit::{Exit, Failure};
use crate::db::layout::TableLayout;
use crate::db::schema::inspect;
use crate::db::sql::literal;
use crate::model::batch::Value;
use crate::model::table_filter::TableFilter;
use crate::store::conflicts::{self, Conflict};
use anyhow::Result;
use data_encoding::HEXLOWER_PERMISSIVE;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params_from_iter};
use std::fmt::Write as _;

/// The columns and literals of a JSON object as the journal writes it.
pub(crate) fn columns(json: Option<&str>) -> Option<Vec<(String, String)>> {
    let serde_json::Value::Object(map) = serde_json::from_str(json?).ok()? else { return None };
    map.into_iter().map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect()
}

/// Restores one conflict and removes it from the journal. Returns a report for people.
pub(crate) fn restore(
    db: &mut Connection,
    filter: &TableFilter,
    conflict: &Conflict,
) -> Result<String> {
    let table = layout(db, filter, conflict)?;
    let key = key_values(&table, conflict)?;
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = current(&transaction, &table, &key)?;
    let mut done = match &conflict.content {
        Some(_) => {
            write(&transaction, &table, conflict)?;
            format!("{} {}: restored, as a new write of this node\n", conflict.table, conflict.key)
        }
        None if before.is_none() => format!(
            "{} {}: the losing write was a delete, and the row does not exist any more\n",
            conflict.table, conflict.key
        ),
        None => {
            transaction.execute(&table.sql.delete_row, params_from_iter(&key))?;
            format!("{} {}: deleted, as a new write of this node\n", conflict.table, conflict.key)
        }
    };
    conflicts::remove(&transaction, conflict.id)?;
    transaction.commit()?;
    if let Some(before) = before {
        done.push_str("it replaced:\n");
        for (name, value) in table.batch_columns.iter().zip(&before) {
            let _ = writeln!(done, "  {name} = {}", literal(value));
        }
    }
    Ok(done)
}

pub(super) fn layout(
    db: &Connection,
    filter: &TableFilter,
    conflict: &Conflict,
) -> Result<TableLayout> {
    let schema = inspect(db, filter)?;
    let found = schema.tables.into_iter().find(|t| t.name.eq_ignore_ascii_case(&conflict.table));
    let table = found.ok_or_else(|| {
        Failure::new(
            Exit::General,
            format!("the table {} is no longer replicated here", conflict.table),
            "`harmonylite conflicts show` prints the content",
        )
    })?;
    let captured: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 \
        COLLATE NOCASE AND substr(name, 1, 15) = '__harmonylite__')",
        [&table.name],
        |r| r.get(0),
    )?;
    if !captured {
        let what = format!(
            "changes of {} are not captured now, so the restored row would reach no other node",
            table.name
        );
        return Err(Failure::new(
            Exit::General,
            what,
            "start `harmonylite run` once, then restore",
        )
        .into());
    }
    Ok(TableLayout::first(0, table))
}

pub(super) fn key_values(table: &TableLayout, conflict: &Conflict) -> Result<Vec<Value>, Failure> {
    let pairs = values(conflict, Some(&conflict.key))?;
    let part = |name: &str| {
        pairs.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone())
    };
    table
        .schema
        .key
        .iter()
        .map(|k| {
            part(&k.name)
                .ok_or_else(|| differs(conflict, &format!("the key now contains {}", k.name)))
        })
        .collect()
}

fn current(db: &Connection, table: &TableLayout, key: &[Value]) -> Result<Option<Vec<Value>>> {
    let all = |r: &rusqlite::Row<'_>| {
        (0..table.batch_columns.len()).map(|i| Ok(r.get_ref(i)?.into())).collect()
    };
    Ok(db.query_row(&table.sql.select_row, params_from_iter(key), all).optional()?)
}

fn write(db: &Connection, table: &TableLayout, conflict: &Conflict) -> Result<()> {
    let pairs = values(conflict, conflict.content.as_deref())?;
    for (name, _) in &pairs {
        if !table.batch_columns.iter().any(|c| c.eq_ignore_ascii_case(name)) {
            return Err(differs(conflict, &format!("the column {name} no longer exists")).into());
        }
    }
    let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
    db.execute(&table.upsert(&names), params_from_iter(pairs.iter().map(|(_, value)| value)))?;
    Ok(())
}

pub(super) fn differs(conflict: &Conflict, how: &str) -> Failure {
    let what =
        format!("the table {} has changed since conflict {}: {how}", conflict.table, conflict.id);
    Failure::new(
        Exit::General,
        what,
        "`harmonylite conflicts show` prints the content: write it by hand",
    )
}

pub(super) fn values(
    conflict: &Conflict,
    json: Option<&str>,
) -> Result<Vec<(String, Value)>, Failure> {
    let pairs = columns(json);
    let missing = pairs.iter().flatten().find(|(_, text)| text.starts_with(conflicts::TOO_LARGE));
    if let Some((name, text)) = missing {
        return Err(Failure::new(
            Exit::General,
            format!(
                "the journal lacks the value of the column {name} in conflict {} {text}",
                conflict.id
            ),
            "a value of more than 32 MB is not kept: the node that wrote it may have it in a \
            snapshot or a backup",
        ));
    }
    let parsed = pairs.and_then(|pairs| {
        pairs.into_iter().map(|(name, text)| Some((name, parse_literal(&text)?))).collect()
    });
    parsed.ok_or_else(|| {
        Failure::new(
            Exit::General,
            format!("conflict {} is unreadable", conflict.id),
            "`harmonylite conflicts show` prints the stored text",
        )
    })
}

/// Reads exactly what [`literal`] writes.
fn parse_literal(text: &str) -> Option<Value> {
    if text == "NULL" {
        return Some(Value::Null);
    }
    if let Some(inner) = text.strip_prefix("CAST(").and_then(|t| t.strip_suffix(" AS TEXT)")) {
        return parse_hex(inner).map(Value::Text);
    }
    if text.starts_with('X') {
        return parse_hex(text).map(Value::Blob);
    }
    if let Some(inner) = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')) {
        let plain = inner.replace("''", "");
        return (!plain.contains('\'')).then(|| Value::Text(inner.replace("''", "'").into_bytes()));
    }
    let number = text.strip_prefix('-').unwrap_or(text);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    text.parse().map(Value::Integer).or_else(|_| text.parse().map(Value::Real)).ok()
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("X'")?.strip_suffix('\'')?;
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::install;
    use crate::store::conflicts;
    use crate::store::install as own_tables;

    #[test]
    fn literals_are_read_back_exactly() {
        for value in [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Integer(7),
            Value::Real(0.1),
            Value::Real(-0.0),
            Value::Real(1e300),
            Value::Real(f64::INFINITY),
            Value::Real(f64::NEG_INFINITY),
            Value::Text(b"it's ''quoted''".to_vec()),
            Value::Text(b"'".to_vec()),
            Value::Text(b"".to_vec()),
            Value::Text(b"a\0b".to_vec()),
            Value::Text(vec![0xff, 0xfe]),
            Value::Blob(vec![]),
            Value::Blob(vec![0, 255]),
        ] {
            let back = parse_literal(&literal(&value)).unwrap();
            assert_eq!(literal(&back), literal(&value));
            assert_eq!(back, value);
        }
        for bad in [
            "",
            "null",
            "1; DROP TABLE t",
            "'a' || 'b'",
            "random()",
            "X'0'",
            "X'zz'",
            "CAST(1 AS TEXT)",
            "'",
            "inf",
            "NaN",
            "-inf",
            "+1",
        ] {
            assert_eq!(parse_literal(bad), None, "{bad}");
        }
    }

    fn db() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE \"odd \"\"name\" (\"the key\" TEXT PRIMARY KEY COLLATE NOCASE, v BLOB, \
            g AS (length(v)));
             INSERT INTO \"odd \"\"name\" VALUES ('a', 'now');",
        )
        .unwrap();
        own_tables::create_tables(&db, std::path::Path::new("x")).unwrap();
        db
    }

    fn conflict(content: Option<&str>) -> Conflict {
        Conflict {
            id: 1,
            time_ms: 1,
            table: "odd \"name".into(),
            key: r#"{"the key":"'A'"}"#.into(),
            reason: conflicts::CONCURRENT.into(),
            winner: String::new(),
            loser: String::new(),
            content: content.map(str::to_owned),
        }
    }

    fn log(db: &Connection) -> i64 {
        db.query_row("SELECT count(*) FROM __harmonylite__change_log", [], |r| r.get(0)).unwrap()
    }

    #[test]
    fn a_row_that_lost_is_written_again_and_captured() {
        let mut db = db();
        let lost = conflict(Some(r#"{"the key":"'A'","v":"X'00ff'"}"#));
        let refused = restore(&mut db, &TableFilter::default(), &lost).unwrap_err();
        assert!(refused.to_string().contains("not captured"), "{refused}");
        install::install(&db, &TableFilter::default(), 1).unwrap();
        let done = restore(&mut db, &TableFilter::default(), &lost).unwrap();
        assert!(done.contains("restored") && done.contains("v = 'now'"), "{done}");
        let row: (String, Vec<u8>) = db
            .query_row("SELECT \"the key\", v FROM \"odd \"\"name\"", [], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })
            .unwrap();
        assert_eq!(row, ("A".to_owned(), vec![0, 255]));
        assert!(log(&db) > 0, "it is a write like any other");
    }

    #[test]
    fn a_delete_that_lost_deletes() {
        let mut db = db();
        install::install(&db, &TableFilter::default(), 1).unwrap();
        assert!(
            restore(&mut db, &TableFilter::default(), &conflict(None)).unwrap().contains("deleted")
        );
        assert_eq!(log(&db), 1);
        assert!(
            restore(&mut db, &TableFilter::default(), &conflict(None))
                .unwrap()
                .contains("does not exist")
        );
        assert_eq!(log(&db), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut db = db();
        install::install(&db, &TableFilter::default(), 1).unwrap();
        for content in
            [r#"{"the key":"'A'","gone":"1"}"#, r#"{"the key":"'A'","v":"(SELECT 1)"}"#, "[]", "x"]
        {
            assert!(
                restore(&mut db, &TableFilter::default(), &conflict(Some(content))).is_err(),
                "{content}"
            );
        }
        let other = Conflict { table: "nowhere".into(), ..conflict(None) };
        assert!(
            restore(&mut db, &TableFilter::default(), &other)
                .unwrap_err()
                .to_string()
                .contains("no longer replicated")
        );
        assert_eq!(log(&db), 0);
    }
}
