//! The program's promises to a shell: exit statuses, two lines on stderr for every error, nothing changed by an error.
//!
//! Method: the real binary, in a directory of its own for each case.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

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
        ("-save-snapshot -db app.db", 9, "-save-snapshot is not in this version"),
        ("-schema-status-cluster -db app.db", 9, "not in this version"),
        ("-pprof :6060 -db app.db", 9, "not in this version"),
        ("status --db app.db", 1, "never been replicated"),
        ("quarantine retry 1 --db app.db", 1, "never been replicated"),
    ] {
        let Outcome { code: got, out, err } = harmonylite(dir.path(), line);
        assert_eq!(got, code, "{line}: {err}");
        let lines: Vec<&str> = err.lines().collect();
        assert!(lines.len() == 2 && lines[0].starts_with("harmonylite: ") && lines[1].starts_with("hint: "), "{line}: {err}");
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
        ("-cleanup -db app.db", "nothing of harmonylite"),
    ] {
        let Outcome { code, out, err } = harmonylite(dir.path(), line);
        assert_eq!(code, 0, "{line}: {err}");
        assert!(out.contains(part), "{line}: {out}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
