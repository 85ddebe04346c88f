//! The port to a store, and the time-outs and retries in front of every one of them.
//!
//! Arrives: small whole objects with names. Leaves: the same bytes. Owns: no request waits without
//! end, and a failure that may pass is tried again a bounded number of times. A crash leaves whole
//! objects only: that is what [`Store::put`] promises.

use crate::error::SnapshotError;
use crate::name::Name;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What kind of failure it is, for retries and for the hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// There is no such object.
    NotFound,
    /// The store is full.
    Full,
    /// Credentials or permissions do not suffice.
    Denied,
    /// The object is larger than allowed.
    TooLarge,
    /// The failure may pass: it is tried again.
    Passing,
    /// Any other failure that lasts.
    Lasting,
}

/// Why a store did not do one thing.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct StoreError {
    /// The kind.
    pub kind: StoreErrorKind,
    /// For people, without credentials.
    pub reason: String,
}

impl StoreError {
    /// Builds an error.
    pub fn new(kind: StoreErrorKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

/// The objects in a list, at most: ten times the chunks of the largest snapshot.
pub const ENTRIES_MAX: usize = 10_000_000;

/// The error of an answer that is larger than what is accepted.
pub(crate) fn too_large(most: usize) -> StoreError {
    StoreError::new(StoreErrorKind::TooLarge, format!("it has more than {most}"))
}

/// One listed object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its size, if the store tells it without another request.
    pub bytes: Option<u64>,
}

/// A store of objects that are written once and read whole or in part.
///
/// A store needs no retries of its own: [`Retrying`] has them. It may be called from several tasks
/// at once.
#[async_trait]
pub trait Store: Send + Sync {
    /// Returns the place for people, without credentials.
    fn place(&self) -> String;

    /// Writes an object. Afterwards it is durable and readable; a failure or a crash leaves the
    /// former object of this name, or none, never a part. At most a few MiB, except for the
    /// manifest of a very large database.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn put(&self, name: &Name, body: Bytes) -> Result<(), StoreError>;

    /// Reads an object, or the bytes of a range (which may end after the object). At most
    /// `bytes_max` are accepted.
    ///
    /// # Errors
    /// [`StoreErrorKind::NotFound`], [`StoreErrorKind::TooLarge`], or another failure.
    async fn get(
        &self,
        name: &Name,
        range: Option<Range<u64>>,
        bytes_max: usize,
    ) -> Result<Bytes, StoreError>;

    /// Lists the objects whose name begins with `prefix`, in any order. An object of another
    /// program, whose name is no [`Name`], is left out. A store that does not exist yet is empty.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError>;

    /// Deletes an object. It is no error if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn delete(&self, name: &Name) -> Result<(), StoreError>;

    /// Removes what puts left that were killed more than a day ago. Returns how many.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sweep(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// How long a request may take, and how often it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The longest time of one attempt.
    pub attempt: Duration,
    /// The attempts, the first one included. Fewer before the store has answered at all.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles.
    pub wait: Duration,
}

impl Default for Patience {
    /// About two minutes of trouble are waited out.
    fn default() -> Self {
        Self { attempt: Duration::from_secs(60), attempts: 9, wait: Duration::from_millis(250) }
    }
}

/// The longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The attempts, at most, before a store has answered anything: a wrong address does not pass.
const FIRST_ATTEMPTS: u32 = 4;

/// A store with time-outs and retries. All of this crate goes through it.
#[derive(Clone)]
pub struct Retrying {
    store: Arc<dyn Store>,
    patience: Patience,
    /// Whether the store has ever answered.
    answered: Arc<AtomicBool>,
}

impl Retrying {
    /// Wraps a store.
    pub fn new(store: Arc<dyn Store>, patience: Patience) -> Self {
        Self { store, patience, answered: Arc::default() }
    }

    /// Returns the place for people.
    pub fn place(&self) -> String {
        self.store.place()
    }

    pub(crate) async fn put(&self, name: &Name, body: Bytes) -> Result<(), SnapshotError> {
        let put = || self.store.put(name, body.clone());
        self.again(put).await.map_err(|error| self.failed("write", name.as_str(), error))
    }

    /// Reads a whole object; None if there is none.
    pub(crate) async fn get(
        &self,
        name: &Name,
        bytes_max: usize,
    ) -> Result<Option<Bytes>, SnapshotError> {
        match self.again(|| self.store.get(name, None, bytes_max)).await {
            Ok(body) => Ok(Some(body)),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", name.as_str(), error)),
        }
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Entry>, SnapshotError> {
        self.again(|| self.store.list(prefix))
            .await
            .map_err(|error| self.failed("list", prefix, error))
    }

    pub(crate) async fn delete(&self, name: &Name) -> Result<(), SnapshotError> {
        self.again(|| self.store.delete(name))
            .await
            .map_err(|error| self.failed("delete", name.as_str(), error))
    }

    pub(crate) async fn sweep(&self) -> Result<u64, SnapshotError> {
        self.again(|| self.store.sweep()).await.map_err(|error| self.failed("tidy", "it", error))
    }

    fn failed(&self, action: &'static str, object: &str, error: StoreError) -> SnapshotError {
        SnapshotError::Store { place: self.place(), action, object: object.to_owned(), error }
    }

    async fn again<T, F>(&self, request: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let Patience { attempt, attempts, mut wait } = self.patience;
        let mut tried = 0;
        loop {
            let answer = tokio::time::timeout(attempt, request()).await.unwrap_or_else(|_| {
                let reason = format!("no answer within {attempt:?}");
                Err(StoreError::new(StoreErrorKind::Passing, reason))
            });
            tried += 1;
            let error = match answer {
                Err(error) if error.kind == StoreErrorKind::Passing => error,
                answer => {
                    self.answered.store(true, Ordering::Relaxed);
                    return answer;
                }
            };
            let is_known = self.answered.load(Ordering::Relaxed);
            if tried >= if is_known { attempts } else { attempts.min(FIRST_ATTEMPTS) } {
                return Err(error);
            }
            let place = self.place();
            tracing::warn!(place, %error, ?wait, "the snapshot store failed, retrying");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fault, Memory, quick};

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_passes_is_tried_again_and_one_that_lasts_is_not() {
        let memory = Arc::new(Memory::default());
        let name = Name::new("a").unwrap();
        let store = Retrying::new(memory.clone(), quick());
        memory.fail(&name, [Fault::Passing, Fault::Hang, Fault::Passing]);
        store.put(&name, Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(memory.calls(), 4);
        assert_eq!(store.get(&name, 1).await.unwrap().unwrap(), "x");
        memory.fail(&name, [Fault::Lasting]);
        let error = store.put(&name, Bytes::new()).await.unwrap_err();
        assert!(error.to_string().contains("memory: cannot write a: "), "{error}");
        assert_eq!(memory.calls(), 6, "one attempt");
        memory.fail(&name, [Fault::Passing; 20]);
        assert!(store.get(&name, 1).await.is_err());
        assert_eq!(memory.calls(), 6 + quick().attempts as usize, "bounded");
        let unknown = Retrying::new(memory.clone(), quick());
        memory.fail(&name, [Fault::Passing; 20]);
        assert!(unknown.get(&name, 1).await.is_err());
        let first = FIRST_ATTEMPTS as usize;
        assert_eq!(memory.calls(), 6 + quick().attempts as usize + first, "it never answered");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_not_there_is_none_and_a_large_one_an_error() {
        let memory = Arc::new(Memory::default());
        let store = Retrying::new(memory, quick());
        let name = Name::new("a").unwrap();
        assert!(store.get(&name, 1).await.unwrap().is_none());
        store.put(&name, Bytes::from_static(b"xy")).await.unwrap();
        assert!(store.get(&name, 1).await.is_err());
        store.delete(&name).await.unwrap();
        store.delete(&name).await.unwrap();
    }
}
