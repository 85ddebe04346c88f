//! The lease by which one node of a cluster takes the snapshots.
//!
//! Arrives: the registry entry `snapshot-leader`, and the time. Leaves: the entry to write, and
//! whether this process leads. Owns: two leaders at once are harmless (a snapshot more), none for
//! longer than the lease lives are not. After a crash the entry expires; a restart at the same
//! place takes it at once, because the lock on the file proves that its holder ended. Pure: the
//! caller asks the broker and passes the time.

use crate::broker::KvEntry;
use serde::{Deserialize, Serialize};

/// The key in the registry bucket.
pub(crate) const LEADER_KEY: &str = "snapshot-leader";

/// The content of the entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Leader {
    /// The node; 0: the lease is free.
    pub(crate) node: u64,
    /// A random id of its process.
    pub(crate) instance: String,
    /// Its machine and database path.
    pub(crate) place: String,
}

impl Leader {
    /// Reads an entry. One that cannot be read belongs to nobody.
    pub(crate) fn read(entry: Option<&KvEntry>) -> Self {
        entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default()
    }
}

/// The lease, as known to this process.
#[derive(Debug)]
pub(crate) struct Leadership {
    me: Leader,
    ttl_ms: u64,
    held: Option<u64>,
    valid_until_ms: u64,
    /// The revision of another process' entry, and since when it is seen.
    seen: Option<(u64, u64)>,
}

impl Leadership {
    /// Creates a lease that is not held yet. It lives for `ttl_ms` after each write.
    pub(crate) fn new(me: Leader, ttl_ms: u64) -> Self {
        Self { me, ttl_ms, held: None, valid_until_ms: 0, seen: None }
    }

    /// Returns the revision that the entry must still have for this process to write it (0: no
    /// entry). None if another process leads.
    pub(crate) fn claim(&mut self, entry: Option<&KvEntry>, mono_ms: u64) -> Option<u64> {
        let Some(entry) = entry else { return Some(0) };
        let leader = Leader::read(Some(entry));
        let is_ours = leader.instance == self.me.instance || leader.place == self.me.place;
        if is_ours || leader.node == 0 {
            return Some(entry.revision);
        }
        self.held = None;
        match self.seen {
            // A server without expiry keeps the entry of a process that ended.
            Some((revision, since)) if revision == entry.revision => {
                (mono_ms.saturating_sub(since) > self.ttl_ms).then_some(revision)
            }
            _ => {
                self.seen = Some((entry.revision, mono_ms));
                None
            }
        }
    }

    /// Returns the entry to write.
    pub(crate) fn value(&self) -> Vec<u8> {
        serde_json::to_vec(&self.me).unwrap_or_default()
    }

    /// Notes a write. `asked_ms` is the time before it, on the monotone clock.
    pub(crate) fn written(&mut self, revision: u64, asked_ms: u64) {
        (self.held, self.seen) = (Some(revision), None);
        self.valid_until_ms = asked_ms.saturating_add(self.ttl_ms);
    }

    /// Gives the lease up. Returns the entry that frees it, and the revision that it replaces.
    pub(crate) fn release(&mut self) -> Option<(Vec<u8>, u64)> {
        let held = self.held.take()?;
        Some((serde_json::to_vec(&Leader::default()).unwrap_or_default(), held))
    }

    /// Returns whether this process leads now.
    pub(crate) fn leads(&self, mono_ms: u64) -> bool {
        self.held.is_some() && mono_ms < self.valid_until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leadership(node: u64) -> Leadership {
        let me = Leader { node, instance: format!("i{node}"), place: format!("p{node}") };
        Leadership::new(me, 1_000)
    }

    fn entry(of: &Leadership, revision: u64) -> KvEntry {
        KvEntry { revision, value: of.value().into() }
    }

    #[test]
    fn one_leads_until_its_lease_ends() {
        let (mut a, mut b) = (leadership(1), leadership(2));
        assert_eq!(a.claim(None, 0), Some(0));
        assert!(!a.leads(0));
        a.written(5, 100);
        assert!(a.leads(1_099) && !a.leads(1_100));
        let held = entry(&a, 5);
        assert_eq!(b.claim(Some(&held), 200), None);
        assert_eq!(a.claim(Some(&held), 400), Some(5), "it renews its own");
        a.written(6, 400);
        let renewed = entry(&a, 6);
        assert_eq!(b.claim(Some(&renewed), 900), None);
        assert_eq!(b.claim(Some(&renewed), 1_900), None);
        assert_eq!(b.claim(Some(&renewed), 1_901), Some(6), "the server does not expire entries");
        b.written(7, 1_901);
        assert_eq!(a.claim(Some(&entry(&b, 7)), 2_000), None);
        assert!(!a.leads(2_000) && b.leads(2_000));
    }

    #[test]
    fn a_free_lease_and_one_of_the_same_place_are_taken_at_once() {
        let (mut a, mut b) = (leadership(1), leadership(2));
        assert_eq!(a.release(), None);
        a.written(5, 0);
        let (free, replaces) = a.release().unwrap();
        assert_eq!(replaces, 5);
        assert!(!a.leads(1));
        let free = KvEntry { revision: 6, value: free.into() };
        assert_eq!(b.claim(Some(&free), 1), Some(6));
        b.written(7, 1);
        let again = Leader { instance: "new".into(), ..b.me.clone() };
        let mut restarted = Leadership::new(again, 1_000);
        assert_eq!(restarted.claim(Some(&entry(&b, 7)), 2), Some(7));
        let odd = KvEntry { revision: 9, value: b"{".to_vec().into() };
        assert_eq!(a.claim(Some(&odd), 2), Some(9), "an entry of nobody");
    }
}
