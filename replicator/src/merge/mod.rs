//! A batch of another node: does it fit, does it win, write it.

pub mod admit;
pub mod apply;
pub mod resolve;
pub mod unique_clash;
