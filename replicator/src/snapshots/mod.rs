//! What a database of a cluster means to its snapshots.
//!
//! Arrives: settings, an image, a restored file. Leaves: the store that the settings name, the
//! facts that stand in a manifest, and a file that can be started as a new incarnation of a node.
//! Owns: a restored database never continues the incarnation that was captured.

mod facts;
mod place;
mod restored;

pub(crate) use facts::facts;
pub(crate) use place::{Place, PlaceError};
pub(crate) use restored::begin_anew;
