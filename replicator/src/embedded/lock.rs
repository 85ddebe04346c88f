//! Locks the store directory against a second server: nats-server has no lock of its own, and two
//! servers destroy each other's streams.
//!
//! The lock belongs to the open file, and the child inherits it: if this process is killed, the
//! lock lasts until its nats-server ends too. So the next holder of the lock knows that the former
//! server has ended.

use super::EmbeddedError;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Duration;

/// An orphaned former server ends within this time.
const WAIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Creates the directory if it is missing (for its owner only) and locks it.
pub(super) async fn acquire(dir: &Path) -> Result<File, EmbeddedError> {
    create_private(dir)?;
    let path = dir.join("harmonylite.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(EmbeddedError::files(&path))?;
    let deadline = tokio::time::Instant::now() + WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOOK_EVERY).await
            }
            Err(TryLockError::WouldBlock) => {
                return Err(EmbeddedError::StoreLocked { path: dir.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(EmbeddedError::Files { path, error }),
        }
    }
}

/// Creates a directory that only its owner can read: the generated configuration contains a
/// password.
pub(super) fn create_private(dir: &Path) -> Result<(), EmbeddedError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(EmbeddedError::files(dir))
}
