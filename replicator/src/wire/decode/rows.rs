//! Reads the rows of a batch, or only checks them.
//!
//! Arrives: the bytes of a table's rows. Leaves: one row at a time, or its first defect. Owns: what
//! passes the check can be read, so applying a batch cannot fail in the middle. Each row is read
//! twice, and most of what it has are headers of one byte. Pure.

use super::{BatchReader, DecodeError, Result, as_integer, check_length, damaged};
use crate::model::batch::{Op, Row, Value};
use crate::model::ids::{Hlc, Version};
use crate::wire::encode::TAG_RAW_TEXT;
use ciborium_ll::Header;
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

impl<R: BufRead> BatchReader<'_, R> {
    /// Reads the next row of the table into `row`, and reuses its allocations. False after the last
    /// row.
    ///
    /// # Errors
    /// The first defect.
    pub fn next_row(&mut self, row: &mut Row) -> Result<bool> {
        let Some(RowHead { version, previous, op, values }) = self.row_head()? else {
            return Ok(false);
        };
        (row.version, row.previous, row.op) = (version, previous, op);
        row.values.resize(values, Value::Null);
        for value in &mut row.values {
            self.value(value)?;
        }
        self.row_end()?;
        Ok(true)
    }

    /// Checks the next row of the table as [`BatchReader::next_row`] does, without its values.
    pub(super) fn check_row(&mut self) -> Result<bool> {
        let Some(RowHead { values, .. }) = self.row_head()? else { return Ok(false) };
        for _ in 0..values {
            self.check_value()?;
        }
        self.row_end()?;
        Ok(true)
    }

    /// Reads what stands before the values of the next row; None after the last row.
    fn row_head(&mut self) -> Result<Option<RowHead>> {
        if self.rows_left == 0 {
            return Ok(None);
        }
        self.rows_left -= 1;
        let parts = self.array("a row", self.limits.columns_max + 5)?;
        let version = self.version("a row's version")?;
        let previous = self.version("a row's previous version")?;
        let (op, values) = match self.unsigned("a row's operation")? {
            0 => (Op::Upsert, self.columns),
            1 => (Op::Delete, self.key),
            _ => return Err(DecodeError::Unexpected { what: "a row's operation" }),
        };
        if parts != values as u64 + 5 {
            return Err(DecodeError::Unexpected { what: "the number of values of a row" });
        }
        if version.hlc.0 <= 0 || version.hlc > Hlc::FOREIGN_MAX || previous.hlc.0 < 0 {
            return Err(DecodeError::Unexpected { what: "a row's version" });
        }
        Ok(Some(RowHead { version, previous, op, values }))
    }

    fn row_end(&mut self) -> Result<()> {
        if self.rows_left == 0 && self.tables_left == 0 { self.end() } else { Ok(()) }
    }

    /// Reads a value into the place of the one before, whose memory it takes.
    fn value(&mut self, place: &mut Value) -> Result<()> {
        let header = self.pull(VALUE)?;
        self.value_of(header, place)
    }

    /// Reads the value that begins with this header.
    fn value_of(&mut self, header: Header, place: &mut Value) -> Result<()> {
        let limit = self.limits.value_bytes_max;
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

    /// Checks a value as [`BatchReader::value`] does. Mostly it need not be copied for that.
    fn check_value(&mut self) -> Result<()> {
        let limit = self.limits.value_bytes_max;
        let header = self.pull(VALUE)?;
        let (len, is_text) = match header {
            Header::Text(Some(len)) => (len, true),
            Header::Bytes(Some(len)) => (len, false),
            header => return self.value_of(header, &mut Value::Null),
        };
        check_length(VALUE, len, limit)?;
        let is_valid = |bytes: &[u8]| !is_text || std::str::from_utf8(bytes).is_ok();
        match self.cbor.take_buffered(len, is_valid).map_err(|error| damaged(error, VALUE))? {
            Some(true) => Ok(()),
            Some(false) => Err(NOT_UTF_8),
            None => self.value_of(header, &mut Value::Null),
        }
    }
}
