//! Sleeping on a word of shared memory, and waking whoever does.
//!
//! Linux: a futex, not the private kind: the sleeper is another process. Elsewhere there is no such
//! call for two processes on every system: an application in `harmonylite_wait` looks again every
//! few milliseconds. (For the sidecar see wake.rs.)

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps while `word` is `expected`, at most `timeout`. May return early.
#[cfg(target_os = "linux")]
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let limit = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs().min(1 << 30)).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos() as _,
    };
    // SAFETY: the word is mapped, aligned and outlives the call; `limit` too. EFAULT, EAGAIN,
    // EINTR, ETIMEDOUT: return.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &raw const limit)
    };
}

/// Wakes everyone who sleeps on `word`.
#[cfg(target_os = "linux")]
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the kernel uses the address as a name and reads nothing.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Sleeps while `word` is `expected`, at most `timeout`. May return early.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    if word.load(std::sync::atomic::Ordering::SeqCst) == expected {
        pause(timeout.min(Duration::from_millis(2)));
    }
}

/// Wakes everyone who sleeps on `word`: they look by themselves.
#[cfg(not(target_os = "linux"))]
pub(crate) fn wake(_: &AtomicU32) {}

/// Sleeps, where there is no word to sleep on.
pub(crate) fn pause(time: Duration) {
    let mut limit = libc::timespec {
        tv_sec: time.as_secs().min(1 << 30) as _,
        tv_nsec: time.subsec_nanos() as _,
    };
    // SAFETY: a valid timespec; an interruption only makes it shorter.
    unsafe { libc::nanosleep(&raw mut limit, std::ptr::null_mut()) };
}

fn clock(which: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the answer; these clocks exist everywhere.
    unsafe { libc::clock_gettime(which, &raw mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    clock(libc::CLOCK_REALTIME)
}

/// Nanoseconds of a clock that nobody sets.
pub(crate) fn monotonic_ns() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}
