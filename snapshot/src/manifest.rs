//! What a snapshot contains. The manifest is written last: without it there is no snapshot.
//!
//! Arrives: what a save has put into the store, or bytes of a store. Leaves: bytes, or a
//! [`Manifest`] whose numbers and sizes fit each other. Owns the trust boundary: nothing is
//! allocated or written by a number of a manifest that was not checked. Pure.

use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::name::Name;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use time::OffsetDateTime;

/// The format of manifests. FORMAT.md describes it.
pub const FORMAT: u64 = 1;
/// The longest manifest: about a million chunks, a database of 1 TiB.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;
/// SQLite's limit.
const PAGES_MAX: u64 = 4_294_967_294;
/// Bounds of the lists.
const STREAMS_MAX: usize = 10_000;
const ORIGINS_MAX: usize = 1_000_000;
const TABLES_MAX: usize = 1_000_000;
/// The folder of all manifests in a store.
pub(crate) const FOLDER: &str = "manifest/";
const SUFFIX: &str = ".json";
/// Hexadecimal digits of the manifest's own SHA-256 in its name.
const DIGITS: usize = 16;

/// What the database means to its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The node whose database it is; 0: it never had one.
    pub node: u64,
    /// The hash of the replicated schema in hexadecimal; empty: not known.
    pub schema_hash: String,
    /// How far each stream is applied.
    pub streams: Vec<StreamPosition>,
    /// The last applied batch of each origin.
    pub origins: Vec<OriginPosition>,
    /// The version of the program that took the snapshot.
    pub program: String,
}

/// A position in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPosition {
    /// The stream.
    pub shard: u32,
    /// Messages up to here are applied.
    pub seq: u64,
    /// When the stream was created, unix nanoseconds.
    pub created_ns: i64,
}

/// The last applied batch of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginPosition {
    /// Its node.
    pub node: u64,
    /// Its site.
    pub site: i64,
    /// The number of the batch.
    pub batch: u64,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u64,
    /// When the image was captured, unix milliseconds of the node.
    pub created_ms: i64,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the image.
    pub page_count: u64,
    /// What the database means to its cluster.
    #[serde(flatten)]
    pub facts: Facts,
    /// The rows of each table.
    pub tables: BTreeMap<String, u64>,
    /// SHA-256 of the digests of all chunks in a row: the digest of the content.
    pub digest: ChunkId,
    /// The chunks, in the order of the image.
    pub chunks: Vec<ChunkId>,
}

/// Returns the digest of the content of an image with these chunks.
pub fn content_digest(chunks: &[ChunkId]) -> ChunkId {
    let digests: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.digest()).copied().collect();
    ChunkId::of(&digests)
}

impl Manifest {
    /// Returns the bytes of the image.
    pub fn bytes(&self) -> u64 {
        u64::from(self.page_size) * self.page_count
    }

    /// Returns the bytes of a chunk of the image.
    pub fn chunk_bytes(&self, index: usize) -> usize {
        let begin = (index * CHUNK_BYTES) as u64;
        (self.bytes().saturating_sub(begin)).min(CHUNK_BYTES as u64) as usize
    }

    /// Returns the stored form.
    ///
    /// # Errors
    /// The reason for people: the database is too large.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let bytes = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(format!("has {} bytes, more than {MANIFEST_BYTES_MAX}", bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads and checks the stored form.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Unusable> {
        #[derive(Deserialize)]
        struct Any {
            format: u64,
        }
        let damaged = |error: serde_json::Error| Unusable::Damaged(format!("is damaged: {error}"));
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(Unusable::Damaged("is too large".to_owned()));
        }
        let found = serde_json::from_slice::<Any>(bytes).map_err(damaged)?.format;
        if found != FORMAT {
            return Err(Unusable::Newer(found));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        manifest.check().map_err(Unusable::Damaged)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if !self.page_size.is_power_of_two() || !(512..=65_536).contains(&self.page_size) {
            return Err(format!("has a page size of {}", self.page_size));
        }
        if self.page_count > PAGES_MAX {
            return Err(format!("has {} pages", self.page_count));
        }
        let expected = self.bytes().div_ceil(CHUNK_BYTES as u64);
        if self.chunks.len() as u64 != expected {
            return Err(format!("lists {} chunks instead of {expected}", self.chunks.len()));
        }
        if content_digest(&self.chunks) != self.digest {
            return Err("has a digest that does not fit its chunks".to_owned());
        }
        let lists = [
            ("streams", self.facts.streams.len(), STREAMS_MAX),
            ("origins", self.facts.origins.len(), ORIGINS_MAX),
            ("tables", self.tables.len(), TABLES_MAX),
        ];
        match lists.iter().find(|(_, count, most)| count > most) {
            Some((what, count, most)) => Err(format!("has {count} {what}, more than {most}")),
            None => Ok(()),
        }
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Its format is not known.
    Newer(u64),
    /// Its defect, as the end of a sentence.
    Damaged(String),
}

/// The name of a snapshot: when it was taken, in UTC, and the first digits of the SHA-256 of its
/// manifest. Ordered by time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// Returns the name of a snapshot with this encoded manifest.
    pub fn of(created_ms: i64, manifest: &[u8]) -> Self {
        let nanoseconds = i128::from(created_ms) * 1_000_000;
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (date, time) = (at.date(), at.time());
        Self(format!(
            "{:04}{:02}{:02}T{:02}{:02}{:02}.{:03}Z-{}",
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.millisecond(),
            digits(manifest)
        ))
    }

    /// Reads an id. None if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (time, hex) = text.split_once('-')?;
        let is_time = time.len() == 20
            && time.bytes().enumerate().all(|(i, b)| match i {
                8 => b == b'T',
                15 => b == b'.',
                19 => b == b'Z',
                _ => b.is_ascii_digit(),
            });
        let is_hex = hex.len() == DIGITS && HEXLOWER.decode(hex.as_bytes()).is_ok();
        (is_time && is_hex).then(|| Self(text.to_owned()))
    }

    /// Returns whether these bytes are the manifest that the id names.
    pub fn names(&self, manifest: &[u8]) -> bool {
        self.0.ends_with(&digits(manifest))
    }

    /// Returns the name of the manifest in a store.
    pub fn object(&self) -> Name {
        // A time and hexadecimal digits are a name.
        Name::new(format!("{FOLDER}{self}{SUFFIX}")).unwrap_or_else(|| unreachable!())
    }

    /// Returns the snapshot whose manifest an object is.
    pub fn of_object(object: &Name) -> Option<Self> {
        Self::parse(object.as_str().strip_prefix(FOLDER)?.strip_suffix(SUFFIX)?)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn digits(manifest: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(manifest)[..DIGITS / 2])
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn manifest() -> Manifest {
        let chunks = vec![ChunkId::of(b"a"), ChunkId::of(b"b")];
        Manifest {
            format: FORMAT,
            created_ms: 1_000,
            page_size: 4096,
            page_count: 257,
            facts: Facts {
                node: u64::MAX,
                streams: vec![StreamPosition { shard: 1, seq: u64::MAX, created_ns: -1 }],
                origins: vec![OriginPosition { node: 1, site: i64::MAX, batch: 2 }],
                ..Facts::default()
            },
            tables: BTreeMap::from([("odd \" name".to_owned(), 3)]),
            digest: content_digest(&chunks),
            chunks,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let manifest = manifest();
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        assert_eq!((manifest.chunk_bytes(0), manifest.chunk_bytes(1)), (CHUNK_BYTES, 4096));
        assert_eq!(manifest.chunk_bytes(2), 0);
    }

    #[test]
    fn a_hostile_manifest_is_refused() {
        let good: Value = serde_json::from_slice(&manifest().encode().unwrap()).unwrap();
        let refused = |key: &str, value: Value| {
            let mut bad = good.clone();
            bad[key] = value;
            match Manifest::decode(bad.to_string().as_bytes()).unwrap_err() {
                Unusable::Damaged(reason) => reason,
                Unusable::Newer(found) => format!("newer {found}"),
            }
        };
        for size in [json!(0), json!(4095), json!(131_072), json!(256)] {
            assert!(refused("page_size", size.clone()).contains("page size"), "{size}");
        }
        assert!(refused("page_count", json!(u64::MAX)).contains("pages"));
        assert!(refused("page_count", json!(10_000)).contains("chunks instead of"));
        assert!(refused("page_count", json!(-1)).contains("damaged"));
        assert!(refused("chunks", json!([])).contains("chunks instead of"));
        assert!(refused("chunks", json!(["../../etc/passwd", "x"])).contains("hexadecimal"));
        let other = ChunkId::of(b"other").to_string();
        assert!(refused("chunks", json!([other, other])).contains("digest"));
        assert!(refused("digest", json!("00")).contains("hexadecimal"));
        let many: Vec<Value> =
            vec![json!({"shard": 1, "seq": 1, "created_ns": 1}); STREAMS_MAX + 1];
        assert!(refused("streams", many.into()).contains("streams, more than"));
        assert!(refused("tables", json!({"t": -1})).contains("damaged"));
        assert_eq!(refused("format", json!(2)), "newer 2");
        assert!(refused("format", json!("1")).contains("damaged"));
        for bytes in [&b""[..], b"{}", b"[", b"\xff", &[b'['; 100_000]] {
            assert!(matches!(Manifest::decode(bytes), Err(Unusable::Damaged(_))));
        }
        assert!(Manifest::decode(&vec![b' '; MANIFEST_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn an_id_has_the_time_and_names_its_manifest() {
        let id = SnapshotId::of(1_795_878_305_007, b"x");
        assert!(id.as_str().starts_with("20261128T150505.007Z-"), "{id}");
        assert!(id.names(b"x") && !id.names(b"y"));
        assert_eq!(SnapshotId::of_object(&id.object()), Some(id.clone()));
        assert!(id < SnapshotId::of(1_795_878_305_008, b"x"));
        let text = id.as_str();
        for bad in ["", "-", &text[1..], &text[..36], &text.replace('T', "t"), "../../x"] {
            assert_eq!(SnapshotId::parse(bad), None, "{bad}");
        }
    }
}
