//! The bell file, byte for byte. 4096 bytes, host byte order, every field naturally aligned:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 16 | `harmonylite bell` |
//! | 16 | 4 | layout version, 1 |
//! | 20 | 4 | size of the file, 4096 |
//! | 24 | 4 | entries in the ring, 64 |
//! | 64 | 4 | bell word: changes at each ring (the sidecar sleeps on it) |
//! | 68 | 4 | 1 while the sidecar sleeps |
//! | 72 | 8 | commits rung since the file was made |
//! | 128 | 4 | progress word: odd while the sidecar writes the two numbers below |
//! | 132 | 4 | not 0 while an application sleeps in `harmonylite_wait` |
//! | 136 | 8 | site that the next number belongs to |
//! | 144 | 8 | last change log id that the broker acknowledged |
//! | 152 | 8 | the sidecar's heartbeat, ns since 1970; 0: it ended |
//! | 256 | 64 * 32 | ring; commit n is in entry n mod 64 |
//!
//! An entry: n, time in ns since 1970, mxFrame (u32), pages (u32), 8 spare bytes.
//!
//! A program that finds another magic, version or size leaves the file alone.

/// The first bytes.
pub const MAGIC: [u8; 16] = *b"harmonylite bell";
/// Of this layout.
pub const VERSION: u32 = 1;
/// Of the file.
pub const SIZE: usize = 4096;
/// Entries in the ring.
pub const RING: u64 = 64;
/// What is put after the database's name.
pub const SUFFIX: &str = "-harmonylite-bell";

pub(crate) const AT_VERSION: usize = 16;
pub(crate) const AT_SIZE: usize = 20;
pub(crate) const AT_RING: usize = 24;
pub(crate) const AT_WORD: usize = 64;
pub(crate) const AT_WAITING: usize = 68;
pub(crate) const AT_COMMITS: usize = 72;
pub(crate) const AT_PROGRESS: usize = 128;
pub(crate) const AT_ASKING: usize = 132;
pub(crate) const AT_SITE: usize = 136;
pub(crate) const AT_PUBLISHED: usize = 144;
pub(crate) const AT_HEARTBEAT: usize = 152;
pub(crate) const AT_ENTRIES: usize = 256;
pub(crate) const ENTRY_SIZE: usize = 32;

/// The bytes of a bell that nobody has rung.
#[must_use]
pub fn fresh() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_ne_bytes());
    bytes.extend((SIZE as u32).to_ne_bytes());
    bytes.extend((RING as u32).to_ne_bytes());
    bytes.resize(SIZE, 0);
    bytes
}
