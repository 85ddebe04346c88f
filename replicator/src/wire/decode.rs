//! The trust boundary: turns bytes into a bounded batch, or into a reason for quarantine. Never
//! allocates by an unchecked length.
//!
//! Arrives: the bytes of a whole batch. Leaves: headers and rows, one at a time. [`outline`] reads
//! the whole batch once, so that applying it, by a second reading, cannot fail in the middle. Pure,
//! so a crash loses nothing.

use crate::model::action::Action;
use crate::model::batch::{BatchHeader, Digest, TableHeader};
use crate::model::ids::{BatchNo, Hlc, NodeId, Site, Version};
use crate::model::limits::Limits;
use crate::wire::cbor::{CborError, CborReader};
use crate::wire::encode::{FORMAT, FORMAT_WITH_CHANGES};
use ciborium_ll::Header;
use std::io::{self, BufRead};

mod rows;
mod scan;

/// The reason why a batch could not be read. The bytes are hostile until proven otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The format is not the one that this program reads.
    #[error(
        "the batch has format {found}, and this node reads formats up to {known}: run the same \
        release on all nodes"
    )]
    UnknownFormat {
        /// The format.
        found: u64,
        /// The format that this program reads.
        known: u64,
    },
    /// A size or count exceeds its limit.
    #[error("{what} of {found} exceeds the limit of {limit}")]
    TooLarge {
        /// The name of the size or count.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A part of the batch does not follow the format.
    #[error("{what} does not follow the format")]
    Unexpected {
        /// Where.
        what: &'static str,
    },
    /// The bytes end early, or cannot be decompressed.
    #[error("cannot read {what}: {reason}")]
    Damaged {
        /// Where.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

impl DecodeError {
    /// Returns the action for this error. A batch of an unknown format waits for an upgrade; the
    /// other errors are permanent.
    pub fn action(&self) -> Action {
        match self {
            Self::UnknownFormat { .. } => Action::HoldOrigin,
            Self::TooLarge { .. } | Self::Unexpected { .. } | Self::Damaged { .. } => {
                Action::Quarantine
            }
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, DecodeError>;

/// A batch without its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Its header.
    pub header: BatchHeader,
    /// Its tables.
    pub tables: Vec<TableHeader>,
    /// The number of rows in all tables.
    pub rows: u64,
}

/// Values are read in pieces of this size, so that an announced length alone costs nothing.
const PIECE_BYTES: usize = 64 << 10;

/// Reads a batch from its decompressed bytes.
pub struct BatchReader<'l, R> {
    cbor: CborReader<R>,
    limits: &'l Limits,
    header: BatchHeader,
    tables_left: u64,
    rows_left: u64,
    columns: usize,
    key: usize,
}

/// Reads a whole decompressed batch, and returns its headers and row counts.
///
/// # Errors
/// The first defect, up to the last byte.
pub fn outline<R: BufRead>(source: R, limits: &Limits) -> Result<Outline> {
    let mut reader = BatchReader::new(source, limits)?;
    let (mut tables, mut rows) = (Vec::new(), 0);
    while let Some(table) = reader.next_table()? {
        rows += table.rows;
        while reader.check_row()? {}
        tables.push(table);
    }
    Ok(Outline { header: reader.header, tables, rows })
}

impl<'l, R: BufRead> BatchReader<'l, R> {
    /// Reads the header.
    ///
    /// # Errors
    /// The first defect.
    pub fn new(source: R, limits: &'l Limits) -> Result<Self> {
        let header = BatchHeader {
            node: NodeId(0),
            site: Site(0),
            number: BatchNo(0),
            previous: BatchNo(0),
            schema_hash: [0; 32],
            created_ms: 0,
            further_sites: Vec::new(),
            schema_changes: Vec::new(),
        };
        let mut reader = Self {
            cbor: CborReader::new(source),
            limits,
            header,
            tables_left: 0,
            rows_left: 0,
            columns: 0,
            key: 0,
        };
        reader.read_header()?;
        Ok(reader)
    }

    /// Returns the header of the batch.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    fn read_header(&mut self) -> Result<()> {
        let parts = self.array("the batch", 1_000)?;
        let format = self.unsigned("the format number")?;
        let known = match format {
            FORMAT => 9,
            FORMAT_WITH_CHANGES => 10,
            found => {
                return Err(DecodeError::UnknownFormat { found, known: FORMAT_WITH_CHANGES });
            }
        };
        if parts != known {
            return Err(DecodeError::Unexpected { what: "the number of parts of the batch" });
        }
        self.header.node = NodeId(self.unsigned("the node")?);
        self.header.site = self.site("the site")?;
        self.header.number = BatchNo(self.unsigned("the batch number")?);
        self.header.previous = BatchNo(self.unsigned("the previous batch number")?);
        self.header.schema_hash = self.digest("the schema hash")?;
        self.header.created_ms = self.integer("the creation time")?;
        let sites = self.array("the number of sites", self.limits.sites_max)?;
        for _ in 0..sites {
            let site = self.site("a further site")?;
            self.header.further_sites.push(site);
        }
        if format == FORMAT_WITH_CHANGES {
            self.read_schema_changes()?;
        }
        self.tables_left = self.array("the number of tables", self.limits.batch_tables_max)?;
        if self.tables_left == 0 {
            self.end()?;
        }
        Ok(())
    }

    fn read_schema_changes(&mut self) -> Result<()> {
        let (what, limits) = ("a change of the schema", self.limits);
        for _ in 0..self.array("the number of schema changes", limits.schema_changes_max)? {
            let Header::Bytes(Some(len)) = self.pull(what)? else {
                return Err(DecodeError::Unexpected { what });
            };
            let change = self.take(what, len, limits.schema_change_bytes_max)?;
            self.header.schema_changes.push(change);
        }
        Ok(())
    }

    /// Reads the next table header. All rows of a table must be read before the next table.
    ///
    /// # Errors
    /// The first defect.
    pub fn next_table(&mut self) -> Result<Option<TableHeader>> {
        if self.tables_left == 0 {
            return Ok(None);
        }
        assert!(self.rows_left == 0, "rows of the table before are left");
        self.tables_left -= 1;
        if self.array("a table", 5)? != 5 {
            return Err(DecodeError::Unexpected { what: "the number of parts of a table" });
        }
        let name = self.name("a table name")?;
        let hash = self.digest("a table's hash")?;
        let count = self.array("the number of columns", self.limits.columns_max)?;
        let mut columns: Vec<String> = Vec::new();
        for _ in 0..count {
            columns.push(self.name("a column name")?);
        }
        let key_count = self.array("the number of key columns", count)?;
        let mut key = Vec::new();
        for _ in 0..key_count {
            let index = usize::try_from(self.unsigned("a key index")?).unwrap_or(usize::MAX);
            if index >= columns.len() || key.contains(&index) {
                return Err(DecodeError::Unexpected { what: "a key index" });
            }
            key.push(index);
        }
        check_names(&name, &columns)?;
        if key.is_empty() {
            return Err(DecodeError::Unexpected { what: "a table without a key" });
        }
        self.rows_left = self.array("the number of rows", self.limits.batch_atomic_bytes_max)?;
        (self.columns, self.key) = (columns.len(), key.len());
        if self.rows_left == 0 && self.tables_left == 0 {
            self.end()?;
        }
        Ok(Some(TableHeader { name, hash, columns, key, rows: self.rows_left }))
    }

    fn version(&mut self, what: &'static str) -> Result<Version> {
        let (hlc, index) = (self.integer(what)?, self.unsigned(what)?);
        version_of(&self.header, hlc, index).ok_or(DecodeError::Unexpected { what: "a site index" })
    }

    /// Fails if any byte follows.
    fn end(&mut self) -> Result<()> {
        let mut byte = [0];
        match self.cbor.read_exact(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(damaged(error, "the end of the batch")),
            Ok(()) => Err(DecodeError::Unexpected { what: "data after the batch" }),
        }
    }

    #[inline]
    fn pull(&mut self, what: &'static str) -> Result<Header> {
        self.cbor.pull().map_err(|error| unreadable(error, what))
    }

    fn array(&mut self, what: &'static str, limit: u64) -> Result<u64> {
        match self.pull(what)? {
            Header::Array(Some(found)) if found as u64 <= limit => Ok(found as u64),
            Header::Array(Some(found)) => {
                Err(DecodeError::TooLarge { what, found: found as u64, limit })
            }
            _ => Err(DecodeError::Unexpected { what }),
        }
    }

    fn unsigned(&mut self, what: &'static str) -> Result<u64> {
        match self.pull(what)? {
            Header::Positive(value) => Ok(value),
            _ => Err(DecodeError::Unexpected { what }),
        }
    }

    fn integer(&mut self, what: &'static str) -> Result<i64> {
        let header = self.pull(what)?;
        as_integer(header, what)
    }

    fn site(&mut self, what: &'static str) -> Result<Site> {
        match self.integer(what)? {
            site if site > 0 => Ok(Site(site)),
            _ => Err(DecodeError::Unexpected { what }),
        }
    }

    fn digest(&mut self, what: &'static str) -> Result<Digest> {
        match self.pull(what)? {
            Header::Bytes(Some(len)) => {
                self.take(what, len, 32)?.try_into().map_err(|_| DecodeError::Unexpected { what })
            }
            _ => Err(DecodeError::Unexpected { what }),
        }
    }

    fn name(&mut self, what: &'static str) -> Result<String> {
        match self.pull(what)? {
            Header::Text(Some(len)) => {
                let bytes = self.take(what, len, self.limits.name_bytes_max)?;
                String::from_utf8(bytes).map_err(|_| DecodeError::Unexpected { what })
            }
            _ => Err(DecodeError::Unexpected { what }),
        }
    }

    fn take(&mut self, what: &'static str, len: usize, limit: u64) -> Result<Vec<u8>> {
        self.take_into(what, len, limit, Vec::new())
    }

    /// Takes the next `len` bytes, in the memory of an earlier value.
    fn take_into(
        &mut self,
        what: &'static str,
        len: usize,
        limit: u64,
        mut bytes: Vec<u8>,
    ) -> Result<Vec<u8>> {
        check_length(what, len, limit)?;
        bytes.clear();
        if bytes.capacity() > PIECE_BYTES {
            // The memory of a large value is not kept for small ones.
            bytes = Vec::new();
        }
        let buffered = self.cbor.buffered().map_err(|error| damaged(error, what))?;
        if let Some(found) = buffered.get(..len) {
            bytes.extend_from_slice(found);
            self.cbor.skip(len);
            return Ok(bytes);
        }
        while bytes.len() < len {
            let from = bytes.len();
            bytes.resize(len.min(from + PIECE_BYTES), 0);
            self.cbor.read_exact(&mut bytes[from..]).map_err(|error| damaged(error, what))?;
        }
        Ok(bytes)
    }
}

/// Returns a version as a batch names it; None if the batch has no such site.
fn version_of(header: &BatchHeader, hlc: i64, site_index: u64) -> Option<Version> {
    if hlc == 0 {
        return Some(Version::NONE);
    }
    Some(Version { hlc: Hlc(hlc), site: header.site_at(site_index)? })
}

fn check_length(what: &'static str, len: usize, limit: u64) -> Result<()> {
    match len as u64 {
        found if found > limit => Err(DecodeError::TooLarge { what, found, limit }),
        _ => Ok(()),
    }
}

#[cold]
fn damaged(error: io::Error, what: &'static str) -> DecodeError {
    DecodeError::Damaged { what, reason: error.to_string() }
}

#[cold]
fn unreadable(error: CborError, what: &'static str) -> DecodeError {
    match error {
        CborError::Io(error) => damaged(error, what),
        CborError::Syntax(at) => {
            DecodeError::Damaged { what, reason: format!("no CBOR at byte {at}") }
        }
    }
}

fn as_integer(header: Header, what: &'static str) -> Result<i64> {
    match header {
        Header::Positive(value) => i64::try_from(value).ok(),
        Header::Negative(value) => i64::try_from(value).ok().map(|v| !v),
        _ => None,
    }
    .ok_or(DecodeError::Unexpected { what })
}

/// Rejects names that no SQLite schema can have, and duplicate columns: they are an attack. Admit
/// checks that the names exist here.
fn check_names(table: &str, columns: &[String]) -> Result<()> {
    if table.is_empty() && columns.is_empty()
        || table.contains('\0')
        || columns.iter().any(|c| c.contains('\0'))
    {
        return Err(DecodeError::Unexpected { what: "a name" });
    }
    let lower = table.to_ascii_lowercase();
    if lower.starts_with(crate::db::schema::OWN_PREFIX) || lower.starts_with("sqlite_") {
        return Err(DecodeError::Unexpected { what: "the name of an internal table" });
    }
    let mut seen = std::collections::HashSet::new();
    if columns.iter().all(|c| seen.insert(c.to_ascii_lowercase())) {
        Ok(())
    } else {
        Err(DecodeError::Unexpected { what: "a column that appears twice" })
    }
}
