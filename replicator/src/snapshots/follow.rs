//! Keeps a restored file up to date, as a copy for reading.
//!
//! Arrives: the file, the streams, a flag that ends it. Leaves: the file, with what the streams
//! bring, transaction by transaction. Owns: the file belongs to no node (its node id is 0), so it
//! publishes nothing, and no node takes it for its own; what it cannot follow exactly ends it with
//! an error. After a crash it goes on from the stored positions.

use super::replay::{Replay, ReplayError, Settled, Until};
use crate::broker::BrokerEvent;
use crate::clock;
use crate::db::connection::{self, DatabaseError};
use crate::inbound::Input;
use crate::model::config::NodeConfig;
use crate::model::ids::NodeId;
use crate::nats::History;
use crate::store::{install, meta};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

/// The node id of a copy.
pub(crate) const NOBODY: NodeId = NodeId(0);
/// The longest wait before the flag is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// An origin that is held for longer needs a migration, which nobody makes in a copy. The change of
/// the schema may come in another stream, a little later.
const HELD_MS: u64 = 10_000;
/// A wait for the write lock is a line on stderr after this time, and again after as long.
const LOCKED_MS: u64 = 5_000;

/// Returns whether a file is such a copy, or was restored and never started.
///
/// # Errors
/// SQLite's error: not a database, locked, damaged.
pub(crate) fn is_copy(path: &Path) -> Result<bool, DatabaseError> {
    let db = connection::open_reader(path)?;
    if !install::is_installed(&db)? {
        return Ok(false);
    }
    Ok(match meta::get(&db, meta::NODE)? {
        None => meta::get(&db, meta::RESTORED_NODE)?.is_some(),
        Some(node) => node == NOBODY,
    })
}

/// Follows until the flag is set. `current` is called once, when all is applied that the streams
/// held at the start. Blocks; not to be called by a task of the runtime.
///
/// # Errors
/// [`ReplayError`]: the file stays, with the state before it.
pub(crate) fn follow(
    path: &Path,
    config: NodeConfig,
    history: &History,
    runtime: Handle,
    (stop, current): (&AtomicBool, impl FnOnce()),
) -> Result<(), ReplayError> {
    let config = NodeConfig { node: NOBODY, ..config };
    let shards = config.shards;
    let mut ends = Vec::new();
    for shard in 1..=shards {
        let state = runtime.block_on(history.state(shard))?;
        ends.push((shard, state.map_or(0, |state| state.last.0)));
    }
    let mut replay = Replay::open(path, config, history, runtime, Until::Stopped)?;
    replay.take(Input::Broker(BrokerEvent::Connected))?;
    let (mut current, mut held_ms) = (Some(current), None);
    let mut locked = Locked::default();
    while !stop.load(Ordering::Relaxed) {
        let settled = replay.settle()?;
        if let Some(text) = locked.look(settled, path, replay.inbound.no_room(), clock::mono_ms()) {
            tracing::warn!("{text}");
        }
        replay.check_streams()?;
        match replay.check_held() {
            Ok(()) => held_ms = None,
            Err(error) => {
                let since_ms = *held_ms.get_or_insert_with(clock::mono_ms);
                if clock::mono_ms() - since_ms > HELD_MS {
                    return Err(error);
                }
            }
        }
        if has_applied(&replay, &ends)
            && let Some(current) = current.take()
        {
            current();
        }
        let wait_ms = replay.inbound.deadline().saturating_sub(clock::mono_ms()).max(5);
        for event in replay.next(LOOK.min(Duration::from_millis(wait_ms))).unwrap_or_default() {
            replay.take(Input::Broker(event))?;
        }
    }
    replay.take(Input::Flush)?;
    // What a held lock keeps from the file is read again by the next start.
    replay.settle().map(drop)
}

/// The wait for the write lock of the copy, which no program but this one needs.
#[derive(Debug, Default)]
struct Locked {
    /// Since when, on the monotone clock.
    since_ms: Option<u64>,
    told_ms: u64,
}

impl Locked {
    /// Takes the end of a step. Returns what a person has to know, once for each [`LOCKED_MS`].
    fn look(
        &mut self,
        settled: Settled,
        path: &Path,
        no_room: Option<String>,
        now_ms: u64,
    ) -> Option<String> {
        if settled == Settled::Done {
            let was = std::mem::take(self);
            return (was.told_ms > 0)
                .then(|| format!("{} can be written again, and follows", path.display()));
        }
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        if now_ms < since_ms.max(self.told_ms) + LOCKED_MS {
            return None;
        }
        self.told_ms = now_ms;
        let waits_s = (now_ms - since_ms) / 1_000;
        Some(match no_room {
            Some(reason) => format!("the copy gets no changes for {waits_s} s: {reason}"),
            None => format!(
                "waiting {waits_s} s for the write lock of {}: the copy gets no changes. Another \
                program writes to it: end its transaction, and let it open the copy read-only",
                path.display()
            ),
        })
    }
}

fn has_applied(replay: &Replay<'_>, ends: &[(u32, u64)]) -> bool {
    let mut streams = replay.inbound.streams();
    replay.inbound.is_connected()
        && streams.all(|(stream, progress)| {
            let end = ends.iter().find(|(shard, _)| *shard == stream.shard).map_or(0, |e| e.1);
            let reached = stream.position.seq.0.max(progress.cursor.seq().0);
            reached >= end && stream.waits_for_nothing()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::Site;
    use crate::snapshots::begin_anew;
    use crate::store::sites;
    use rusqlite::Connection;

    #[test]
    fn a_wait_for_the_write_lock_is_told_again_and_again_and_its_end_once() {
        let mut locked = Locked::default();
        let mut look = |settled, now_ms| locked.look(settled, Path::new("c.db"), None, now_ms);
        assert_eq!(look(Settled::Done, 100), None);
        assert_eq!(look(Settled::Locked, 1_000), None);
        assert_eq!(look(Settled::Done, 2_000), None, "a short wait is nobody's business");
        assert_eq!(look(Settled::Locked, 3_000), None);
        assert_eq!(look(Settled::Locked, 7_999), None);
        let text = look(Settled::Locked, 8_000).unwrap();
        assert!(text.contains("waiting 5 s for the write lock of c.db"), "{text}");
        assert_eq!(look(Settled::Locked, 12_999), None);
        assert!(look(Settled::Locked, 13_000).unwrap().contains("10 s"));
        assert!(look(Settled::Done, 13_001).unwrap().contains("again"));
        assert_eq!(look(Settled::Done, 13_002), None);
        look(Settled::Locked, 20_000);
        let full = locked.look(Settled::Locked, Path::new("c.db"), Some("full".into()), 25_000);
        assert!(full.unwrap().ends_with("5 s: full"));
    }

    #[test]
    fn a_copy_is_told_from_a_node_s_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a)").unwrap();
        assert!(!is_copy(&path).unwrap(), "no node ran on it");
        install::create_tables(&db, &path).unwrap();
        sites::begin_site(&db, Site(7), 1).unwrap();
        meta::set(&db, meta::NODE, NodeId(3)).unwrap();
        assert!(!is_copy(&path).unwrap(), "it is that of node 3");
        begin_anew(&path, 2).unwrap();
        assert!(is_copy(&path).unwrap(), "restored");
        meta::set(&db, meta::NODE, NOBODY).unwrap();
        assert!(is_copy(&path).unwrap(), "followed");
    }
}
