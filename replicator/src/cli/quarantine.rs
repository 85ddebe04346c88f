//! `harmonylite quarantine`: batches that could not be decoded or applied.

use super::args::QuarantineAction;
use super::exit::{Exit, Failure};
use super::table::table;
use super::{control, database, progress, show};
use crate::db::lockfile::{Sidecar, sidecar};
use crate::settings::Settings;
use crate::store::quarantine::{self, Entry, LOOKING_UP};
use anyhow::Result;
use rusqlite::Connection;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A retry is waited for this long: a write transaction, and an answer of the broker. After that
/// the reason shows what was done so far.
const OUTCOME_WAIT: Duration = Duration::from_secs(5);
const OUTCOME_POLL: Duration = Duration::from_millis(50);

/// Runs `harmonylite quarantine`.
pub(crate) fn run(settings: &Settings, action: QuarantineAction) -> Result<ExitCode> {
    let name = format!("working on {}", settings.db_path.display());
    show::print(&progress::during(&name, || perform(settings, action))?);
    Ok(ExitCode::SUCCESS)
}

fn perform(settings: &Settings, action: QuarantineAction) -> Result<String> {
    let db = database::open_installed(&settings.db_path)?;
    Ok(match action {
        QuarantineAction::List { json } => list(&quarantine::list(&db)?, json),
        QuarantineAction::Retry { id } => retry(&db, &settings.db_path, id, OUTCOME_WAIT)?,
        QuarantineAction::Drop { id } => drop_entry(&db, id)?,
    })
}

fn list(entries: &[Entry], json: bool) -> String {
    if json {
        let all: Vec<serde_json::Value> = entries.iter().map(as_json).collect();
        return serde_json::Value::Array(all).to_string() + "\n";
    }
    if entries.is_empty() {
        return "no batches in quarantine\n".to_owned();
    }
    let rows = entries.iter().map(|e| {
        let place = format!("{} at {}", e.shard, e.seq);
        vec![
            e.id.to_string(),
            show::moment(e.time_ms),
            e.node.to_string(),
            e.batch.to_string(),
            place,
            e.reason.clone(),
        ]
    });
    let header = ["id", "since", "from node", "batch", "stream", "reason"];
    table(&header, header.len(), rows.collect())
}

fn as_json(e: &Entry) -> serde_json::Value {
    serde_json::json!({
        "id": e.id, "time_ms": e.time_ms, "shard": e.shard, "seq": e.seq.0,
        "node_id": e.node.0, "site": e.site.0, "batch": e.batch.0, "reason": e.reason,
    })
}

fn unknown(id: i64) -> Failure {
    Failure::new(
        Exit::General,
        format!("no batch {id} in quarantine"),
        "`harmonylite quarantine list` shows the ids",
    )
}

fn find(db: &Connection, id: i64) -> Result<Option<Entry>> {
    Ok(quarantine::list(db)?.into_iter().find(|entry| entry.id == id))
}

fn retry(db: &Connection, path: &Path, id: i64, wait: Duration) -> Result<String> {
    let before = find(db, id)?.ok_or_else(|| unknown(id))?;
    let Sidecar::Running(owner) = sidecar(path)? else {
        return Err(Failure::new(
            Exit::General,
            format!("no node runs on {}", path.display()),
            "start it with `harmonylite run`, then try again",
        )
        .into());
    };
    let answer = control::ask(owner.as_ref(), "POST", &format!("/quarantine/{id}/retry"))?;
    match answer.status {
        200..=299 => outcome(db, &before, wait),
        status => Err(Failure::new(
            Exit::General,
            format!("the node refused ({status}): {}", answer.body),
            "see its log",
        )
        .into()),
    }
}

/// Waits for the end of a retry, and returns it in words.
#[allow(clippy::disallowed_methods)] // A command waits for a person, in real time.
fn outcome(db: &Connection, before: &Entry, wait: Duration) -> Result<String> {
    let (id, deadline) = (before.id, Instant::now() + wait);
    loop {
        let Some(now) = find(db, id)? else {
            // Damaged bytes are never applied.
            return Ok(match before.is_as_sent() {
                true => format!("batch {id} is applied and out of quarantine\n"),
                false => format!(
                    "the rows of batch {id} have come from another node; it is out of quarantine\n"
                ),
            });
        };
        let is_decided = now.reason != before.reason && !now.reason.contains(LOOKING_UP);
        if is_decided || Instant::now() >= deadline {
            return Ok(format!("batch {id} stays in quarantine: {}\n", now.reason));
        }
        std::thread::sleep(OUTCOME_POLL);
    }
}

fn drop_entry(db: &Connection, id: i64) -> Result<String> {
    if quarantine::remove(db, id)? {
        Ok(format!("dropped batch {id}\n"))
    } else {
        Err(unknown(id).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::lockfile::{Lock, Owner};
    use crate::model::ids::{BatchNo, NodeId, Site, StreamSeq};
    use sha2::{Digest, Sha256};

    #[test]
    fn entries_are_listed_retried_and_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = Connection::open(&path).unwrap();
        crate::store::install::create_tables(&db, &path).unwrap();
        assert_eq!(list(&[], false), "no batches in quarantine\n");
        let entry = Entry {
            id: 0,
            time_ms: 1_700_000_000_000,
            shard: 1,
            seq: StreamSeq(9),
            node: NodeId(2),
            site: Site(3),
            batch: BatchNo(4),
            reason: "truncated in row".into(),
            body: vec![1],
            digest: None,
        };
        quarantine::add(&db, &entry).unwrap();
        let all = quarantine::list(&db).unwrap();
        assert!(
            list(&all, false).contains("1 at 9") && list(&all, false).contains("truncated in row")
        );
        assert!(list(&all, true).contains("\"batch\":4"));

        assert!(
            retry(&db, &path, 5, Duration::ZERO).unwrap_err().to_string().contains("no batch 5")
        );
        let refused = retry(&db, &path, 1, Duration::ZERO).unwrap_err();
        assert!(refused.to_string().contains("no node runs"));
        let mut lock = Lock::acquire(&path).unwrap();
        for (name, status, good) in [("a", 202, true), ("b", 409, false)] {
            let socket = dir.path().join(name);
            lock.announce(&Owner { pid: 1, node_id: 1, socket: socket.clone() }).unwrap();
            let node = control::fake_node(&socket, status, "not now".to_owned());
            assert_eq!(retry(&db, &path, 1, Duration::ZERO).is_ok(), good);
            assert_eq!(node.join().unwrap(), "POST /quarantine/1/retry HTTP/1.1");
        }
        let before = Entry { reason: "an earlier reason".into(), ..all[0].clone() };
        let said = outcome(&db, &before, OUTCOME_WAIT).unwrap();
        assert_eq!(said, "batch 1 stays in quarantine: truncated in row\n");
        assert!(drop_entry(&db, 1).is_ok());
        let said = outcome(&db, &before, OUTCOME_WAIT).unwrap();
        assert!(said.starts_with("the rows of batch 1 have come from another node"), "{said}");
        let digest = Some(Sha256::digest(&before.body).into());
        let said = outcome(&db, &Entry { digest, ..before }, OUTCOME_WAIT).unwrap();
        assert_eq!(said, "batch 1 is applied and out of quarantine\n");
        assert!(drop_entry(&db, 1).unwrap_err().to_string().contains("no batch 1"));
    }
}
