//! Holds the lease by which one process in the cluster owns a node id.
//!
//! Arrives: the registry entry of this node id's lease. Leaves: the entry to write, or a refusal.
//! Owns: of two sidecars with one node id (a cloned disk, a copied configuration) only one
//! continues. After a crash the lease stays until it expires. A restart at the same place takes it
//! at once, because the lock on the file proves that its holder ended. Pure: the caller asks the
//! broker and passes the time.

use crate::broker::KvEntry;
use crate::model::ids::{NodeId, Site};
use serde::{Deserialize, Serialize};

/// The content of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The site of the holder's database.
    pub site: i64,
    /// A random id of the holder's process.
    pub instance: String,
    /// The holder's machine and database path.
    pub place: String,
}

/// The next action for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseStep {
    /// Write the lease if the key still has this revision.
    Put {
        /// 0: the key must not exist.
        expected: u64,
    },
    /// Another process held it recently: read it again later.
    RetryLater,
    /// Another running process holds it.
    Refuse(Holder),
}

/// The lease, as known to this process.
#[derive(Debug)]
pub struct Lease {
    me: Holder,
    ttl_ms: u64,
    held: Option<u64>,
    /// The revision of another process' entry, and since when it is seen.
    seen: Option<(u64, u64)>,
    /// When it was last written, on the monotone clock; None: not held.
    written_ms: Option<u64>,
}

impl Lease {
    /// Creates a lease that is not held yet.
    pub fn new(site: Site, instance: &str, place: &str, ttl_ms: u64) -> Self {
        Self {
            me: Holder { site: site.0, instance: instance.to_owned(), place: place.to_owned() },
            ttl_ms,
            held: None,
            seen: None,
            written_ms: None,
        }
    }

    /// Returns the key in the registry bucket.
    pub fn key(node: NodeId) -> String {
        format!("lease-{node}")
    }

    /// Returns whether this process holds it, as far as it knows.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Returns the value to write.
    pub fn value(&self) -> Vec<u8> {
        serde_json::to_vec(&self.me).unwrap_or_default()
    }

    /// Returns the revision to renew from, if the lease is held.
    pub fn revision(&self) -> Option<u64> {
        self.held
    }

    /// Notes a successful write.
    pub fn written(&mut self, revision: u64, mono_ms: u64) {
        self.held = Some(revision);
        self.seen = None;
        self.written_ms = Some(mono_ms);
    }

    /// Returns when the lease ended that this process held, on the monotone clock; None: it was
    /// never held. Later than now while it is valid.
    pub fn ends_ms(&self) -> Option<u64> {
        self.written_ms.map(|at| at.saturating_add(self.ttl_ms))
    }

    /// Decides the next action by the registry entry.
    pub fn decide(&mut self, entry: Option<&KvEntry>, mono_ms: u64) -> LeaseStep {
        let Some(entry) = entry else {
            return LeaseStep::Put { expected: 0 };
        };
        let holder = serde_json::from_slice::<Holder>(&entry.value).ok();
        let ours = holder.as_ref().is_some_and(|h| {
            h.instance == self.me.instance || (h.place == self.me.place && self.held.is_none())
        });
        if ours {
            return LeaseStep::Put { expected: entry.revision };
        }
        let refuse = |holder: Option<Holder>| {
            LeaseStep::Refuse(holder.unwrap_or(Holder {
                site: 0,
                instance: String::new(),
                place: "unknown".to_owned(),
            }))
        };
        // An older entry is what a server without the newest writes returns, or that of a bucket
        // which was made again. In both cases the entry of a running process changes.
        if self.held.is_some_and(|held| entry.revision > held) {
            return refuse(holder);
        }
        match self.seen {
            Some((revision, _)) if revision != entry.revision => refuse(holder),
            Some((_, since)) if mono_ms.saturating_sub(since) > self.ttl_ms => {
                LeaseStep::Put { expected: entry.revision }
            }
            Some(_) => LeaseStep::RetryLater,
            None => {
                self.seen = Some((entry.revision, mono_ms));
                LeaseStep::RetryLater
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn lease(instance: &str, place: &str) -> Lease {
        Lease::new(Site(7), instance, place, 10_000)
    }

    fn entry(of: &Lease, revision: u64) -> KvEntry {
        KvEntry { revision, value: Bytes::from(of.value()) }
    }

    #[test]
    fn a_free_lease_is_taken_and_a_crashed_process_of_the_same_place_is_followed_at_once() {
        let mut new = lease("new", "here");
        assert_eq!(new.decide(None, 0), LeaseStep::Put { expected: 0 });
        assert_eq!(
            new.decide(Some(&entry(&lease("old", "here"), 5)), 0),
            LeaseStep::Put { expected: 5 }
        );
    }

    #[test]
    fn a_clone_elsewhere_is_refused_while_the_holder_renews() {
        let (holder, mut clone) = (lease("a", "there"), lease("b", "here"));
        assert_eq!(clone.decide(Some(&entry(&holder, 5)), 0), LeaseStep::RetryLater);
        let refused = clone.decide(Some(&entry(&holder, 6)), 4_000);
        assert!(matches!(refused, LeaseStep::Refuse(h) if h.place == "there"));
    }

    #[test]
    fn a_dead_holder_elsewhere_is_followed_after_the_time_of_the_lease() {
        let (holder, mut next) = (lease("a", "there"), lease("b", "here"));
        assert_eq!(next.decide(Some(&entry(&holder, 5)), 0), LeaseStep::RetryLater);
        assert_eq!(next.decide(Some(&entry(&holder, 5)), 9_000), LeaseStep::RetryLater);
        assert_eq!(next.decide(Some(&entry(&holder, 5)), 10_001), LeaseStep::Put { expected: 5 });
    }

    #[test]
    fn a_holder_that_was_replaced_stops_even_for_one_of_its_own_place() {
        let mut holder = lease("a", "here");
        holder.written(5, 0);
        assert!(matches!(
            holder.decide(Some(&entry(&lease("b", "here"), 6)), 0),
            LeaseStep::Refuse(_)
        ));
    }

    #[test]
    fn an_entry_older_than_ours_is_no_other_node_until_it_changes() {
        let mut holder = lease("a", "here");
        holder.written(5, 0);
        let before = lease("before", "here");
        assert_eq!(holder.decide(Some(&entry(&before, 4)), 100), LeaseStep::RetryLater);
        assert_eq!(holder.decide(Some(&entry(&before, 4)), 2_600), LeaseStep::RetryLater);
        assert_eq!(
            holder.decide(Some(&entry(&lease("a", "here"), 5)), 5_100),
            LeaseStep::Put { expected: 5 },
            "the newest entry is ours"
        );
        // The bucket was made again, and another process renews its lease there.
        let other = lease("b", "there");
        holder.written(6, 5_200);
        assert_eq!(holder.decide(Some(&entry(&other, 1)), 9_000), LeaseStep::RetryLater);
        let refused = holder.decide(Some(&entry(&other, 2)), 12_000);
        assert!(matches!(refused, LeaseStep::Refuse(h) if h.place == "there"));
    }

    #[test]
    fn a_lease_ends_when_it_is_not_written_for_its_time() {
        let mut holder = lease("a", "here");
        assert_eq!(holder.ends_ms(), None);
        holder.written(5, 1_000);
        assert_eq!(holder.ends_ms(), Some(11_000));
    }
}
