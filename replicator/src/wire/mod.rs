//! A batch as bytes, in both directions (FORMAT.md).

pub mod decode;
pub mod encode;
pub mod parts;
pub mod spill;
