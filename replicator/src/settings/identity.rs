//! Chooses a node's id if the configuration sets none.
//!
//! HarmonyLite (Go) derives the id from the machine. The same id results here, so that its users
//! keep theirs.

use crate::model::ids::NodeId;
use std::path::Path;

/// The source of a node's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// The configuration or the command line.
    Configured,
    /// The id that the database has stored.
    Stored,
    /// The machine's id.
    Machine,
    /// A random number, which the database keeps.
    Random,
}

/// A node's id and its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The id.
    pub node: NodeId,
    /// Its source.
    pub source: IdentitySource,
}

/// The operating system returned no random number.
#[derive(Debug, thiserror::Error)]
#[error("the operating system returned no random numbers: {0}")]
pub struct NoRandom(getrandom::Error);

/// The files of the machine's id, in the order in which HarmonyLite (Go) reads them.
pub const MACHINE_ID_FILES: [&str; 2] = ["/var/lib/dbus/machine-id", "/etc/machine-id"];

/// Returns the id of this machine; None if it has none (usually a container).
pub fn machine_id() -> Option<String> {
    MACHINE_ID_FILES.iter().find_map(|file| read_id(Path::new(file)))
}

fn read_id(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let id = text.trim();
    // systemd writes this word into images before their first boot.
    (!id.is_empty() && id != "uninitialized").then(|| id.to_owned())
}

/// Chooses the id: the configured one, else the stored one, else one derived from the machine, else
/// a random one.
///
/// # Errors
/// [`NoRandom`], only if a random id is needed.
pub fn decide(
    configured: u64,
    stored: Option<NodeId>,
    machine: Option<&str>,
) -> Result<Identity, NoRandom> {
    let known = |node, source| Ok(Identity { node, source });
    if configured != 0 {
        return known(NodeId(configured), IdentitySource::Configured);
    }
    if let Some(node) = stored.filter(|n| n.0 != 0) {
        return known(node, IdentitySource::Stored);
    }
    match machine {
        Some(id) => known(NodeId(fnv1(id.as_bytes()).max(1)), IdentitySource::Machine),
        // Without the sign bit, so that the id can be copied into a configuration file.
        None => known(NodeId((random()? >> 1).max(1)), IdentitySource::Random),
    }
}

/// Returns a random number from the operating system.
///
/// # Errors
/// [`NoRandom`].
pub fn random() -> Result<u64, NoRandom> {
    getrandom::u64().map_err(NoRandom)
}

/// FNV-1 with 64 bits, which multiplies before it mixes (Go's `fnv.New64`; not FNV-1a).
fn fnv1(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        hash.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(*byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of the FNV authors: FNV-1 of "a" and "foobar".
    #[test]
    fn the_hash_is_the_one_of_go() {
        assert_eq!(fnv1(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1(b"a"), 0xaf63_bd4c_8601_b7be);
        assert_eq!(fnv1(b"foobar"), 0x340d_8765_a4dd_a9c2);
    }

    #[test]
    fn the_order_is_configured_stored_machine_random() {
        let id = |c, s: Option<u64>, m| decide(c, s.map(NodeId), m).unwrap();
        assert_eq!(
            id(7, Some(8), Some("m")),
            Identity { node: NodeId(7), source: IdentitySource::Configured }
        );
        assert_eq!(
            id(0, Some(8), Some("m")),
            Identity { node: NodeId(8), source: IdentitySource::Stored }
        );
        assert_eq!(id(0, Some(0), Some("m")).source, IdentitySource::Machine);
        let (a, b) = (id(0, None, None), id(0, None, None));
        assert_eq!(a.source, IdentitySource::Random);
        assert_ne!(a.node, b.node);
        assert!(a.node.0 > 0 && i64::try_from(a.node.0).is_ok());
    }

    #[test]
    fn a_machine_id_is_trimmed_and_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("machine-id");
        assert_eq!(read_id(&file), None);
        std::fs::write(&file, "uninitialized\n").unwrap();
        assert_eq!(read_id(&file), None);
        std::fs::write(&file, "0123abcd\n").unwrap();
        assert_eq!(read_id(&file).as_deref(), Some("0123abcd"));
    }
}
