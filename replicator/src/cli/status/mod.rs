//! `harmonylite status`: the status of the running node, or what the database contains if none
//! runs.

mod offline;
mod text;

use super::exit::{Exit, Failure};
use super::snapshot::directory_of;
use super::{control, progress, show};
use crate::db::lockfile::{Owner, Sidecar, sidecar};
use crate::model::status::Status;
use crate::settings::Settings;
use anyhow::{Context, Result};
use console::Term;
use harmonylite_snapshot::restore::in_progress;
use offline::offline;
use std::process::ExitCode;
use std::time::Duration;
use text::{Word, text, word};

const WATCH: Duration = Duration::from_secs(1);

/// Returns the status as JSON, and whether the node runs. What the database of a stopped node does
/// not tell is null.
fn as_json(running: bool, status: &Status) -> Result<String> {
    let mut value = serde_json::to_value(status)?;
    if !running {
        offline::forget_unknown(&mut value);
    }
    value["running"] = running.into();
    Ok(format!("{value}\n"))
}

/// What to print.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Show {
    /// JSON.
    pub(crate) json: bool,
    /// Again every second.
    pub(crate) watch: bool,
    /// The state only, with an exit status for it.
    pub(crate) check: bool,
}

/// Prints the status. The exit status is 1 if no node runs; with `check` 10 if it is degraded.
pub(crate) fn run(settings: &Settings, to_show: Show) -> Result<ExitCode> {
    let Show { json, watch, check } = to_show;
    loop {
        let name = format!("reading the status of {}", settings.db_path.display());
        let (running, status) = progress::during(&name, || look(settings))?;
        let text = match json {
            true => as_json(running, &status)?,
            false if check => word(running, &status).1 + "\n",
            false => text(running, &status),
        };
        let screen = Term::stdout();
        if watch && !json && screen.is_term() {
            screen.clear_screen()?;
        }
        let is_read = show::print_to_reader(&text);
        if watch && !is_read {
            // The reader of the pipe has ended (`| head`).
            return Ok(ExitCode::SUCCESS);
        }
        if !watch {
            return Ok(match word(running, &status).0 {
                Word::Stopped => Exit::General.into(),
                Word::Degraded if check => Exit::Degraded.into(),
                Word::Degraded | Word::Healthy => ExitCode::SUCCESS,
            });
        }
        control::pause(WATCH)?;
    }
}

/// Reads the status of the node; false if none runs.
pub(crate) fn look(settings: &Settings) -> Result<(bool, Status)> {
    match sidecar(&settings.db_path)? {
        Sidecar::Running(None) if let Some(starting) = restoring(settings) => Err(starting.into()),
        Sidecar::Running(owner) => Ok((true, ask(owner.as_ref())?)),
        Sidecar::Stopped => Ok((false, offline(settings)?)),
    }
}

/// What a node says that begins without a file, while it fetches a snapshot.
fn restoring(settings: &Settings) -> Option<Failure> {
    let to = &settings.db_path;
    let (done, total) = in_progress(&directory_of(to)).filter(|_| !to.exists())?;
    let (done, total) = (show::bytes(done), show::bytes(total));
    let what = format!("a snapshot is being restored to {}: {done} of {total}", to.display());
    Some(Failure::new(Exit::General, what, "ask again when it is there"))
}

fn ask(owner: Option<&Owner>) -> Result<Status> {
    let answer = control::ask(owner, "GET", "/status")?;
    if answer.status != 200 {
        return Err(Failure::new(
            Exit::General,
            format!("the node answers {}: {}", answer.status, answer.body),
            "see its log",
        )
        .into());
    }
    serde_json::from_str(&answer.body)
        .context("cannot read the node's answer: is it another version of harmonylite?")
}

#[cfg(test)]
mod tests {
    use super::super::control::fake_node;
    use super::*;
    use crate::db::lockfile::Lock;
    use crate::db::schema_change::SchemaChange;
    use crate::model::ids::NodeId;
    use crate::model::status::BrokerStatus;
    use crate::store::unmade_objects::{self, Unmade};
    use crate::store::{install, meta};
    use rusqlite::Connection;
    use std::path::Path;

    fn at(path: &Path) -> Settings {
        Settings { db_path: path.to_owned(), ..Settings::default() }
    }

    fn database(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a);
             CREATE TABLE knex_migrations (id INTEGER PRIMARY KEY, name);
             CREATE TABLE knex_migrations_lock (\"index\" INTEGER PRIMARY KEY, is_locked);",
        )
        .unwrap();
        install::create_tables(&db, &path).unwrap();
        meta::set(&db, meta::NODE, NodeId(4)).unwrap();
        crate::capture::install::install(&db, &Default::default(), 1).unwrap();
        db.execute_batch(
            "INSERT INTO t VALUES (1, 1), (2, 2);
             INSERT INTO __harmonylite__cursor (shard, seq, created, time, node, site, batch, \
             lowest) VALUES (1, 17, 0, 0, 1, 1, 1, 0);
             INSERT INTO __harmonylite__held VALUES (9, 1, 5, 1000, 'column x is missing');",
        )
        .unwrap();
        let change = SchemaChange::CreateView { name: "w".into(), sql: "CREATE VIEW w".into() };
        let error = "table w already exists".to_owned();
        let unmade = Unmade { node: NodeId(9), since_ms: 1, change, error };
        unmade_objects::put(&db, &unmade).unwrap();
        path
    }

    /// A node without a file answers nothing before its snapshot is there.
    #[test]
    fn a_node_that_restores_a_snapshot_shows_how_far_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let settings = at(&dir.path().join("app.db"));
        let _lock = Lock::acquire(&settings.db_path).unwrap();
        let said = || look(&settings).unwrap_err().to_string();
        assert!(said().contains("is starting"), "{}", said());
        let scratch = dir.path().join(".harmonylite-snapshot-x");
        std::fs::create_dir(&scratch).unwrap();
        let image = std::fs::File::create(scratch.join("image.db")).unwrap();
        image.set_len(5_000_000).unwrap();
        assert!(said().contains("app.db: 0 B of 5.0 MB"), "{}", said());
        std::fs::write(&settings.db_path, "").unwrap();
        assert!(said().contains("is starting"), "it is in place: {}", said());
    }

    #[test]
    fn a_stopped_node_shows_what_the_database_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path());
        let (running, status) = look(&at(&path)).unwrap();
        assert!(!running);
        assert_eq!((status.node_id, status.pending_rows, status.streams[0].cursor), (4, 2, 17));
        let text = text(running, &status);
        for part in [
            "NOT RUNNING",
            "1 table replicated, 2 not",
            "local only   knex_migrations, knex_migrations_lock: bookkeeping of Knex",
            "applied up to 17",
            "2 changes",
            "node 9",
            "column x is missing",
            "of node 9: create view w: table w already exists",
            "conflicts    none",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for check in [false, true] {
            let to_show = Show { json: true, check, watch: false };
            assert_eq!(run(&at(&path), to_show).unwrap(), ExitCode::from(1));
        }
        let shown: serde_json::Value =
            serde_json::from_str(&as_json(running, &status).unwrap()).unwrap();
        assert!(shown["running"] == false && shown["pending_rows"] == 2, "{shown}");
        assert!(shown["degraded"].is_null() && shown["broker"].is_null(), "{shown}");
        assert!(shown["counters"].is_null() && shown["streams"][0]["last"].is_null(), "{shown}");
        assert!(text.starts_with("STOPPED "), "{text}");
    }

    #[test]
    fn a_running_node_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path());
        let mut lock = Lock::acquire(&path).unwrap();
        assert!(look(&at(&path)).unwrap_err().to_string().contains("starting"));
        let socket = dir.path().join("s");
        lock.announce(&Owner { pid: 5, node_id: 4, socket: socket.clone() }).unwrap();
        let status = Status {
            node_id: 4,
            publish: true,
            started_ms: 1,
            now_ms: 65_001,
            broker: BrokerStatus {
                connected: true,
                linked: true,
                url: "nats://a".into(),
                ..Default::default()
            },
            degraded: vec!["the disk is nearly full".into()],
            ..Status::default()
        };
        let node = fake_node(&socket, 200, serde_json::to_string(&status).unwrap());
        let (running, got) = look(&at(&path)).unwrap();
        assert!(running && got == status);
        assert_eq!(node.join().unwrap(), "GET /status HTTP/1.1");
        let text = text(running, &got);
        for part in
            ["running for 1m 5s", "nats://a: connected", "one-way", "no other node is known"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.starts_with("DEGRADED     the disk is nearly full\n"), "{text}");
    }

    #[test]
    fn the_first_word_is_the_state_and_check_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path());
        let mut lock = Lock::acquire(&path).unwrap();
        let check = |status: &Status, socket: &Path| {
            let node = fake_node(socket, 200, serde_json::to_string(status).unwrap());
            let code = run(&at(&path), Show { check: true, ..Show::default() }).unwrap();
            node.join().unwrap();
            code
        };
        let socket = dir.path().join("s");
        lock.announce(&Owner { pid: 5, node_id: 4, socket: socket.clone() }).unwrap();
        let mut status = Status { node_id: 4, ..Status::default() };
        assert_eq!(check(&status, &socket), ExitCode::SUCCESS);
        assert!(text(true, &status).starts_with("healthy "), "{}", text(true, &status));
        status.degraded = vec!["the disk is full".into(), "clocks differ".into()];
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(check(&status, &socket), ExitCode::from(10));
        assert_eq!(word(true, &status).1, "DEGRADED: the disk is full; clocks differ");
    }

    #[test]
    fn what_is_not_known_is_not_zero() {
        let stream = crate::model::status::StreamStatus { shard: 1, ..Default::default() };
        let mut status = Status { streams: vec![stream], ..Status::default() };
        assert!(text(true, &status).contains("lag not known"));
        let json = serde_json::to_value(&status).unwrap();
        assert!(json["streams"][0]["lag_ms"].is_null());
        status.streams[0].lag_ms = Some(1_500);
        assert!(text(true, &status).contains("lag 1s"));
    }

    #[test]
    fn a_database_that_was_never_replicated_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plain.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        let failure = Failure::of(&look(&at(&path)).unwrap_err());
        assert!(
            failure.exit == Exit::General && failure.what.contains("never replicated"),
            "{failure:?}"
        );
    }
}
