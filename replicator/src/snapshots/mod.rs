//! What a database of a cluster means to its snapshots.
//!
//! Arrives: settings, an image, a restored file. Leaves: the store that the settings name, the
//! facts that stand in a manifest, who saves and when, and a file that can be started as a new
//! incarnation of a node. Owns: a restored database never continues the incarnation that was
//! captured.

pub(crate) mod due;
mod facts;
pub(crate) mod fit;
pub(crate) mod follow;
pub(crate) mod leader;
pub(crate) mod moments;
mod place;
pub(crate) mod replay;
mod restored;
pub mod rows;
mod save;
pub(crate) mod wanted;

pub(crate) use place::{BrokerAccess, Place, PlaceError};
pub(crate) use restored::begin_anew;
pub(crate) use save::{SaveError, SaveRequest, save_and_prune};
