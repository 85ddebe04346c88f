//! Encodes a batch as bytes, and decodes it (FORMAT.md).

mod cbor;
pub mod decode;
pub mod encode;
pub mod parts;
pub mod spill;
pub mod unpack;
