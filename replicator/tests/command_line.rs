//! The program's promises to a shell: exit statuses, two lines on stderr for every error, nothing
//! changed by an error.
//!
//! Method: the real binary, in a directory of its own for each case.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

fn harmonylite(dir: &Path, line: &str) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_harmonylite"))
        .current_dir(dir)
        .args(line.split_whitespace())
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn database(dir: &Path, sql: &str) {
    rusqlite::Connection::open(dir.join("app.db")).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn version_names_what_is_inside_and_its_licences() {
    let dir = tempfile::tempdir().unwrap();
    let versions = harmonylite(dir.path(), "version");
    let sqlite = format!("SQLite {}", rusqlite::version());
    assert!(versions.code == 0 && versions.out.contains(&sqlite), "{}", versions.out);
    let licenses = harmonylite(dir.path(), "version --licenses");
    assert_eq!((licenses.code, licenses.err.as_str()), (0, ""));
    for part in [sqlite.as_str(), "May you do good and not evil", "nats-server 2.", "rusqlite 0."] {
        assert!(licenses.out.contains(part), "{part}");
    }
    // A reader that goes, as `head` does, is no error.
    let mut child = Command::new(env!("CARGO_BIN_EXE_harmonylite"))
        .args(["version", "--licenses"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn every_error_is_two_lines_and_has_its_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    database(dir.path(), "CREATE TABLE t (id TEXT PRIMARY KEY)");
    write("text.db", "hello");
    write("unknown.toml", "[nats]\nuser_pasword = 'geheim'\n");
    write("broken.toml", "[nats]\nuser_password = 'geheim\n");
    for (line, code, part) in [
        ("--db no.db", 3, "no such database: no.db"),
        ("run -db .", 3, "is a directory"),
        ("-db=text.db", 3, "not an SQLite database, or it is encrypted"),
        ("-nonsense", 2, "unexpected argument"),
        ("conflicts", 2, "subcommand"),
        ("conflicts show x --db app.db", 2, "invalid value"),
        ("-config none.toml", 2, "none.toml"),
        ("-config unknown.toml", 2, "did you mean nats.user_password?"),
        ("--config=broken.toml doctor-typo", 2, "unrecognized subcommand"),
        ("-config broken.toml", 2, "line 2"),
        ("-cluster-addr nowhere -db app.db", 2, "-cluster-addr"),
        ("snapshot", 2, "subcommand"),
        ("snapshot save -db none.db", 3, "no such database: none.db"),
        ("snapshot prune --keep 0 -db app.db", 2, "--keep"),
        ("-pprof :6060 -db app.db", 9, "does not support -pprof"),
        ("status --db app.db", 1, "was never replicated"),
        ("quarantine retry 1 --db app.db", 1, "was never replicated"),
    ] {
        let Outcome { code: got, out, err } = harmonylite(dir.path(), line);
        assert_eq!(got, code, "{line}: {err}");
        let lines: Vec<&str> = err.lines().collect();
        assert!(
            lines.len() == 2
                && lines[0].starts_with("harmonylite: ")
                && lines[1].starts_with("hint: "),
            "{line}: {err}"
        );
        assert!(lines[0].contains(part), "{line}: {err}");
        assert!(out.is_empty() && !err.contains("geheim"), "{line}: {out}{err}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "no error leaves a file");
}

#[test]
fn what_works_ends_with_zero() {
    let dir = tempfile::tempdir().unwrap();
    database(dir.path(), "CREATE TABLE t (id TEXT PRIMARY KEY)");
    for (line, part) in [
        ("-version", "harmonylite 0."),
        ("version", "SQLite 3."),
        ("help", "Exit status:"),
        ("-h", "Exit status:"),
        ("completions bash", "_harmonylite"),
        ("doctor --db app.db", "will be replicated: t"),
        ("doctor --db app.db --json", "\"replicated\":[\"t\"]"),
        ("-schema-status --db app.db", "not replicated yet"),
        ("-cleanup -db app.db", "no objects of harmonylite"),
    ] {
        let Outcome { code, out, err } = harmonylite(dir.path(), line);
        assert_eq!(code, 0, "{line}: {err}");
        assert!(out.contains(part), "{line}: {out}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

fn installed(dir: &Path) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(dir.join("app.db")).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, \
        a); INSERT INTO t VALUES ('k', 'kept');",
    )
    .unwrap();
    harmonylite::store::install::create_tables(&db, &dir.join("app.db")).unwrap();
    harmonylite::capture::install::install(&db, &Default::default(), 1).unwrap();
    db.execute_batch(
        r#"INSERT INTO __harmonylite__conflict (time, table_name, key, reason,
               winner_hlc, winner_site, loser_hlc, loser_site, loser)
           VALUES (1, 't', '{"id":"''k''"}', 'concurrent writes', 2, 2, 1, 1,
                   '{"id":"''k''","a":"''lost''"}');
           INSERT INTO __harmonylite__quarantine (time, shard, seq, node, site, batch, reason, body)
           VALUES (1, 1, 9, 2, 3, 4, 'truncated', X'00');"#,
    )
    .unwrap();
    db
}

/// Each repair command does its one thing and says so.
#[test]
fn a_stopped_nodes_database_can_be_looked_at_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let db = installed(dir.path());
    for (line, code, part) in [
        ("status --db app.db", 1, "NOT RUNNING"),
        ("status --json --db app.db", 1, "\"running\":false"),
        ("doctor --db app.db", 0, "will be replicated: t"),
        ("-schema-status -db app.db", 0, "  replicated"),
        ("conflicts list --db app.db", 0, "concurrent writes"),
        ("conflicts show 1 --db app.db", 0, "a = 'lost'"),
        ("conflicts restore 1 --db app.db", 0, "restored, as a new write"),
        ("conflicts list --db app.db", 0, "no conflicts"),
        ("conflicts clear --db app.db", 0, "0 conflicts"),
        ("quarantine list --db app.db", 0, "truncated"),
        ("quarantine drop 1 --db app.db", 0, "dropped batch 1"),
        ("quarantine list --json --db app.db", 0, "[]"),
    ] {
        let Outcome { code: got, out, err } = harmonylite(dir.path(), line);
        assert_eq!(got, code, "{line}: {err}");
        assert!(out.contains(part), "{line}: {out}");
    }
    let (value, log): (String, i64) = db
        .query_row("SELECT a, (SELECT count(*) FROM __harmonylite__change_log) FROM t", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .unwrap();
    assert_eq!((value.as_str(), log), ("lost", 1), "restored by a write that is captured");
    let Outcome { code, err, .. } = harmonylite(dir.path(), "cleanup --db app.db");
    assert!(code == 1 && err.contains("may not have been published"), "{code} {err}");
    assert_eq!(harmonylite(dir.path(), "cleanup --force --db app.db").code, 0);
    let left: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name LIKE '%harmonylite%'", [], |r| {
            r.get(0)
        })
        .unwrap();
    assert_eq!(left, 0);
}

#[test]
fn a_running_sidecar_keeps_others_out() {
    let dir = tempfile::tempdir().unwrap();
    let _db = installed(dir.path());
    let _lock = harmonylite::db::lockfile::Lock::acquire(&dir.path().join("app.db")).unwrap();
    let Outcome { code, err, .. } = harmonylite(dir.path(), "cleanup --db app.db");
    assert!(code == 4 && err.contains("already runs on app.db"), "{err}");
    let Outcome { code, out, .. } = harmonylite(dir.path(), "doctor --db app.db");
    assert!(code == 0 && out.contains("note (sidecar): another harmonylite already runs"), "{out}");
    let Outcome { code, err, .. } = harmonylite(dir.path(), "status --db app.db");
    assert!(code == 1 && err.contains("starting"), "{err}");
}

#[test]
fn a_locked_and_a_damaged_database_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let db = installed(dir.path());
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let Outcome { code, err, .. } = harmonylite(dir.path(), "cleanup --db app.db");
    assert!(code == 3 && err.contains("locked") && err.contains("hint: another program"), "{err}");
    drop(db);
    let mut bytes = std::fs::read(dir.path().join("app.db")).unwrap();
    bytes[100..4096].fill(0xaa);
    std::fs::write(dir.path().join("app.db"), bytes).unwrap();
    for command in ["cleanup", "status", "doctor"] {
        let Outcome { code, out, err } = harmonylite(dir.path(), &format!("{command} --db app.db"));
        assert!(code == 3 && format!("{out}{err}").contains("malformed"), "{command}: {out}{err}");
    }
}

/// A reader that ends early (`| head`) is no error and no panic.
#[test]
fn a_closed_pipe_ends_quietly() {
    for words in [&["completions", "bash"][..], &["version"], &["help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_harmonylite"))
            .args(words)
            .stdout(writer)
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && err.is_empty(), "{words:?}: {:?} {err}", out.status);
    }
}
