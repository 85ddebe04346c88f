//! What a snapshot contains. The manifest is written last: without it there is no snapshot.
//!
//! Arrives: what a save has put into the store, or bytes of a store. Leaves: bytes, or a
//! [`Manifest`] whose numbers and sizes fit each other. Owns the trust boundary: nothing is
//! allocated or written by a number of a manifest that was not checked. Pure.

use crate::block::{self, Block, Placed};
use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::name::Name;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use time::OffsetDateTime;

/// The format of manifests. FORMAT.md describes it.
pub const FORMAT: u64 = 2;
/// The format whose blocks are whole chunks, one after the other.
const FORMAT_OF_CHUNKS: u64 = 1;
/// The longest manifest: about a million chunks, a database of 1 TiB.
pub const MANIFEST_BYTES_MAX: usize = 128 << 20;
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
    /// [`FORMAT`], or an earlier one.
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
    /// SHA-256 of the digests of all blocks in a row: the digest of the content.
    pub digest: ChunkId,
    /// The chunks that hold the image.
    pub chunks: Vec<ChunkId>,
    /// Bytes of a block; the last one may have fewer.
    #[serde(default)]
    pub block_bytes: usize,
    /// The blocks, in the order of the image.
    #[serde(default, with = "block")]
    pub blocks: Vec<Block>,
}

/// Returns the digest of the content of an image with these blocks.
pub fn content_digest<'a>(blocks: impl IntoIterator<Item = &'a ChunkId>) -> ChunkId {
    let digests: Vec<u8> = blocks.into_iter().flat_map(|block| block.digest()).copied().collect();
    ChunkId::of(&digests)
}

impl Manifest {
    /// Returns the bytes of the image.
    pub fn bytes(&self) -> u64 {
        u64::from(self.page_size) * self.page_count
    }

    /// Returns where a block is in the image.
    pub(crate) fn range(&self, index: usize) -> Range<u64> {
        let begin = (index as u64).saturating_mul(self.block_bytes as u64);
        begin..begin.saturating_add(self.block_bytes as u64).min(self.bytes())
    }

    /// Returns which blocks of the image each chunk holds, in the order of the chunks.
    pub(crate) fn by_chunk(&self) -> Vec<Vec<u32>> {
        let mut chunks = vec![Vec::new(); self.chunks.len()];
        for (index, block) in (0..).zip(&self.blocks) {
            // Checked when the manifest was read.
            if let Some(chunk) = chunks.get_mut(block.chunk as usize) {
                chunk.push(index);
            }
        }
        chunks
    }

    /// Returns where blocks of the image are in their chunk.
    pub(crate) fn placed(&self, blocks: &[u32]) -> Vec<Placed> {
        let placed = |index: &u32| {
            let index = *index as usize;
            let (block, image) = (self.blocks.get(index)?, self.range(index));
            let begin = usize::from(block.slot) * self.block_bytes;
            let range = begin..begin + (image.end - image.start) as usize;
            Some(Placed { index, range, digest: block.digest })
        };
        blocks.iter().filter_map(placed).collect()
    }

    /// Returns the stored form.
    ///
    /// # Errors
    /// The reason for people: the database is too large, or the numbers do not fit each other, so
    /// that nobody could read the manifest.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        self.check()?;
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
        if found != FORMAT && found != FORMAT_OF_CHUNKS {
            return Err(Unusable::Newer(found));
        }
        let mut manifest: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        if found == FORMAT_OF_CHUNKS {
            let whole = |(index, id): (usize, &ChunkId)| {
                Some(Block { digest: *id, chunk: u32::try_from(index).ok()?, slot: 0 })
            };
            manifest.block_bytes = CHUNK_BYTES;
            manifest.blocks = manifest.chunks.iter().enumerate().filter_map(whole).collect();
        }
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
        let (block_bytes, chunks) = (self.block_bytes, self.chunks.len());
        let sizes = block::READABLE_BYTES_MIN.max(self.page_size as usize)..=CHUNK_BYTES;
        if !block_bytes.is_power_of_two() || !sizes.contains(&block_bytes) {
            return Err(format!("has blocks of {block_bytes} bytes"));
        }
        let expected = self.bytes().div_ceil(block_bytes as u64);
        if self.blocks.len() as u64 != expected {
            return Err(format!("lists {} blocks instead of {expected}", self.blocks.len()));
        }
        if chunks > self.blocks.len() {
            return Err(format!("lists {chunks} chunks for {expected} blocks"));
        }
        let slots = CHUNK_BYTES / block_bytes;
        let is_outside = |b: &&Block| b.chunk as usize >= chunks || usize::from(b.slot) >= slots;
        if let Some(Block { chunk, slot, .. }) = self.blocks.iter().find(is_outside) {
            return Err(format!("has a block in slot {slot} of chunk {chunk} of {chunks}"));
        }
        if content_digest(self.blocks.iter().map(|block| &block.digest)) != self.digest {
            return Err("has a digest that does not fit its blocks".to_owned());
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

    const BLOCK_BYTES: usize = 64 << 10;

    /// 17 blocks: 16 in the second chunk, the last one, of a page, in the first.
    fn manifest() -> Manifest {
        let id = |index: u8| ChunkId::of(&[index]);
        let block = |index: u8| Block {
            digest: id(index),
            chunk: u32::from(index < 16),
            slot: if index < 16 { index } else { 3 },
        };
        let blocks: Vec<_> = (0..17).map(block).collect();
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
            digest: content_digest(blocks.iter().map(|block| &block.digest)),
            chunks: vec![ChunkId::of(b"a"), ChunkId::of(b"b")],
            block_bytes: BLOCK_BYTES,
            blocks,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let manifest = manifest();
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        let chunks = manifest.by_chunk();
        let places = |chunk: &[u32]| {
            let placed = manifest.placed(chunk);
            placed.iter().map(|p| (p.index, p.range.clone())).collect::<Vec<_>>()
        };
        assert_eq!(places(&chunks[0]), [(16, 3 * BLOCK_BYTES..3 * BLOCK_BYTES + 4096)]);
        assert_eq!(places(&chunks[1])[15], (15, 15 * BLOCK_BYTES..16 * BLOCK_BYTES));
        assert_eq!(chunks[1].len(), 16);
    }

    #[test]
    fn a_manifest_of_format_1_has_chunks_for_blocks() {
        let chunks = [ChunkId::of(b"a"), ChunkId::of(b"b")];
        let mut text: Value = serde_json::from_slice(&manifest().encode().unwrap()).unwrap();
        let fields = text.as_object_mut().unwrap();
        fields.insert("format".to_owned(), json!(1));
        fields.insert("digest".to_owned(), json!(content_digest(&chunks)));
        fields.retain(|key, _| key != "blocks" && key != "block_bytes");
        let read = Manifest::decode(text.to_string().as_bytes()).unwrap();
        let places = read.placed(&read.by_chunk().concat());
        assert_eq!((places[0].range.clone(), places[1].range.clone()), (0..CHUNK_BYTES, 0..4096));
        assert_eq!(places.iter().map(|p| p.digest).collect::<Vec<_>>(), chunks);
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
        assert!(refused("page_count", json!(10_000)).contains("blocks instead of"));
        assert!(refused("page_count", json!(-1)).contains("damaged"));
        for size in [json!(0), json!(2048), json!(65_535), json!(CHUNK_BYTES * 2)] {
            assert!(refused("block_bytes", size.clone()).contains("blocks of"), "{size}");
        }
        assert!(refused("block_bytes", json!(-1)).contains("damaged"));
        assert!(refused("page_size", json!(512)).contains("blocks instead of"));
        assert!(refused("chunks", json!([])).contains("of chunk 1 of 0"));
        let chunk = ChunkId::of(b"a").to_string();
        assert!(refused("chunks", vec![chunk; 18].into()).contains("18 chunks for 17 blocks"));
        assert!(refused("chunks", json!(["../../etc/passwd", "x"])).contains("hexadecimal"));
        let altered = |change: fn(&mut Block)| {
            let mut other = manifest();
            change(&mut other.blocks[0]);
            assert!(other.encode().is_err());
            refused("blocks", serde_json::to_value(&other).unwrap()["blocks"].clone())
        };
        assert!(altered(|block| block.slot = 16).contains("slot 16 of chunk 1 of 2"));
        assert!(altered(|block| block.chunk = 2).contains("slot 0 of chunk 2 of 2"));
        assert!(altered(|block| block.digest = ChunkId::of(b"other")).contains("digest"));
        assert!(refused("blocks", json!("AAAA")).contains("ends within one"));
        assert!(refused("blocks", json!("?")).contains("damaged"));
        assert!(refused("blocks", json!("")).contains("blocks instead of"));
        assert!(refused("digest", json!("00")).contains("hexadecimal"));
        let many: Vec<Value> =
            vec![json!({"shard": 1, "seq": 1, "created_ns": 1}); STREAMS_MAX + 1];
        assert!(refused("streams", many.into()).contains("streams, more than"));
        assert!(refused("tables", json!({"t": -1})).contains("damaged"));
        assert_eq!(refused("format", json!(3)), "newer 3");
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
