//! Compares databases, all of them with the first: every row of every ordinary table, exactly, and
//! the full text index.

use super::schema::WORDS;
use anyhow::Result;
use data_encoding::HEXUPPER;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use std::collections::{BTreeMap, BTreeSet};

const TABLES: &str = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
    AND name NOT GLOB '__harmonylite__*' AND name NOT GLOB 'sqlite_*' ORDER BY name";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Rows compared (of the first database).
    pub(super) rows: usize,
    /// Nodes that hold what the first holds, itself included.
    pub(super) equal: usize,
    /// One line a difference: table, key, what each node has.
    pub(super) differences: Vec<String>,
}

/// Compares everything. The first database is node 1.
pub(super) fn compare(databases: &[Connection]) -> Result<Comparison> {
    let mut found = Comparison::default();
    let mut unequal = BTreeSet::new();
    let names = databases.iter().map(tables).collect::<Result<Vec<_>>>()?;
    for table in names.iter().flatten().collect::<BTreeSet<_>>() {
        let contents = databases.iter().zip(&names).map(|(db, has)| {
            if has.contains(table) { rows(db, table) } else { Ok(BTreeMap::new()) }
        });
        let contents = contents.collect::<Result<Vec<_>>>()?;
        found.rows += contents.first().map_or(0, BTreeMap::len);
        differ(table, &contents, &mut found.differences, &mut unequal);
    }
    let searches = databases.iter().map(searches).collect::<Result<Vec<_>>>()?;
    differ("full text search", &searches, &mut found.differences, &mut unequal);
    for (i, db) in databases.iter().enumerate() {
        for broken in broken(db) {
            found.differences.push(format!("node {}: {broken}", i + 1));
            unequal.insert(i);
        }
    }
    found.equal = databases.len() - unequal.len();
    Ok(found)
}

type Rows = BTreeMap<String, String>;

fn differ(
    table: &str,
    contents: &[Rows],
    differences: &mut Vec<String>,
    unequal: &mut BTreeSet<usize>,
) {
    for key in contents.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>() {
        let values: Vec<Option<&String>> = contents.iter().map(|rows| rows.get(key)).collect();
        let first = values.first().copied().flatten();
        unequal.extend(
            values.iter().enumerate().filter(|(_, value)| **value != first).map(|(i, _)| i),
        );
        if values.iter().any(|value| *value != first) {
            let each = values
                .iter()
                .enumerate()
                .map(|(i, v)| format!("\n    node {}: {}", i + 1, v.map_or("no such row", |v| v)));
            differences.push(format!("{table} {key}{}", each.collect::<String>()));
        }
    }
}

fn tables(db: &Connection) -> Result<Vec<String>> {
    Ok(db.prepare(TABLES)?.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Rows by key, as text that differs wherever values or their storage classes do.
fn rows(db: &Connection, table: &str) -> Result<Rows> {
    let mut key = db.prepare("SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk")?;
    let key: Vec<String> =
        key.query_map([table], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut read = db.prepare(&format!("SELECT * FROM \"{}\"", table.replace('"', "\"\"")))?;
    let columns: Vec<String> = read.column_names().map(str::to_owned).collect();
    let mut found = Rows::new();
    let mut all = read.query([])?;
    while let Some(row) = all.next()? {
        let is_key = |c: &String| key.is_empty() || key.contains(c);
        found.insert(text(row, &columns, is_key)?, text(row, &columns, |_| true)?);
    }
    Ok(found)
}

fn text(row: &Row<'_>, columns: &[String], wanted: impl Fn(&String) -> bool) -> Result<String> {
    let mut parts = Vec::new();
    for (i, column) in columns.iter().enumerate().filter(|(_, c)| wanted(c)) {
        parts.push(format!("{column}={}", literal(row.get_ref(i)?)));
    }
    Ok(parts.join(" "))
}

fn literal(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(i) => i.to_string(),
        // The bits too: -0.0 is not 0.0.
        ValueRef::Real(r) if r == 0.0 && r.is_sign_negative() => "-0.0".to_owned(),
        ValueRef::Real(r) => format!("{r:?}"),
        ValueRef::Text(t) => std::str::from_utf8(t)
            .map_or_else(|_| format!("text {}", HEXUPPER.encode(t)), |t| format!("{t:?}")),
        ValueRef::Blob(b) => format!("X'{}'", HEXUPPER.encode(b)),
    }
}

/// What a search for each word finds.
fn searches(db: &Connection) -> Result<Rows> {
    let mut search = db.prepare(
        "SELECT count(*), group_concat(rowid) FROM (SELECT rowid FROM product_search WHERE \
        product_search MATCH ?1 ORDER BY rowid)",
    )?;
    let one = |word: &&str| {
        let found = search.query_row([word], |r| {
            Ok(format!(
                "{} products: {}",
                r.get::<_, i64>(0)?,
                r.get::<_, Option<String>>(1)?.unwrap_or_default()
            ))
        })?;
        Ok(((*word).to_owned(), found))
    };
    WORDS.iter().map(one).collect()
}

/// What SQLite itself finds wrong.
fn broken(db: &Connection) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(error) = db.execute(
        "INSERT INTO product_search(product_search, rank) VALUES ('integrity-check', 1)",
        [],
    ) {
        found.push(format!("the full text index does not fit its table: {error}"));
    }
    match db.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |r| r.get::<_, i64>(0))
    {
        Ok(0) => {}
        Ok(n) => found.push(format!("{n} rows break a foreign key")),
        Err(error) => found.push(format!("the foreign keys cannot be checked: {error}")),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    fn shops(dir: &std::path::Path, count: u32) -> Vec<Connection> {
        let shop = |i| {
            let mut db = schema::create(&dir.join(format!("{i}.db"))).unwrap();
            schema::fill(&mut db).unwrap();
            db
        };
        (0..count).map(shop).collect()
    }

    #[test]
    fn equal_shops_are_equal() {
        let dir = tempfile::tempdir().unwrap();
        let found = compare(&shops(dir.path(), 3)).unwrap();
        assert_eq!((found.equal, found.differences.as_slice()), (3, [].as_slice()));
        assert_eq!(found.rows as i64, schema::PRODUCTS * 4 + schema::CUSTOMERS);
    }

    #[test]
    fn every_difference_is_named_with_table_key_and_values() {
        let dir = tempfile::tempdir().unwrap();
        let shops = shops(dir.path(), 3);
        shops[1]
            .execute_batch(
                "UPDATE products SET price = 2 WHERE id = 7; DELETE FROM customers WHERE id = 5",
            )
            .unwrap();
        shops[1].execute_batch("INSERT INTO pictures VALUES (9, X'01FF')").unwrap();
        let found = compare(&shops).unwrap();
        assert_eq!((found.equal, found.differences.len()), (2, 3));
        let all = found.differences.join("\n");
        for part in [
            "products id=7\n",
            "price=2.0",
            "customers id=5\n",
            "node 2: no such row",
            "pictures product_id=9\n",
            "X'01FF'",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
    }

    #[test]
    fn an_index_that_was_not_kept_is_found_though_the_tables_are_equal() {
        let dir = tempfile::tempdir().unwrap();
        let shops = shops(dir.path(), 2);
        shops[0].execute_batch("UPDATE products SET name = 'zinc' WHERE id = 7").unwrap();
        shops[1]
            .execute_batch(
                "DROP TRIGGER product_changed; UPDATE products SET name = 'zinc' WHERE id = 7",
            )
            .unwrap();
        let found = compare(&shops).unwrap();
        assert_eq!(found.equal, 1);
        assert!(found.differences.iter().any(|d| d.contains("full text")), "{found:?}");
    }

    #[test]
    fn storage_classes_and_signs_differ() {
        let values = [
            ValueRef::Integer(1),
            ValueRef::Real(1.0),
            ValueRef::Text(b"1"),
            ValueRef::Blob(b"1"),
            ValueRef::Null,
        ];
        let texts: BTreeSet<String> = values.into_iter().map(literal).collect();
        assert_eq!(texts.len(), 5);
        assert_ne!(literal(ValueRef::Real(0.0)), literal(ValueRef::Real(-0.0)));
    }
}
