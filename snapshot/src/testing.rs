//! A store in memory that fails on demand, and databases, for tests.

use crate::image::Image;
use crate::manifest::Facts;
use crate::name::Name;
use crate::save::{SaveOptions, Saved, save};
use crate::store::{Entry, Patience, Retrying, Store, StoreError, StoreErrorKind};
use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Passing,
    Lasting,
    Hang,
}

#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) objects: Mutex<BTreeMap<Name, Bytes>>,
    faults: Mutex<HashMap<Name, VecDeque<Fault>>>,
    /// Puts of chunks that still succeed; None: all.
    pub(crate) chunk_puts: Mutex<Option<usize>>,
    calls: Mutex<usize>,
}

impl Memory {
    pub(crate) fn fail(&self, name: &Name, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().insert(name.clone(), faults.into_iter().collect());
    }

    pub(crate) fn calls(&self) -> usize {
        *self.calls.lock().unwrap()
    }

    pub(crate) fn names(&self, prefix: &str) -> Vec<Name> {
        let objects = self.objects.lock().unwrap();
        objects.keys().filter(|name| name.as_str().starts_with(prefix)).cloned().collect()
    }

    async fn enter(&self, name: &Name) -> Result<(), StoreError> {
        *self.calls.lock().unwrap() += 1;
        let fault = self.faults.lock().unwrap().get_mut(name).and_then(VecDeque::pop_front);
        match fault {
            None => Ok(()),
            Some(Fault::Passing) => Err(StoreError::new(StoreErrorKind::Passing, "try later")),
            Some(Fault::Lasting) => Err(StoreError::new(StoreErrorKind::Lasting, "never")),
            Some(Fault::Hang) => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Store for Memory {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    async fn put(&self, name: &Name, body: Bytes) -> Result<(), StoreError> {
        self.enter(name).await?;
        if name.as_str().starts_with("chunk/")
            && let Some(left) = self.chunk_puts.lock().unwrap().as_mut()
        {
            if *left == 0 {
                return Err(StoreError::new(StoreErrorKind::Lasting, "killed here"));
            }
            *left -= 1;
        }
        self.objects.lock().unwrap().insert(name.clone(), body);
        Ok(())
    }

    async fn get(
        &self,
        name: &Name,
        range: Option<Range<u64>>,
        bytes_max: usize,
    ) -> Result<Bytes, StoreError> {
        self.enter(name).await?;
        let found = self.objects.lock().unwrap().get(name).cloned();
        let body = found.ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, "none"))?;
        let body = range.map_or(body.clone(), |r| body.slice(r.start as usize..r.end as usize));
        if body.len() > bytes_max {
            return Err(StoreError::new(StoreErrorKind::TooLarge, "too large"));
        }
        Ok(body)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let objects = self.objects.lock().unwrap();
        let found = objects.iter().filter(|(name, _)| name.as_str().starts_with(prefix));
        Ok(found
            .map(|(name, body)| Entry { name: name.clone(), bytes: Some(body.len() as u64) })
            .collect())
    }

    async fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.enter(name).await?;
        self.objects.lock().unwrap().remove(name);
        Ok(())
    }
}

pub(crate) fn quick() -> Patience {
    Patience { attempt: Duration::from_secs(2), attempts: 5, wait: Duration::from_millis(1) }
}

pub(crate) fn memory() -> (Arc<Memory>, Retrying) {
    let memory = Arc::new(Memory::default());
    (memory.clone(), Retrying::new(memory, quick()))
}

/// A database of about `mib` MiB that does not compress to nothing.
pub(crate) fn database(path: &Path, mib: usize) -> Connection {
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, \
        body BLOB)",
    )
    .unwrap();
    for _ in 0..mib {
        db.execute_batch(
            "BEGIN; INSERT INTO note (body) WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT \
            i + 1 FROM n WHERE i < 256) SELECT randomblob(2000) || zeroblob(2000) FROM n; COMMIT",
        )
        .unwrap();
    }
    db
}

pub(crate) async fn take(store: &Retrying, path: &Path, now_ms: i64) -> Saved {
    try_take(store, path, now_ms).await.unwrap()
}

pub(crate) async fn try_take(
    store: &Retrying,
    path: &Path,
    now_ms: i64,
) -> Result<Saved, crate::SnapshotError> {
    let image = Image::capture(path, path.parent().unwrap()).unwrap();
    save(image, Facts::default(), store, &SaveOptions::at(now_ms), &Default::default()).await
}
