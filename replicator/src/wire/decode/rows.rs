//! Reads the rows of a batch, or only checks them.
//!
//! Arrives: the bytes of a table's rows. Leaves: one row at a time, or its first defect. Owns: what
//! passes the check can be read, so applying a batch cannot fail in the middle. Each row is read
//! twice, nearly always by `scan.rs`. Pure.

use super::scan::Scan;
use super::{BatchReader, DecodeError, PIECE_BYTES, Result, as_integer, damaged, version_of};
use crate::model::batch::{Op, Row, Value};
use crate::model::ids::{Hlc, Version};
use crate::wire::encode::TAG_RAW_TEXT;
use ciborium_ll::Header;
use rusqlite::types::ValueRef;
use std::io::BufRead;

const VALUE: &str = "a value";
const NOT_UTF_8: DecodeError = DecodeError::Unexpected { what: "text that is not UTF-8" };

/// What stands before the values of a row.
struct RowHead {
    version: Version,
    previous: Version,
    op: Op,
    /// The number of values.
    values: usize,
}

impl RowHead {
    /// `columns` are the columns of the table and of its key.
    fn new(
        parts: u64,
        version: Version,
        previous: Version,
        operation: u64,
        [columns, key]: [usize; 2],
    ) -> Result<Self> {
        let (op, values) = match operation {
            0 => (Op::Upsert, columns),
            1 => (Op::Delete, key),
            _ => return Err(DecodeError::Unexpected { what: "a row's operation" }),
        };
        if parts != values as u64 + 5 {
            return Err(DecodeError::Unexpected { what: "the number of values of a row" });
        }
        if version.hlc.0 <= 0 || version.hlc > Hlc::FOREIGN_MAX || previous.hlc.0 < 0 {
            return Err(DecodeError::Unexpected { what: "a row's version" });
        }
        Ok(Self { version, previous, op, values })
    }
}

/// Stores a value in the memory of the one before it. That of a large one is not kept.
fn store(place: &mut Value, value: ValueRef<'_>) {
    if let Value::Text(memory) | Value::Blob(memory) = &*place
        && memory.capacity() > PIECE_BYTES
    {
        *place = Value::Null;
    }
    place.assign(value);
}

impl<R: BufRead> BatchReader<'_, R> {
    /// Reads the next row of the table into `row`, and reuses its allocations. False after the last
    /// row.
    ///
    /// # Errors
    /// The first defect.
    pub fn next_row(&mut self, row: &mut Row) -> Result<bool> {
        if self.rows_left == 0 {
            return Ok(false);
        }
        self.rows_left -= 1;
        let scanned = self.scan_row(|head, scan, bytes_max| {
            row.values.resize(head.values, Value::Null);
            row.values
                .iter_mut()
                .try_for_each(|place| scan.value(bytes_max).map(|v| store(place, v)))
        })?;
        let head = match scanned {
            Some(head) => head,
            None => self.read_row(row)?,
        };
        (row.version, row.previous, row.op) = (head.version, head.previous, head.op);
        self.row_end()?;
        Ok(true)
    }

    /// Checks the next row of the table as [`BatchReader::next_row`] does, without its values.
    pub(super) fn check_row(&mut self) -> Result<bool> {
        if self.rows_left == 0 {
            return Ok(false);
        }
        self.rows_left -= 1;
        let scanned = self.scan_row(|head, scan, bytes_max| {
            (0..head.values).try_for_each(|_| scan.value(bytes_max).map(|_| ()))
        })?;
        if scanned.is_none() {
            // One value after the other, because they can be large.
            for _ in 0..self.row_head()?.values {
                self.value(&mut Value::Null)?;
            }
        }
        self.row_end()?;
        Ok(true)
    }

    /// Reads a row that stands whole in the buffer; `values` reads what follows its head. None if
    /// it does not, or is not as usual, and then nothing is read. Fails only if the source does.
    fn scan_row(
        &mut self,
        values: impl FnOnce(&RowHead, &mut Scan<'_>, u64) -> Option<()>,
    ) -> Result<Option<RowHead>> {
        let Self { cbor, limits, header, columns, key, .. } = self;
        let mut scan = Scan::new(cbor.buffered().map_err(|error| damaged(error, "a row"))?);
        let whole = || {
            let parts = scan.array()?;
            let version = version_of(header, scan.integer()?, scan.unsigned()?)?;
            let previous = version_of(header, scan.integer()?, scan.unsigned()?)?;
            let operation = scan.unsigned()?;
            let head = RowHead::new(parts, version, previous, operation, [*columns, *key]).ok()?;
            values(&head, &mut scan, limits.value_bytes_max)?;
            Some((head, scan.used()))
        };
        let Some((head, used)) = whole() else { return Ok(None) };
        cbor.skip(used);
        Ok(Some(head))
    }

    /// Reads a row, wherever it stands.
    fn read_row(&mut self, row: &mut Row) -> Result<RowHead> {
        let head = self.row_head()?;
        row.values.resize(head.values, Value::Null);
        for value in &mut row.values {
            self.value(value)?;
        }
        Ok(head)
    }

    /// Reads what stands before the values of the next row.
    fn row_head(&mut self) -> Result<RowHead> {
        let parts = self.array("a row", self.limits.columns_max + 5)?;
        let version = self.version("a row's version")?;
        let previous = self.version("a row's previous version")?;
        let operation = self.unsigned("a row's operation")?;
        RowHead::new(parts, version, previous, operation, [self.columns, self.key])
    }

    fn row_end(&mut self) -> Result<()> {
        if self.rows_left == 0 && self.tables_left == 0 { self.end() } else { Ok(()) }
    }

    /// Reads a value into the place of the one before, whose memory it takes.
    fn value(&mut self, place: &mut Value) -> Result<()> {
        let (header, limit) = (self.pull(VALUE)?, self.limits.value_bytes_max);
        let memory = match (&header, &mut *place) {
            (
                Header::Text(_) | Header::Bytes(_) | Header::Tag(_),
                Value::Text(b) | Value::Blob(b),
            ) => std::mem::take(b),
            _ => Vec::new(),
        };
        *place = match header {
            Header::Simple(22) => Value::Null,
            Header::Float(r) if !r.is_nan() => Value::Real(r),
            Header::Text(Some(len)) => {
                let text = self.take_into(VALUE, len, limit, memory)?;
                std::str::from_utf8(&text).map_err(|_| NOT_UTF_8)?;
                Value::Text(text)
            }
            Header::Bytes(Some(len)) => Value::Blob(self.take_into(VALUE, len, limit, memory)?),
            Header::Tag(TAG_RAW_TEXT) => match self.pull(VALUE)? {
                Header::Bytes(Some(len)) => Value::Text(self.take_into(VALUE, len, limit, memory)?),
                _ => return Err(DecodeError::Unexpected { what: VALUE }),
            },
            header => Value::Integer(as_integer(header, VALUE)?),
        };
        Ok(())
    }
}
