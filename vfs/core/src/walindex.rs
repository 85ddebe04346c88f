//! The header of the wal-index: what was committed last, by whomever.
//!
//! The first 48 bytes of the shared memory, written twice; a reader takes them when both copies
//! agree (<https://sqlite.org/walformat.html#the_wal_index_header>).

/// One copy of the header is 12 words.
const WORDS: usize = 12;
/// `iVersion` of every SQLite since 3.7.0.
const VERSION: u32 = 3_007_000;

/// What identifies a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `iChange`: one more at each commit. Starts anew when a crashed WAL is recovered.
    pub change: u32,
    /// `mxFrame`: the last valid frame. 0: the WAL is empty.
    pub max_frame: u32,
    /// `nPage`: pages in the database.
    pub pages: u32,
    /// `aSalt`: changes when the WAL starts again.
    pub salt: [u32; 2],
}

impl Header {
    fn of(copy: &[u32; WORDS]) -> Self {
        let &[_, _, change, _, max_frame, pages, _, _, salt0, salt1, _, _] = copy;
        Self { change, max_frame, pages, salt: [salt0, salt1] }
    }

    /// Whether something was committed between the two (a WAL that only starts again holds nothing
    /// new).
    #[must_use]
    pub fn committed_since(&self, before: &Self) -> bool {
        self.change != before.change
            || (self.max_frame != 0
                && (self.max_frame, self.salt) != (before.max_frame, before.salt))
    }

    /// Frames between the two.
    #[must_use]
    pub fn frames_since(&self, before: &Self) -> u32 {
        if self.salt == before.salt {
            self.max_frame.saturating_sub(before.max_frame)
        } else {
            self.max_frame
        }
    }
}

/// Copies the words out one by one. Another process may be writing them.
///
/// # Safety
/// `start` is the mapped first region of a wal-index (32 KiB, aligned to 4).
unsafe fn copy(start: *const u32, from: usize) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for (i, word) in words.iter_mut().enumerate() {
        // SAFETY: inside the region; volatile, since other processes write here.
        *word = unsafe { start.add(from + i).read_volatile() };
    }
    words
}

/// The header as the holder of the write lock sees it: nobody else writes it.
///
/// # Safety
/// As for [`read`]; the caller holds the WAL write lock.
pub(crate) unsafe fn read_locked(start: *const u32) -> Header {
    // SAFETY: the caller's promise.
    Header::of(&unsafe { copy(start, 0) })
}

/// The header, without a lock. None: it is being written (look again), or not made yet.
///
/// # Safety
/// `start` is the mapped first region of a wal-index (32 KiB, aligned to 4).
#[must_use]
pub unsafe fn read(start: *const u32) -> Option<Header> {
    for _ in 0..8 {
        // SAFETY: the caller's promise.
        let first = unsafe { copy(start, 0) };
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        // SAFETY: the caller's promise.
        let second = unsafe { copy(start, WORDS) };
        if first == second {
            return (first.first() == Some(&VERSION)).then(|| Header::of(&first));
        }
        std::hint::spin_loop();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(change: u32, max_frame: u32, salt: u32) -> Header {
        Header { change, max_frame, pages: 1, salt: [salt, 0] }
    }

    #[test]
    fn a_wal_that_starts_again_is_no_commit() {
        assert!(!header(7, 0, 2).committed_since(&header(7, 9, 1)));
        assert!(header(8, 2, 2).committed_since(&header(7, 9, 1)));
        assert!(
            header(0, 3, 1).committed_since(&header(0, 2, 1)),
            "after a recovery iChange starts anew"
        );
        assert_eq!(header(8, 2, 2).frames_since(&header(7, 9, 1)), 2);
        assert_eq!(header(8, 12, 1).frames_since(&header(7, 9, 1)), 3);
    }

    #[test]
    fn copies_that_differ_are_not_read() {
        let mut words = [0_u32; 24];
        words[0] = VERSION;
        words[12] = VERSION;
        words[4] = 5;
        // SAFETY: as long as two copies.
        assert_eq!(unsafe { read(words.as_ptr()) }, None);
        words[16] = 5;
        // SAFETY: as long as two copies.
        assert_eq!(unsafe { read(words.as_ptr()) }.map(|h| h.max_frame), Some(5));
    }
}
