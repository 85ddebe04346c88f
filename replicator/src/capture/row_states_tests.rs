use super::*;
use crate::capture::install::install;
use crate::db::layout::Layout;
use crate::model::table_filter::TableFilter;
use crate::store::test_database;

fn layout() -> Layout {
    let db = test_database();
    db.execute_batch(
        "CREATE TABLE a (k TEXT COLLATE NOCASE PRIMARY KEY); CREATE TABLE b (k PRIMARY KEY);
        CREATE TABLE c (x, y, PRIMARY KEY (x, y)) WITHOUT ROWID; CREATE TABLE d (k INTEGER \
        PRIMARY KEY)",
    )
    .unwrap();
    install(&db, &TableFilter::default(), 0).unwrap().0
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[test]
fn two_spellings_of_a_key_are_one_row_and_tables_are_apart() {
    let layout = layout();
    let rows: [(&str, Vec<Value>, usize); 10] = [
        ("a", vec![text("x")], 0),
        ("a", vec![text("X")], 0),
        ("b", vec![text("X")], 1),
        ("b", vec![Value::Integer(1)], 2),
        ("b", vec![Value::Real(1.0)], 2),
        ("b", vec![Value::Real(1.5)], 3),
        ("b", vec![text("1")], 4),
        ("d", vec![Value::Integer(1)], 5),
        ("c", vec![Value::Integer(1), Value::Integer(2)], 6),
        ("c", vec![Value::Real(1.0), Value::Integer(2)], 6),
    ];
    for backwards in [false, true] {
        let mut states = RowStates::default();
        let mut of: HashMap<usize, (usize, Vec<Value>)> = HashMap::new();
        let all: Vec<_> =
            if backwards { rows.iter().rev().collect() } else { rows.iter().collect() };
        for (table, key, row) in all {
            let table = layout.by_name(table).unwrap();
            let known = of.get(row).map(|(at, _)| *at);
            assert_eq!(states.find(table, key), known, "{} {key:?}", table.name());
            let expected = known.map_or(Place::New(states.count()), Place::Known);
            assert_eq!(states.place(table, key), expected, "{} {key:?}", table.name());
            of.entry(*row).or_insert((states.count() - 1, key.clone()));
        }
        let mut read = Vec::new();
        for (at, first_spelling) in of.values() {
            states.key(*at, &mut read);
            assert_eq!(format!("{read:?}"), format!("{first_spelling:?}"));
        }
    }
}

/// The table and the key of each row, in the order of the keys.
fn in_key_order(states: &RowStates) -> Vec<(i64, String)> {
    let mut key = Vec::new();
    let rows = states.in_key_order().into_iter().map(|at| {
        states.key(at as usize, &mut key);
        let key = match &key[..] {
            [Value::Integer(key)] => format!("{:020}", key + 1_000),
            [Value::Text(key)] => String::from_utf8_lossy(key).into_owned(),
            other => panic!("{other:?}"),
        };
        (states.table(at as usize).id, key)
    });
    rows.collect()
}

#[test]
fn texts_are_visited_in_their_order() {
    let layout = layout();
    let table = layout.by_name("b").unwrap();
    let mut states = RowStates::default();
    for i in 0..300_u64 {
        let random = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        states.place(table, &[text(&format!("{random:016x}-a"))]);
    }
    let visited = in_key_order(&states);
    assert!(visited.len() == 300 && visited.is_sorted());
}

/// Whatever the order of the keys, each has one place, its own state and its own key.
#[test]
fn any_order_of_keys_finds_each_row() {
    let layout = layout();
    let tables = ["d", "b"].map(|name| layout.by_name(name).unwrap());
    let orders: [Vec<i64>; 5] = [
        (0..500).collect(),
        (0..500).chain(0..500).collect(),
        (0..500).rev().collect(),
        (0..500).map(|i| i * 7 % 500).collect(),
        (0..250).chain(100..350).chain(0..500).collect(),
    ];
    for (order, tables) in orders.iter().flat_map(|o| [(o, &tables[..1]), (o, &tables[..])]) {
        let mut states = RowStates::default();
        let mut seen = HashMap::new();
        for (i, table) in order.iter().flat_map(|i| tables.iter().map(move |t| (i, *t))) {
            let key = [Value::Integer(i * 3 - 400)];
            let known = seen.get(&(table.id, *i)).copied();
            assert_eq!(states.find(table, &key), known);
            let (Place::Known(at) | Place::New(at)) = states.place(table, &key);
            assert_eq!(known.unwrap_or(states.count() - 1), at);
            seen.insert((table.id, *i), at);
            let mut state = states.state(at);
            state.real = Version { hlc: Hlc(*i), site: Site(table.id) };
            states.set_state(at, &state);
        }
        assert_eq!(states.count(), seen.len());
        let mut key = Vec::new();
        let mut visited = in_key_order(&states);
        assert!(visited.chunk_by(|a, b| a.0 == b.0).count() <= tables.len(), "table by table");
        assert!(visited.chunk_by(|a, b| a.0 == b.0).all(|rows| rows.is_sorted()));
        visited.dedup();
        assert_eq!(visited.len(), seen.len(), "each row once");
        for ((table, i), at) in seen {
            states.key(at, &mut key);
            assert_eq!(
                (states.table(at).id, &key[..]),
                (table, &[Value::Integer(i * 3 - 400)][..])
            );
            assert_eq!(states.state(at).real, Version { hlc: Hlc(i), site: Site(table) });
        }
    }
}

#[test]
fn a_state_comes_back_whole() {
    let layout = layout();
    let table = layout.by_name("d").unwrap();
    let version = |n: i64| Version { hlc: Hlc(n), site: Site(n + 1) };
    let mut expected = Vec::new();
    for n in 0..200_i64 {
        expected.push(State {
            real: version(n),
            previous: (n % 3 == 0).then(|| version(n / 2)),
            floor: Hlc(if n % 5 == 0 { n } else { 0 }),
            merged_from: if n % 7 == 0 { version(n / 3) } else { Version::NONE },
            marks: (n % 64) as u8,
        });
    }
    let mut states = RowStates::default();
    for (n, state) in expected.iter().enumerate() {
        states.place(table, &[Value::Integer(n as i64)]);
        states.set_state(n, &State { floor: Hlc(99), ..*state });
        states.set_state(n, state);
    }
    for (n, state) in expected.iter().enumerate() {
        assert_eq!(states.state(n), *state);
    }
}
