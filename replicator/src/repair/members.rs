//! The list of members: the nodes for whose answers a gap waits (FORMAT.md).
//!
//! Plain value, stored under one key of the registry, so that every change of it is atomic. A
//! forgotten node stays on the list as such, because other nodes know it as an origin and would add
//! it again. It removes the mark itself before it publishes.

use crate::broker::KvEntry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The registry key of the list.
pub const MEMBERS_KEY: &str = "nodes";
/// A longer list is not written by us, and is ignored.
const MEMBERS_MAX: usize = 10_000;

/// The list of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The nodes that have published.
    pub present: BTreeSet<u64>,
    /// The nodes that somebody has forgotten.
    pub forgotten: BTreeSet<u64>,
}

/// Both forms: without forgotten nodes the list is a plain array.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Plain(BTreeSet<u64>),
    Both { members: BTreeSet<u64>, forgotten: BTreeSet<u64> },
}

impl Members {
    /// Reads the list; empty if there is none.
    pub fn read(entry: Option<&KvEntry>) -> Self {
        let stored = entry.and_then(|e| serde_json::from_slice::<Stored>(&e.value).ok());
        let read = match stored {
            Some(Stored::Plain(present)) => Self { present, forgotten: BTreeSet::new() },
            Some(Stored::Both { members, forgotten }) => Self { present: members, forgotten },
            None => Self::default(),
        };
        if read.present.len().max(read.forgotten.len()) > MEMBERS_MAX {
            return Self::default();
        }
        read
    }

    /// Returns the value to store.
    pub fn encode(&self) -> Vec<u8> {
        let (members, forgotten) = (self.present.clone(), self.forgotten.clone());
        let stored = match forgotten.is_empty() {
            true => Stored::Plain(members),
            false => Stored::Both { members, forgotten },
        };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Marks a node as forgotten.
    pub fn forget(&mut self, node: u64) {
        self.present.remove(&node);
        self.forgotten.insert(node);
    }

    /// Adds a node that publishes, also if it was forgotten.
    pub fn enrol(&mut self, node: u64) {
        self.forgotten.remove(&node);
        self.present.insert(node);
    }

    /// Adds the origins that are neither members nor forgotten.
    pub fn add_origins(&mut self, origins: impl Iterator<Item = u64>) {
        self.present.extend(origins.filter(|node| !self.forgotten.contains(node)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(text: &str) -> Members {
        Members::read(Some(&KvEntry { revision: 1, value: text.to_owned().into() }))
    }

    #[test]
    fn a_list_without_forgotten_nodes_is_an_array() {
        let mut members = stored("[1,2,3]");
        assert_eq!(members.encode(), b"[1,2,3]");
        members.forget(2);
        let text = String::from_utf8(members.encode()).unwrap();
        assert_eq!(text, r#"{"members":[1,3],"forgotten":[2]}"#);
        assert_eq!(stored(&text), members);
        members.enrol(2);
        assert_eq!(members.encode(), b"[1,2,3]");
        for bad in ["", "{}", "[-1]", "null"] {
            assert_eq!(stored(bad), Members::default(), "{bad}");
        }
    }

    #[test]
    fn an_origin_that_was_forgotten_is_not_added() {
        let mut members = stored(r#"{"members":[1],"forgotten":[2]}"#);
        members.add_origins([2, 3].into_iter());
        assert_eq!(members.present, BTreeSet::from([1, 3]));
    }
}
