//! Turns the application's writes into versions: triggers, user triggers, fold, absorb, baseline.

pub mod absorb;
pub mod baseline;
mod changed_key;
pub mod compare;
mod displaced;
pub mod fold;
pub mod fold_base;
mod follow_shape;
pub mod follow_unmade;
pub mod id_ranges;
pub mod install;
pub mod installation;
mod lineage;
mod objects;
mod rebuilt_columns;
pub mod row_index;
pub mod row_keys;
pub mod row_states;
pub mod schema_changes;
mod schema_rows;
pub mod triggers;
pub mod user_triggers;
