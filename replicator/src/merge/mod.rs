//! Merges a batch of another node: does it fit, which rows win, write them.

pub mod admit;
pub mod apply;
pub mod resolve;
mod stored_row;
pub mod table_map;
pub mod unique_clash;
