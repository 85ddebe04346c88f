//! Waking the sidecar from another process: by the futex on Linux, elsewhere by a byte in a named
//! pipe beside the bell.
//!
//! Owns: a wake is never lost between a sleeper's last look and its sleep. The futex compares the
//! word itself; the pipe keeps the byte. (Rejected for the others: a datagram socket, whose name
//! may have only 104 bytes.)

use crate::map::Map;
use std::ffi::CStr;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

#[cfg(all(target_os = "linux", not(feature = "fifo")))]
mod way {
    use super::{AtomicU32, CStr, Duration, Path, io};

    /// What the sidecar sleeps with.
    pub(crate) struct Sleeper;

    impl Sleeper {
        #[allow(clippy::unnecessary_wraps)] // the other way may fail
        pub(crate) fn new(_: &Path) -> io::Result<Self> {
            Ok(Self)
        }

        /// Sleeps while `word` is `expected`, at most `timeout`. May return early.
        #[allow(clippy::unused_self)] // the other way has something in it
        pub(crate) fn sleep(&self, word: &AtomicU32, expected: u32, timeout: Duration) {
            crate::futex::wait(word, expected, timeout);
        }
    }

    /// Wakes the sidecar of that bell.
    pub(crate) fn wake(word: &AtomicU32, _: &CStr) {
        crate::futex::wake(word);
    }
}

#[cfg(not(all(target_os = "linux", not(feature = "fifo"))))]
mod way {
    use super::{AtomicU32, CStr, Duration, Path, io};
    use std::ffi::{CString, OsString};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    fn name(bell: &[u8]) -> OsString {
        OsString::from_vec([bell, b".fifo"].concat())
    }

    /// Both ends in one: neither an end without the other, nor SIGPIPE, can come up.
    fn open(bell: &[u8]) -> io::Result<File> {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(name(bell))
    }

    /// What the sidecar sleeps with.
    pub(crate) struct Sleeper(File);

    impl Sleeper {
        pub(crate) fn new(bell: &Path) -> io::Result<Self> {
            let bytes = bell.as_os_str().as_bytes();
            let pipe = name(bytes);
            let _ = std::fs::remove_file(&pipe); // only a sidecar makes it, and there is one
            let terminated =
                CString::new(pipe.as_bytes()).map_err(|_| io::ErrorKind::InvalidFilename)?;
            let of = std::fs::metadata(bell)?;
            // SAFETY: a terminated string.
            if unsafe { libc::mkfifo(terminated.as_ptr(), 0o600) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // Whoever may ring may wake.
            let _ = std::os::unix::fs::chown(&pipe, Some(of.uid()), Some(of.gid()));
            std::fs::set_permissions(&pipe, of.permissions())?;
            open(bytes).map(Self)
        }

        /// Sleeps until somebody wakes, at most `timeout`. May return early.
        pub(crate) fn sleep(&self, _: &AtomicU32, _: u32, timeout: Duration) {
            let mut ready =
                libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let limit = i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
            // SAFETY: one open descriptor, described by one structure.
            unsafe { libc::poll(&raw mut ready, 1, limit) };
            let mut bytes = [0; 64];
            while (&self.0).read(&mut bytes).is_ok_and(|n| n == bytes.len()) {}
        }
    }

    /// Wakes the sidecar of that bell.
    #[cold]
    pub(crate) fn wake(_: &AtomicU32, bell: &CStr) {
        // A full pipe wakes as well.
        let _ = open(bell.to_bytes()).and_then(|mut pipe| pipe.write(&[1]));
    }
}

pub(crate) use way::Sleeper;

/// Changes the word of a bell, and wakes the sidecar if it sleeps.
#[inline]
pub(crate) fn change(map: &Map, bell: &CStr) {
    // The sleeper says that it will, then sleeps only if the word is still what it saw. We change
    // the word, then ask whether it said so. In the one total order of these four steps one of the
    // two always notices the other.
    map.word().fetch_add(1, SeqCst);
    if map.waiting().load(SeqCst) != 0 && map.waiting().swap(0, SeqCst) != 0 {
        way::wake(map.word(), bell);
    }
}
