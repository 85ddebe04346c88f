//! Plain values: ids, batches, limits, configuration. Nothing here waits, reads or draws random
//! numbers.

pub mod action;
pub mod batch;
pub mod bookkeeping;
pub mod config;
pub mod id_ranges;
pub mod ids;
pub mod limits;
pub mod planted_bugs;
pub mod rebuilds;
pub mod status;
pub mod table_filter;
