//! The application's end of the bell.
//!
//! Arrives: a commit that became visible. Leaves: an entry in the ring, a changed word, and a wake
//! if the sidecar sleeps. Owns: ringing never fails and never waits. A process that dies in the
//! middle leaves at worst an entry with number 0.

use crate::futex;
use crate::layout::SUFFIX;
use crate::map::{Identity, Map};
use crate::wake;
use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering::{Relaxed, Release};

/// So often at most a name is looked up again: a bell made (or replaced) after the database was
/// opened is found.
const LOOK_AGAIN_NS: u64 = 1_000_000_000;

/// One open database's bell, if it has one.
pub(crate) struct Ringer {
    path: Option<CString>,
    map: Option<Map>,
    looked_ns: u64,
}

impl Ringer {
    /// For the database of that (full) name.
    pub(crate) fn new(database: &CStr) -> Self {
        let mut path = database.to_bytes().to_vec();
        path.extend_from_slice(SUFFIX.as_bytes());
        let path = CString::new(path).ok();
        let map = path.as_deref().and_then(Map::open);
        Self { path, map, looked_ns: futex::now_ns() }
    }

    /// A commit is visible now.
    pub(crate) fn ring(&mut self, max_frame: u32, pages: u32) {
        let now = futex::now_ns();
        // A clock set back looks again too.
        if now.wrapping_sub(self.looked_ns) > LOOK_AGAIN_NS {
            self.look_again(now);
        }
        if let (Some(map), Some(path)) = (&self.map, &self.path) {
            ring(map, path, now, max_frame, pages);
        }
    }

    #[cold]
    fn look_again(&mut self, now: u64) {
        self.looked_ns = now;
        let Some(path) = self.path.as_deref() else { return };
        let there = Identity::named(path);
        if self.map.as_ref().map(Map::identity) != there {
            self.map = there.and_then(|_| Map::open(path));
        }
    }
}

/// Two atomic additions and four stores; a system call only if somebody sleeps.
fn ring(map: &Map, path: &CStr, now_ns: u64, max_frame: u32, pages: u32) {
    let number = map.commits().fetch_add(1, Relaxed).wrapping_add(1);
    let entry = map.entry(number);
    entry.number.store(0, Relaxed);
    std::sync::atomic::fence(Release);
    entry.time.store(now_ns, Relaxed);
    entry.max_frame.store(max_frame, Relaxed);
    entry.pages.store(pages, Relaxed);
    entry.number.store(number, Release);
    wake::change(map, path);
}
