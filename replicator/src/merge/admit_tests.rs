use super::*;
use crate::capture::install::install;
use crate::model::table_filter::TableFilter;
use crate::store::test_database;
use globset::{Glob, GlobSetBuilder};

/// Table t had the columns id and a and got the column b since; table hidden is excluded.
fn layout() -> Layout {
    let db = test_database();
    let mut exclude = GlobSetBuilder::new();
    exclude.add(Glob::new("hidden").unwrap());
    let filter = TableFilter { exclude: exclude.build().unwrap(), ..TableFilter::default() };
    db.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT);
         CREATE TABLE hidden (id INTEGER PRIMARY KEY);
         CREATE TABLE pair (x TEXT NOT NULL, y TEXT NOT NULL, z, PRIMARY KEY (y, x));",
    )
    .unwrap();
    install(&db, &filter, 0).unwrap();
    db.execute_batch("ALTER TABLE t ADD COLUMN b TEXT").unwrap();
    install(&db, &filter, 0).unwrap().0
}

fn names(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|c| (*c).to_owned()).collect()
}

/// What a node with our schema sends.
fn header(layout: &Layout, table: &str) -> TableHeader {
    let table = layout.by_name(table).unwrap();
    TableHeader {
        name: table.name().to_owned(),
        hash: table.schema.hash,
        columns: table.batch_columns.clone(),
        key: table.batch_key.clone(),
        rows: 1,
    }
}

/// What a node sends that has not added column b yet.
fn header_before(layout: &Layout) -> TableHeader {
    let hash = layout.by_name("t").unwrap().history.former[0].0;
    TableHeader { hash, columns: names(&["id", "a"]), ..header(layout, "t") }
}

fn admit_one(layout: &Layout, header: TableHeader) -> Result<Option<Arc<TableMap>>, String> {
    admit(layout, &[header]).map(|mut maps| maps.remove(0))
}

#[test]
fn the_present_and_the_previous_schema_are_admitted() {
    let layout = layout();
    let present = header(&layout, "t");
    let before = header_before(&layout);
    assert_ne!(present.hash, before.hash);
    let upper = TableHeader { name: "T".to_owned(), ..present.clone() };
    let moved = TableHeader { columns: names(&["b", "ID", "a"]), key: vec![1], ..present.clone() };
    for (what, header, columns, used) in [
        ("present", present, vec!["id", "a", "b"], vec![0, 1, 2]),
        ("other letters", upper, vec!["id", "a", "b"], vec![0, 1, 2]),
        ("other order", moved, vec!["b", "id", "a"], vec![0, 1, 2]),
        ("previous", before, vec!["id", "a"], vec![0, 1]),
        ("key of two", header(&layout, "pair"), vec!["x", "y", "z"], vec![0, 1, 2]),
    ] {
        let map = admit_one(&layout, header).unwrap().unwrap();
        assert_eq!((&map.columns, &map.used), (&names(&columns), &used), "{what}");
    }
}

#[test]
fn an_excluded_table_is_passed_over_and_an_unknown_one_waits() {
    let layout = layout();
    let named = |name: &str| TableHeader { name: name.to_owned(), ..header(&layout, "t") };
    for name in ["hidden", "HIDDEN"] {
        assert!(admit_one(&layout, named(name)).unwrap().is_none(), "{name}");
    }
    for name in ["unknown", "hidden2", ""] {
        let reason = admit_one(&layout, named(name)).unwrap_err();
        assert!(reason.starts_with(&format!("table {name} does not exist here")), "{reason}");
    }
}

#[test]
fn the_reason_names_the_columns_that_differ() {
    let layout = layout();
    let there = "; columns only at the origin: ";
    let here = "; columns only here: ";
    for (columns, expected) in [
        (vec!["id", "a", "b", "c"], format!("{there}c")),
        (vec!["id", "c", "a", "b", "d"], format!("{there}c, d")),
        (vec!["id"], format!("{here}a, b")),
        (vec!["id", "a", "B2"], format!("{there}B2{here}b")),
        (
            vec!["ID", "A", "B"],
            "; the columns have the same names, but types, keys, NOT NULL or unique indexes \
             differ"
                .to_owned(),
        ),
    ] {
        let header =
            TableHeader { hash: [9; 32], columns: names(&columns), ..header(&layout, "t") };
        let reason = admit_one(&layout, header).unwrap_err();
        let whole = format!(
            "table t has another schema here{expected}: run the same migration on both nodes"
        );
        assert_eq!(reason, whole);
    }
}

#[test]
fn without_the_key_of_this_database_no_row_is_taken() {
    let layout = layout();
    let present = header(&layout, "t");
    let before = header_before(&layout);
    let pair = header(&layout, "pair");
    let no_id = names(&["a", "b"]);
    for (what, header) in [
        ("none", TableHeader { key: Vec::new(), ..present.clone() }),
        ("another column", TableHeader { key: vec![1], ..present.clone() }),
        ("one more", TableHeader { key: vec![0, 1], ..present.clone() }),
        ("beyond the columns", TableHeader { key: vec![3], ..present.clone() }),
        ("column missing", TableHeader { columns: no_id.clone(), ..present }),
        ("column missing before", TableHeader { columns: no_id, ..before.clone() }),
        ("another column before", TableHeader { key: vec![1], ..before }),
        ("other order", TableHeader { key: vec![0, 1], ..pair }),
    ] {
        let reason = admit_one(&layout, header).unwrap_err();
        assert!(reason.contains("has another schema here"), "{what}: {reason}");
    }
}

#[test]
fn the_present_hash_with_other_columns_is_not_followed() {
    let layout = layout();
    for columns in [vec!["id", "a"], vec!["id", "a", "b", "c"], vec!["id", "a", "c"]] {
        let header = TableHeader { columns: names(&columns), ..header(&layout, "t") };
        assert!(admit_one(&layout, header).is_err(), "{columns:?}");
    }
    for columns in [vec!["id"], vec!["id", "a", "b"], vec!["id", "b"]] {
        let header = TableHeader { columns: names(&columns), ..header_before(&layout) };
        assert!(admit_one(&layout, header).is_err(), "a former hash, {columns:?}");
    }
}

/// A table before and after a change, and what becomes of a batch from before it: the columns that
/// its values are written to, or a part of the reason why its origin waits.
#[test]
fn a_former_schema_is_admitted_only_if_nothing_is_lost() {
    type Expected = Result<&'static [&'static str], &'static str>;
    let cases: [(&str, &str, Expected); 18] = [
        ("id INTEGER PRIMARY KEY, a", "ALTER TABLE t RENAME a TO w", Ok(&["id", "w"])),
        ("id TEXT PRIMARY KEY, a", "ALTER TABLE t RENAME id TO key", Ok(&["key", "a"])),
        (
            "id INTEGER PRIMARY KEY, a, b INT",
            "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME x TO b",
            Ok(&["id", "b", "a"]),
        ),
        ("id INTEGER PRIMARY KEY, a", "ALTER TABLE t RENAME TO u", Ok(&["id", "a"])),
        ("id INTEGER PRIMARY KEY, a", "ALTER TABLE t ADD b NOT NULL DEFAULT 'x'", Ok(&["id", "a"])),
        ("a, b", "ALTER TABLE t RENAME a TO w", Ok(&["rowid", "w", "b"])),
        ("id INTEGER PRIMARY KEY, a", "ALTER TABLE t DROP a", Err("column a is not here")),
        (
            "id INTEGER PRIMARY KEY, a",
            "ALTER TABLE t DROP a; ALTER TABLE t ADD b",
            Err("column a is not here"),
        ),
        (
            "id INTEGER PRIMARY KEY, a",
            "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, a, b NOT NULL)",
            Err("column b is new here, and NOT NULL"),
        ),
        (
            "id INTEGER PRIMARY KEY, a",
            "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, a, b DEFAULT (random()))",
            Err("column b is new here, and NOT NULL"),
        ),
        (
            "id INTEGER PRIMARY KEY, a INT",
            "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)",
            Err("column a is not here"),
        ),
        (
            "id INTEGER PRIMARY KEY, a VARCHAR(10)",
            "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)",
            Ok(&["id", "a"]),
        ),
        (
            "id INTEGER PRIMARY KEY, a",
            "CREATE UNIQUE INDEX i ON t (a)",
            Err("a unique index is new"),
        ),
        (
            "id INTEGER PRIMARY KEY, a UNIQUE, b",
            "ALTER TABLE t RENAME a TO w",
            Ok(&["id", "w", "b"]),
        ),
        (
            "id INTEGER PRIMARY KEY, a",
            "DROP TABLE t; CREATE TABLE t (id INTEGER, a PRIMARY KEY)",
            Err("the primary key"),
        ),
        (
            "id INTEGER PRIMARY KEY, a, b",
            "ALTER TABLE t DROP b; ALTER TABLE t RENAME a TO b",
            Err("column b is not here"),
        ),
        (
            "id INTEGER PRIMARY KEY, b, n INT",
            "ALTER TABLE t DROP b; ALTER TABLE t RENAME n TO b",
            Err("column b is not here"),
        ),
        (
            "id TEXT COLLATE NOCASE PRIMARY KEY, a",
            "DROP TABLE t; CREATE TABLE t (id TEXT PRIMARY KEY, a)",
            Err("the primary key"),
        ),
    ];
    for (before, ddl, expected) in cases {
        let db = test_database();
        let filter = TableFilter::with_rowids();
        db.execute_batch(&format!("CREATE TABLE t ({before})")).unwrap();
        let former = header(&install(&db, &filter, 0).unwrap().0, "t");
        // A change that came in between must make no difference.
        for middle in ["", "; ALTER TABLE t ADD zz"] {
            let ddl = format!("SAVEPOINT s; {ddl}");
            db.execute_batch(&ddl).unwrap();
            install(&db, &filter, 0).unwrap();
            let name = if ddl.contains("TO u") { "u" } else { "t" };
            if !middle.is_empty() {
                db.execute_batch(&format!("ALTER TABLE {name} ADD zz")).unwrap();
            }
            let layout = install(&db, &filter, 0).unwrap().0;
            match (admit_one(&layout, former.clone()), expected) {
                (Ok(map), Ok(columns)) => assert_eq!(map.unwrap().columns, columns, "{ddl}"),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{ddl}: {reason}"),
                (found, _) => panic!("{ddl}: {found:?}, expected {expected:?}"),
            }
            db.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
        }
    }
}

#[test]
fn one_table_that_waits_holds_the_whole_batch() {
    let layout = layout();
    let good = header(&layout, "pair");
    let passed_over = TableHeader { name: "hidden".to_owned(), ..good.clone() };
    let bad = TableHeader { hash: [9; 32], ..header(&layout, "t") };
    let maps = admit(&layout, &[good.clone(), passed_over.clone()]).unwrap();
    assert_eq!(maps.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
    assert!(admit(&layout, &[good, passed_over, bad]).is_err());
    assert!(admit(&layout, &[]).unwrap().is_empty());
}
