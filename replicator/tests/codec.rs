//! Decoding returns the encoded values, and no hostile bytes do harm.
//!
//! Method: random batches make the round trip. Then their bytes are flipped, cut, and replaced by
//! bombs (faults 25-27 of the reliability list). Decoding returns a reason, and never panics or
//! uses unbounded memory.

#![allow(clippy::unwrap_used)]

use harmonylite::model::batch::{BatchHeader, Op, Row, TableHeader, Value};
use harmonylite::model::ids::{BatchNo, Hlc, NodeId, Site, Version};
use harmonylite::model::limits::Limits;
use harmonylite::wire::decode::{BatchReader, DecodeError, Outline, outline as outline_plain};
use harmonylite::wire::encode::Encoder;
use harmonylite::wire::unpack::{Unpacker, unpacking};
use proptest::prelude::*;
use std::io::{self, BufRead, BufReader, Read};

type Table = (TableHeader, Vec<Row>);

fn value() -> impl Strategy<Value = Value> {
    let integers =
        prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), Just(0), Just(-1), Just(1 << 53)];
    let reals = prop_oneof![
        any::<f64>(),
        Just(-0.0),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(f64::MIN_POSITIVE / 4.0),
        Just(f64::MAX)
    ];
    prop_oneof![
        Just(Value::Null),
        integers.prop_map(Value::Integer),
        // SQLite stores NaN as NULL, so NaN never occurs.
        reals.prop_map(|r| if r.is_nan() { Value::Null } else { Value::Real(r) }),
        ".{0,20}".prop_map(|t| Value::Text(t.into_bytes())),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Value::Blob),
    ]
}

fn row(columns: usize, sites: i64) -> impl Strategy<Value = Row> {
    let version = move || {
        (0..=Hlc::FOREIGN_MAX.0, 1..=sites)
            .prop_map(|(hlc, site)| Version { hlc: Hlc(hlc), site: Site(site) })
    };
    let previous = prop_oneof![Just(Version::NONE), version()];
    (version(), previous, any::<bool>(), prop::collection::vec(value(), columns)).prop_map(
        |(version, previous, gone, mut values)| {
            let op = if gone { Op::Delete } else { Op::Upsert };
            values.truncate(if gone { 1 } else { usize::MAX });
            Row { version, previous, op, values }
        },
    )
}

fn table() -> impl Strategy<Value = Table> {
    ("[^\\x00]{1,12}", any::<[u8; 32]>(), prop::collection::btree_set("[a-z\"é ]{1,6}", 1..6))
        .prop_flat_map(|(name, hash, columns)| {
            let columns: Vec<String> = columns.into_iter().collect();
            let width = columns.len();
            prop::collection::vec(row(width, 3), 0..20).prop_map(move |rows| {
                let header = TableHeader {
                    name: name.clone(),
                    hash,
                    columns: columns.clone(),
                    key: vec![0],
                    rows: rows.len() as u64,
                };
                (header, rows)
            })
        })
}

fn header() -> BatchHeader {
    BatchHeader {
        node: NodeId(u64::MAX),
        site: Site(1),
        number: BatchNo(7),
        previous: BatchNo(6),
        schema_hash: [9; 32],
        created_ms: -1,
        further_sites: vec![Site(2), Site(3)],
        schema_changes: Vec::new(),
    }
}

fn encode(tables: &[Table]) -> Vec<u8> {
    let mut encoder = Encoder::new(&Limits::default(), std::env::temp_dir()).unwrap();
    encoder.begin(&header(), tables.len() as u64).unwrap();
    let named =
        |v: Version| (v.hlc.0, if v.site.0 == 0 { 0 } else { v.site.0.cast_unsigned() - 1 });
    for (header, rows) in tables {
        encoder.table(header).unwrap();
        for row in rows {
            encoder.row(named(row.version), named(row.previous), row.op, row.values.len()).unwrap();
            for value in &row.values {
                encoder.value(value.into()).unwrap();
            }
        }
    }
    encoder.finish().unwrap().body.to_vec().unwrap()
}

fn decode(bytes: &[u8], limits: &Limits) -> Result<Vec<Table>, DecodeError> {
    outline(bytes, limits)?;
    read(unpacking(bytes, limits)?, limits)
}

fn read(plain: impl BufRead, limits: &Limits) -> Result<Vec<Table>, DecodeError> {
    let mut reader = BatchReader::new(plain, limits)?;
    let mut tables = Vec::new();
    while let Some(header) = reader.next_table()? {
        let mut row = Row {
            version: Version::NONE,
            previous: Version::NONE,
            op: Op::Delete,
            values: Vec::new(),
        };
        let mut rows = Vec::new();
        while reader.next_row(&mut row)? {
            rows.push(row.clone());
        }
        tables.push((header, rows));
    }
    Ok(tables)
}

/// Decompresses while reading, and also in one step. Both results must be equal.
fn outline(bytes: &[u8], limits: &Limits) -> Result<Outline, DecodeError> {
    let streamed = unpacking(bytes, limits).and_then(|source| outline_plain(source, limits));
    let most = usize::try_from(limits.batch_atomic_bytes_max).unwrap().min(1 << 20);
    if let Some(plain) = Unpacker::default().unpack(bytes, most) {
        let at_once = outline_plain(&plain[..], limits);
        assert_eq!(streamed.as_ref().ok(), at_once.as_ref().ok());
    }
    streamed
}

/// Equal to the bit: -0.0 is not 0.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_batch_makes_the_round_trip(tables in prop::collection::vec(table(), 0..4)) {
        let decoded = decode(&encode(&tables), &Limits::default()).unwrap();
        prop_assert_eq!(decoded.len(), tables.len());
        for ((header, rows), (found_header, found_rows)) in tables.iter().zip(&decoded) {
            prop_assert_eq!(header, found_header);
            prop_assert_eq!(rows.len(), found_rows.len());
            for (row, found) in rows.iter().zip(found_rows) {
                // A version without a site is "none" with any time.
                prop_assert_eq!((row.version, row.op), (found.version, found.op));
                prop_assert!(row.values.iter().zip(&found.values).all(|(a, b)| same(a, b)), "{:?} \
                    became {:?}", row, found);
                prop_assert_eq!(row.values.len(), found.values.len());
            }
        }
    }

    #[test]
    fn damaged_bytes_are_a_reason_or_another_batch_but_never_a_panic(
        tables in prop::collection::vec(table(), 1..3),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = encode(&tables);
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= flip;
        // The digest of the parts finds these earlier. This test covers only decode.
        let _ = outline(&flipped[..], &Limits::default());
        let cut = cut.index(bytes.len());
        prop_assert!(outline(&bytes[..cut], &Limits::default()).is_err(), "cut to {} of {} \
            bytes", cut, bytes.len());
    }

    /// Otherwise applying a batch could fail in the middle.
    #[test]
    fn what_the_check_finds_is_what_reading_finds(
        tables in prop::collection::vec(table(), 1..3),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
        buffer in 1_usize..40,
    ) {
        let limits = Limits { value_bytes_max: 150, ..Limits::default() };
        let mut plain = zstd::decode_all(&encode(&tables)[..]).unwrap();
        let at = at.index(plain.len());
        plain[at] ^= flip;
        let defect = |found: Result<(), DecodeError>| found.err().map(|e| e.to_string());
        let read = defect(read(&plain[..], &limits).map(|_| ()));
        prop_assert_eq!(read_twice(&plain, buffer, &limits), read.clone());
        for checked in [
            outline_plain(&plain[..], &limits),
            outline_plain(BufReader::with_capacity(buffer, &plain[..]), &limits),
        ] {
            prop_assert_eq!(defect(checked.map(|_| ())), read.clone());
        }
    }

    #[test]
    fn noise_is_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(outline(&bytes[..], &Limits::default()).is_err());
        let compressed = zstd::encode_all(&bytes[..], 1).unwrap();
        prop_assert!(outline(&compressed[..], &Limits::default()).is_err());
    }
}

/// Reads a batch from its bytes, and in pieces of this size. Returns its defect, if both agree.
fn read_twice(plain: &[u8], size: usize, limits: &Limits) -> Option<String> {
    let whole = read(plain, limits).map_err(|e| e.to_string());
    let pieces = read(BufReader::with_capacity(size, plain), limits).map_err(|e| e.to_string());
    // As text, in which -0.0 is not 0.0.
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"), "{plain:02x?}");
    whole.err()
}

/// A decompressed batch with values of each kind, and deletes.
fn mixed_batch() -> Vec<u8> {
    let version = |hlc| Version { hlc: Hlc(hlc), site: Site(1) };
    let floats = [1.1, 1.5, 3.0e10].map(Value::Real);
    let strings = [Value::Text(b"text".to_vec()), Value::Blob(vec![0xfb, 0xff, 0xff])];
    let numbers = [i64::MIN, 70_000, -1].map(Value::Integer);
    let values: Vec<Value> =
        floats.into_iter().chain(strings).chain(numbers).chain([Value::Null]).collect();
    let columns: Vec<String> = (0..values.len()).map(|i| format!("c{i}")).collect();
    let row = |op, values| Row { version: version(1 << 40), previous: version(9), op, values };
    let gone = row(Op::Delete, vec![Value::Integer(7)]);
    let rows = vec![row(Op::Upsert, values), gone.clone(), gone];
    let header = TableHeader { name: "t".into(), hash: [0; 32], columns, key: vec![0], rows: 3 };
    zstd::decode_all(&encode(&[(header, rows)])[..]).unwrap()
}

/// A row that stands whole in the buffer is read another way than one that does not. Each byte of a
/// batch takes each value.
#[test]
fn a_row_reads_the_same_wherever_it_stands() {
    let (limits, plain) = (Limits::default(), mixed_batch());
    assert_eq!(read_twice(&plain, 4, &limits), None);
    for at in 0..plain.len() {
        for byte in 0..=u8::MAX {
            let mut plain = plain.clone();
            plain[at] = byte;
            read_twice(&plain, 4, &limits);
            // With it a number of eight bytes is beyond the greatest.
            if let Some(next) = plain.get_mut(at + 1) {
                *next = 0xff;
            }
            read_twice(&plain, 4, &limits);
        }
    }
}

/// Fails once at a byte, and goes on after it as if nothing were.
struct FailsOnce<'b> {
    bytes: &'b [u8],
    at: usize,
    fails_at: Option<usize>,
}

impl Read for FailsOnce<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.fails_at.is_some_and(|at| self.at >= at) {
            self.fails_at = None;
            return Err(io::Error::other("once"));
        }
        let count = (self.bytes.len() - self.at).min(buffer.len());
        buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Wherever its source fails, also where the buffer ends with a row, a batch is refused. Going on
/// would pass over bytes.
#[test]
fn an_error_of_the_source_is_never_passed_over() {
    let (limits, plain) = (Limits::default(), mixed_batch());
    for (fails_at, size) in (0..plain.len()).flat_map(|at| (1..=at).map(move |size| (at, size))) {
        let source = FailsOnce { bytes: &plain, at: 0, fails_at: Some(fails_at) };
        let found = outline_plain(BufReader::with_capacity(size, source), &limits);
        let found = found.map(|_| ()).map_err(|e| e.to_string());
        assert!(found.as_ref().is_err_and(|e| e.ends_with("once")), "{fails_at} {size}: {found:?}");
        let source = FailsOnce { bytes: &plain, at: 0, fails_at: Some(fails_at) };
        assert!(
            read(BufReader::with_capacity(size, source), &limits).is_err(),
            "{fails_at} {size}"
        );
    }
}

fn refused(cbor: &[u8], limits: &Limits) -> String {
    outline(&zstd::encode_all(cbor, 1).unwrap()[..], limits).unwrap_err().to_string()
}

#[test]
fn bombs_are_refused_before_they_grow() {
    let limits = Limits { batch_atomic_bytes_max: 1 << 20, ..Limits::default() };
    // 64 MB of zeros in a few KB.
    let zeros = zstd::encode_all(&vec![0_u8; 64 << 20][..], 1).unwrap();
    assert!(zeros.len() < 20_000 && outline(&zeros[..], &limits).is_err());
    // Nested arrays, ten thousand deep.
    assert!(
        refused(&[0x81; 10_000], &limits).contains("format number does not follow the format"),
        "{}",
        refused(&[0x81; 10_000], &limits)
    );
    // A text of 2^63 bytes in place of a table's name.
    let mut batch = vec![0x89, 1, 1, 1, 1, 0, 0x58, 32];
    batch.extend([0; 32]);
    batch.extend([0, 0x80, 0x81, 0x85, 0x7b, 0x80, 0, 0, 0, 0, 0, 0, 0]);
    assert!(refused(&batch, &limits).contains("exceeds the limit"), "{}", refused(&batch, &limits));
    // 2^60 tables.
    let mut batch = vec![0x89, 1, 1, 1, 1, 0, 0x58, 32];
    batch.extend([0; 32]);
    batch.extend([0, 0x80, 0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    assert!(refused(&batch, &limits).contains("exceeds the limit"), "{}", refused(&batch, &limits));
}

#[test]
fn a_window_of_two_gigabytes_is_refused() {
    // A frame header: magic, no single segment, window descriptor with exponent 21 (2^31 bytes),
    // then an empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    let reason = outline(&frame[..], &Limits::default()).unwrap_err().to_string();
    assert!(reason.contains("memory"), "{reason}");
}

#[test]
fn changes_of_the_schema_come_back_and_are_bounded() {
    let limits = Limits::default();
    let changes = vec![b"first".to_vec(), Vec::new(), vec![7; 100_000]];
    let header = BatchHeader { schema_changes: changes, ..header() };
    let mut encoder = Encoder::new(&limits, std::env::temp_dir()).unwrap();
    encoder.begin(&header, 0).unwrap();
    let bytes = encoder.finish().unwrap().body.to_vec().unwrap();
    let read = |limits: &Limits| outline(&bytes, limits);
    assert_eq!(read(&limits).unwrap().header, header);
    let few = Limits { schema_changes_max: 2, ..limits.clone() };
    let short = Limits { schema_change_bytes_max: 99_999, ..limits };
    for limits in [few, short] {
        let reason = read(&limits).unwrap_err().to_string();
        assert!(reason.contains("exceeds the limit"), "{reason}");
    }
}

#[test]
fn a_later_format_waits_for_an_upgrade() {
    let error =
        outline(&zstd::encode_all(&[0x81, 3][..], 1).unwrap()[..], &Limits::default()).unwrap_err();
    assert_eq!(error.action(), harmonylite::model::action::Action::HoldOrigin, "{error}");
}
