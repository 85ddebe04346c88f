//! Directories for files that are needed for a while.
//!
//! Owns: a directory goes when its value is dropped. A crash leaves it; the next capture or restore
//! in the same place removes it a day later.

use crate::error::SnapshotError;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const PREFIX: &str = ".harmonylite-snapshot-";
/// Nothing in a directory that is in use stays unchanged for so long.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Creates a directory for files that go when it is dropped.
pub(crate) fn create(parent: &Path) -> Result<TempDir, SnapshotError> {
    sweep(parent);
    tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(|error| {
        let path = parent.to_owned();
        SnapshotError::Io { action: "create a scratch directory in", path, error }
    })
}

/// Returns the newest file of that name in a scratch directory: what another process works on.
pub(crate) fn newest(parent: &Path, name: &str) -> Option<Metadata> {
    let entries = std::fs::read_dir(parent).ok()?.flatten();
    let ours = entries.filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(PREFIX)));
    let files = ours.filter_map(|entry| entry.path().join(name).symlink_metadata().ok());
    files.max_by_key(|metadata| metadata.modified().ok())
}

/// Removes the directories that killed processes left. What cannot be removed stays.
pub(crate) fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_ours && is_folder && is_old(&entry.path()) {
            let path = entry.path();
            match std::fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "removed what a crash had left"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove it"),
            }
        }
    }
}

/// The time for ages of files, which have real times.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

fn is_old(folder: &Path) -> bool {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let all: Vec<PathBuf> = std::iter::once(folder.to_owned()).chain(files).collect();
    all.iter().all(|path| {
        let changed = path.symlink_metadata().and_then(|metadata| metadata.modified());
        changed.is_ok_and(|changed| now().duration_since(changed).is_ok_and(|age| age > OLD))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn only_what_nobody_changed_for_a_day_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, folder_is_old: bool, file_is_old: bool| {
            let folder = parent.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            let file = File::create(folder.join("image.db")).unwrap();
            let then = now() - OLD - Duration::from_secs(60);
            if file_is_old {
                file.set_modified(then).unwrap();
            }
            if folder_is_old {
                File::open(&folder).unwrap().set_modified(then).unwrap();
            }
            folder
        };
        let left = make(".harmonylite-snapshot-a", true, true);
        let others = [
            make(".harmonylite-snapshot-b", true, false),
            make(".harmonylite-snapshot-c", false, true),
            make("data", true, true),
        ];
        let new = create(parent.path()).unwrap();
        assert!(!left.exists() && new.path().is_dir());
        assert!(others.iter().all(|folder| folder.is_dir()));
    }
}
