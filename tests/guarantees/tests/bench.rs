//! `harmonylite bench` measures what it reports, leaves nothing behind, and does not hide nodes
//! that end unequal.
//!
//! Method: run the real command, short and without a terminal, in a temporary directory of its own.

#![allow(clippy::unwrap_used)]

use harmonylite_guarantees::{binary, eventually, nats_server};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn bench(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("bench").args(arguments).current_dir(dir).env("TMPDIR", dir.join("tmp"));
    command.env("HARMONYLITE_NATS_SERVER", nats_server());
    command
}

fn place() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    dir
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    bench(dir, arguments).output().unwrap()
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/examples")
}

/// Fails if a file of a run is left, or a process that has one of them as an argument.
#[track_caller]
fn nothing_is_left(dir: &Path) {
    assert_eq!(std::fs::read_dir(dir.join("tmp")).unwrap().count(), 0, "files are left");
    assert!(processes(dir).is_empty(), "still running: {:?}", processes(dir));
}

/// The command lines of processes that name a folder.
fn processes(dir: &Path) -> Vec<String> {
    let name = dir.join("tmp").to_string_lossy().into_owned();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains(&name))
        .collect()
}

#[test]
fn what_is_measured_is_in_the_table_the_page_and_the_json() {
    let dir = place();
    let only = "bulk,latency,conflicts,hold";
    let arguments = ["--quick", "--only", only, "--json", "r.json", "--html", "r.html"];
    let out = run(dir.path(), &arguments);
    assert!(out.status.success(), "{}", text(&out));
    let json = std::fs::read_to_string(dir.path().join("r.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let machine = &json["machine"];
    assert!(machine["cores"].as_u64() > Some(0) && json["failures"] == serde_json::json!([]));
    assert!(machine["nats_server"].as_str().unwrap().contains("v2."), "{machine}");
    assert!(machine["program"].as_str().unwrap().starts_with("harmonylite"), "{machine}");
    let html = std::fs::read_to_string(dir.path().join("r.html")).unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    let figures = json["measured"].as_array().unwrap();
    for figure in figures {
        let name = figure["name"].as_str().unwrap();
        assert!(figure["value"].as_f64().unwrap() >= 0.0, "{figure}");
        assert!(stdout.contains(name), "{name} is not in {stdout}");
        let in_html = name.trim().replace('"', "&quot;");
        assert!(html.contains(&in_html), "{name} is not in the page");
    }
    let named = |part: &str| figures.iter().any(|f| f["name"].as_str().unwrap().contains(part));
    for part in ["rows arrived", "CPU a row: origin", "p99.9", "nodes are equal", "longest wait"] {
        assert!(named(part), "{part} is not in {figures:?}");
    }
    let bars = json["histograms"][0]["buckets"].as_array().unwrap();
    let counted: u64 = bars.iter().map(|bar| bar["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, 100, "each measured commit is in the histogram");
    parses(&dir.path().join("r.html"));
    nothing_is_left(dir.path());
}

/// The page is well-formed, so a strict reader accepts it, and needs nothing from the network.
fn parses(page: &Path) {
    let check = "import sys, xml.dom.minidom as m\n\
        d = m.parseString(open(sys.argv[1]).read().replace('<!DOCTYPE html>', '', 1))\n\
        assert d.getElementsByTagName('svg') and not d.getElementsByTagName('script')\n\
        assert all(not e.hasAttribute(a) for e in d.getElementsByTagName('*') \
        for a in ('src', 'href'))";
    let out = Command::new("python3").args(["-c", check]).arg(page).output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
}

#[test]
fn the_examples_run_and_end_equal() {
    for name in ["shop", "sensors"] {
        let dir = place();
        let file = |end: &str| examples().join(format!("{name}.{end}")).display().to_string();
        let (schema, workload) = (file("sql"), file("toml"));
        let files = ["--schema", &schema, "--workload", &workload];
        let out = run(dir.path(), &[&["--quick", "--json", "r.json"], &files[..]].concat());
        assert!(out.status.success(), "{name}: {}", text(&out));
        let json = std::fs::read_to_string(dir.path().join("r.json")).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        let figure = |group: &str, name: &str| {
            let mut all = json["measured"].as_array().unwrap().iter();
            let found = all.find(|f| {
                f["group"].as_str().unwrap().contains(group)
                    && f["name"].as_str().unwrap().contains(name)
            });
            found.unwrap_or_else(|| panic!("{name} of {group} is not in {json}"))["value"].as_f64()
        };
        for group in ["without a sidecar", "beside sidecars"] {
            assert!(figure(group, "transactions") > Some(10.0), "{json}");
        }
        assert!(figure("beside sidecars", "until all nodes are equal") >= Some(0.0));
        assert!(figure("beside sidecars", "commit to visible") > Some(0.0));
        nothing_is_left(dir.path());
    }
}

const WORKLOAD: &str = r#"
seconds = 1
arrives_within = 3
[settings.tables]
exclude = ["alone"]
[[transaction]]
name = "add"
statements = ["INSERT INTO alone VALUES (:id)"]
values = { id = "number" }
[[writer]]
node = 1
rate = 50.0
"#;

fn own(dir: &Path, workload: &str) -> Output {
    std::fs::write(dir.join("s.sql"), "CREATE TABLE alone (id INTEGER PRIMARY KEY)").unwrap();
    std::fs::write(dir.join("w.toml"), workload).unwrap();
    run(dir, &["--quick", "--json", "r.json", "--schema", "s.sql", "--workload", "w.toml"])
}

#[test]
fn nodes_that_end_unequal_are_a_failure() {
    let dir = place();
    let out = own(dir.path(), WORKLOAD);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    assert!(text(&out).contains("nodes 1 and 2 differ: table alone has"), "{}", text(&out));
    let json = std::fs::read_to_string(dir.path().join("r.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["failures"][0].as_str().unwrap().contains("differ"), "{json}");
    nothing_is_left(dir.path());
}

#[test]
fn a_wrong_workload_is_refused_with_line_and_reason() {
    let dir = place();
    let out = own(dir.path(), &WORKLOAD.replace("INTO alone", "INTO alome"));
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    assert!(text(&out).contains("w.toml, line 8: no such table: alome"), "{}", text(&out));
    let out = own(dir.path(), &WORKLOAD.replace("node = 1", "nod = 1"));
    assert!(text(&out).contains("w.toml, line 11: unknown field `nod`"), "{}", text(&out));
    assert!(text(&out).contains("hint: docs/benchmark.md"), "{}", text(&out));
    nothing_is_left(dir.path());
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    let dir = place();
    let mut command = bench(dir.path(), &["--only", "idle"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A broker and two nodes, each with a shell.
    eventually("the nodes run", || processes(dir.path()).len() >= 6);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", text(&out));
    nothing_is_left(dir.path());
}
