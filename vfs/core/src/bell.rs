//! The sidecar's end of the bell: it makes the file, sleeps on it, reads the ring, and says how far
//! publishing has come.
//!
//! Arrives: rings of applications. Leaves: wakes; the progress that `harmonylite_lag()` and
//! `harmonylite_wait()` read. Owns: the file exists only because a sidecar made it, and is replaced
//! by rename only. The bell is a hint: what was committed is in the wal-index. A sidecar that is
//! killed leaves a waiting flag, which costs one ring one system call.

use crate::futex;
use crate::layout::{self, RING, SUFFIX};
use crate::map::Map;
use crate::wake::{self, Sleeper};
use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::time::Duration;

/// A heartbeat older than this is a sidecar that is gone: what it published is then read from the
/// database.
pub const HEARTBEAT_FRESH: Duration = Duration::from_secs(10);

/// Why [`Bell::wait`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There are commits that the caller has not seen.
    Rung,
    /// Nobody rang in that time.
    Timeout,
    /// [`Bell::interrupt`] was called.
    Interrupted,
}

/// One commit, as the process that made it noted it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its number since the bell was made.
    pub number: u64,
    /// When it became visible: ns since 1970.
    pub time_ns: u64,
    /// The last frame of the WAL after it; 0 outside of WAL mode.
    pub max_frame: u32,
    /// Pages written by it; 0 if not known.
    pub pages: u32,
}

/// How far publishing has come, by the sidecar's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The life of the database that the number belongs to.
    pub site: i64,
    /// The last change log id that the broker acknowledged.
    pub published: i64,
}

/// The bell of one database. Threads may share it: one waits, any may interrupt or report progress
/// (one at a time).
pub struct Bell {
    path: PathBuf,
    name: CString,
    map: Map,
    sleeper: Sleeper,
    interrupted: AtomicBool,
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell")
            .field("path", &self.path)
            .field("rings", &self.rings())
            .finish_non_exhaustive()
    }
}

/// The bell's name for a database, as applications derive it: from the full name, links followed.
///
/// # Errors
/// The directory does not exist.
pub fn path_of(database: &Path) -> io::Result<PathBuf> {
    let full = match database.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory =
                database.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            directory.canonicalize()?.join(database.file_name().ok_or(error)?)
        }
        other => other?,
    };
    let mut name: OsString = full.into();
    name.push(SUFFIX);
    Ok(name.into())
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidFilename.into())
}

impl Bell {
    /// The bell of a database, made if there is none, or none that this program can use. Only for
    /// the sidecar.
    ///
    /// # Errors
    /// The file cannot be made or opened (another user's, a read-only directory, a full disk): go
    /// on without a bell.
    pub fn open_or_create(database: &Path) -> io::Result<Self> {
        let path = path_of(database)?;
        let name = c_string(&path)?;
        let map = match Map::open(&name) {
            Some(map) => map,
            None => {
                create(&path, database)?;
                Map::open(&name).ok_or_else(|| {
                    io::Error::other("the bell that was just made cannot be mapped")
                })?
            }
        };
        let sleeper = Sleeper::new(&path)?;
        let bell = Self { path, name, map, sleeper, interrupted: AtomicBool::new(false) };
        // What a killed sidecar may have left half done.
        let progress = bell.map.progress();
        progress.store(progress.load(Relaxed) & !1, Release);
        bell.map.heartbeat().store(0, SeqCst);
        Ok(bell)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Commits rung since the bell was made: the number of the last one.
    #[must_use]
    pub fn rings(&self) -> u64 {
        self.map.commits().load(SeqCst)
    }

    /// Sleeps until there are more rings than `seen`, at most `timeout`. Take `seen` from
    /// [`Bell::rings`] *before* looking at the database, so that no commit falls between.
    pub fn wait(&self, seen: u64, timeout: Duration) -> Woken {
        let end = futex::monotonic_ns()
            .saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        loop {
            let word = self.map.word().load(SeqCst);
            self.map.waiting().store(1, SeqCst);
            let now = futex::monotonic_ns();
            let woken = if self.interrupted.swap(false, SeqCst) {
                Woken::Interrupted
            } else if self.rings() != seen {
                Woken::Rung
            } else if now >= end {
                Woken::Timeout
            } else {
                self.sleeper.sleep(self.map.word(), word, Duration::from_nanos(end - now));
                continue;
            };
            self.map.waiting().store(0, SeqCst);
            return woken;
        }
    }

    /// Makes the present [`Bell::wait`], or else the next one, return.
    pub fn interrupt(&self) {
        self.interrupted.store(true, SeqCst);
        wake::change(&self.map, &self.name);
    }

    /// Whether the file that applications find under the name is still this one. If not (somebody
    /// deleted or replaced it): drop this and [`Bell::open_or_create`] again.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        crate::map::Identity::named(&self.name) == Some(self.map.identity())
    }

    /// The commits after number `seen`, oldest first, as far as the ring still holds them (64),
    /// into `into`.
    pub fn recent(&self, seen: u64, into: &mut Vec<Commit>) {
        into.clear();
        let last = self.rings();
        let first = seen.saturating_add(1).max(last.saturating_sub(RING - 1));
        for number in first..=last {
            let entry = self.map.entry(number);
            if entry.number.load(Acquire) != number {
                continue; // written over, or not written yet
            }
            let commit = Commit {
                number,
                time_ns: entry.time.load(Relaxed),
                max_frame: entry.max_frame.load(Relaxed),
                pages: entry.pages.load(Relaxed),
            };
            std::sync::atomic::fence(Acquire);
            if entry.number.load(Relaxed) == number {
                into.push(commit);
            }
        }
    }

    /// Says that the sidecar lives. At least every few seconds, see [`HEARTBEAT_FRESH`]; and only
    /// after the first [`Bell::publish_progress`].
    pub fn heartbeat(&self) {
        self.map.heartbeat().store(futex::now_ns(), SeqCst);
    }

    /// Says how far publishing has come, and wakes the applications that wait for it. Is a
    /// heartbeat too.
    pub fn publish_progress(&self, progress: Progress) {
        let word = self.map.progress();
        word.fetch_add(1, SeqCst);
        self.map.site().store(progress.site, SeqCst);
        self.map.published().store(progress.published, SeqCst);
        self.heartbeat();
        word.fetch_add(1, SeqCst);
        if self.map.asking().load(SeqCst) != 0 && self.map.asking().swap(0, SeqCst) != 0 {
            futex::wake(word);
        }
    }
}

impl Drop for Bell {
    /// The sidecar ends: what it published is in the database.
    fn drop(&mut self) {
        self.map.heartbeat().store(0, SeqCst);
    }
}

/// Writes a whole bell under another name (every byte: a page that has no place on the disk yet
/// would be a bus error later), then renames it.
fn create(path: &Path, database: &Path) -> io::Result<()> {
    let mut temporary: OsString = path.into();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&layout::fresh())?;
        // Whoever may write the database may ring, as with -wal and -shm.
        if let Ok(of) = std::fs::metadata(database) {
            if of.uid() != file.metadata()?.uid() || of.gid() != file.metadata()?.gid() {
                let _ = std::os::unix::fs::fchown(&file, Some(of.uid()), Some(of.gid()));
            }
            file.set_permissions(std::fs::Permissions::from_mode(of.mode() & 0o666))?;
        }
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// The bell as an application asks it about the sidecar's progress.
pub(crate) struct Asked(Map);

impl Asked {
    /// Of a database by its full name. None: no sidecar ever ran here.
    pub(crate) fn open(database: &std::ffi::CStr) -> Option<Self> {
        let mut path = database.to_bytes().to_vec();
        path.extend_from_slice(SUFFIX.as_bytes());
        Map::open(&CString::new(path).ok()?).map(Self)
    }

    /// What a living sidecar says, and the word to sleep on. None: it is gone, or in the middle of
    /// saying.
    pub(crate) fn progress(&self) -> (u32, Option<Progress>) {
        let word = self.0.progress().load(SeqCst);
        let progress = Progress {
            site: self.0.site().load(SeqCst),
            published: self.0.published().load(SeqCst),
        };
        let beat = self.0.heartbeat().load(SeqCst);
        let fresh = beat != 0 && futex::now_ns().abs_diff(beat) < HEARTBEAT_FRESH.as_nanos() as u64;
        let whole = word.is_multiple_of(2) && self.0.progress().load(SeqCst) == word;
        (word, (fresh && whole).then_some(progress))
    }

    /// Sleeps until there is progress after `word`, at most `timeout`.
    pub(crate) fn wait(&self, word: u32, timeout: Duration) {
        self.0.asking().store(1, SeqCst);
        futex::wait(self.0.progress(), word, timeout);
    }
}

/// For the bench: nanoseconds a ring, over so many, by an application of that database.
#[doc(hidden)]
#[must_use]
pub fn time_rings(database: &Path, rings: u64) -> f64 {
    let Some(name) = database.canonicalize().ok().and_then(|p| c_string(&p).ok()) else {
        return f64::NAN;
    };
    let mut ringer = crate::ringer::Ringer::new(&name);
    let start = futex::monotonic_ns();
    for i in 0..rings {
        ringer.ring(i as u32, 1);
    }
    (futex::monotonic_ns() - start) as f64 / rings as f64
}
