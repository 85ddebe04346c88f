//! Looks whether the indexes find the rows of their tables.
//!
//! Arrives: the tables, at the start, after each change of the schema, and once an hour. Leaves:
//! what to report in `status`. Reads on a connection of its own; a stop interrupts it. Memory only.

use super::report::StatusSources;
use crate::db::connection::{self, DatabaseError};
use crate::db::index_probe::{BlindIndex, HINT, blind_indexes};
use crate::db::layout::Layout;
use rusqlite::InterruptHandle;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// An application may write the first such row at any time.
const INTERVAL: Duration = Duration::from_secs(3_600);

/// Looks until the task is aborted or the writer is gone.
pub(super) async fn watch_indexes(sources: Arc<StatusSources>, seen: watch::Sender<Vec<String>>) {
    let mut writer = sources.writer.clone();
    loop {
        let layout = Arc::clone(&writer.borrow_and_update().layout);
        match look(sources.database.clone(), Arc::clone(&layout)).await {
            Ok(found) => {
                let reasons: Vec<String> = found.iter().map(|b| format!("{b}: {HINT}")).collect();
                let is_new = seen
                    .send_if_modified(|known| std::mem::replace(known, reasons.clone()) != reasons);
                for reason in reasons.iter().filter(|_| is_new) {
                    tracing::warn!("{reason}");
                }
            }
            Err(error) => tracing::debug!(%error, "cannot look through the indexes"),
        }
        tokio::select! {
            changed = writer.wait_for(|s| !Arc::ptr_eq(&s.layout, &layout)) => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Ends a look that nobody waits for any more.
struct Ends {
    over: Arc<AtomicBool>,
    statement: InterruptHandle,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.statement.interrupt();
    }
}

async fn look(path: PathBuf, layout: Arc<Layout>) -> Result<Vec<BlindIndex>, DatabaseError> {
    let db = connection::open_reader(&path)?;
    let over = Arc::new(AtomicBool::new(false));
    let _ends = Ends { over: Arc::clone(&over), statement: db.get_interrupt_handle() };
    let looked = tokio::task::spawn_blocking(move || {
        let tables = layout.tables.iter().map(|table| table.name());
        blind_indexes(&db, tables, || !over.load(Ordering::Relaxed))
    });
    // A panic there is a defect of this program, which the log names.
    looked.await.map_or_else(|_| Ok(Vec::new()), |found| Ok(found?))
}
