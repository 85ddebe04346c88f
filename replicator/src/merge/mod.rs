//! A batch of another node: does it fit, does it win, write it.

pub mod admit;
pub mod apply;
pub mod resolve;
pub mod table_map;
pub mod unique_clash;
