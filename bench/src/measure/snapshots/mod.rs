//! Measures snapshots of a database of 1 GB, each beside the same work by plain means, by turns.
//!
//! Arrives: a node with rows of several kinds. Leaves: times, ratios, and the memory of the
//! processes beyond the page cache.

mod plain;

use crate::Parts;
use crate::cluster::{Cluster, PATIENCE, Plan};
use crate::database::sizes;
use crate::process::Process;
use crate::random::{Random, uuid};
use crate::report::{Floor, Report};
use crate::sample::{Samples, median};
use crate::time::{check, now, pause, since_ns, since_s};
use crate::usage::anonymous_mb;
use anyhow::{Context, Result, bail};
use rusqlite::{Connection, params};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SCHEMA: &str = "
CREATE TABLE note (id INTEGER PRIMARY KEY, author TEXT, body TEXT, stars INTEGER);
CREATE TABLE item (id TEXT PRIMARY KEY, name TEXT, price REAL);
CREATE TABLE picture (id INTEGER PRIMARY KEY, title TEXT, data BLOB);
CREATE INDEX note_author ON note (author);";
const WORDS: [&str; 16] = [
    "rain",
    "garden",
    "of",
    "the",
    "quarterly",
    "invoice",
    "late",
    "blue",
    "and",
    "seven",
    "engineer",
    "went",
    "north",
    "because",
    "nobody",
    "answered",
];
/// The pause between two commits of the application beside a save.
const PACE: Duration = Duration::from_millis(3);
const MEMORY_MB: f64 = 64.0;
const UPDATES: i64 = 1_000;

/// Measures on a database of 1 GB, or of 64 MB in a short run.
pub(crate) fn measure(parts: &Parts, report: &mut Report, quick: bool) -> Result<()> {
    report.group("snapshots");
    let (mib, rounds) = if quick { (64, 1) } else { (1_000, 4) };
    let prepare = |db: &mut Connection| fill(db, mib);
    let plan = Plan { nodes: 1, prepare: &prepare, patience: PATIENCE * 5, ..Plan::default() };
    let cluster = Cluster::start(parts, &plan)?;
    let dir = tempfile::Builder::new().prefix("harmonylite-bench-").tempdir()?;
    let bench = Bench { parts, cluster: &cluster, dir: dir.path() };
    bench.published()?;
    // What is measured is the command; the application's triggers stay.
    cluster.stop(0)?;
    let app = cluster.open(0)?;
    let bytes = sizes(&app, cluster.database(0)?)?.0 as f64;
    report.add("database", bytes / 1e6, "MB", Floor::None);
    bench.saved_and_restored(report, rounds)?;
    bench.again(report, &app)?;
    bench.queried(report)?;
    bench.started(report)?;
    bench.in_the_broker(report)?;
    bench.beside_writers(report, &app)
}

struct Bench<'a> {
    parts: &'a Parts,
    cluster: &'a Cluster<'a>,
    dir: &'a Path,
}

/// A command that has ended.
struct Ran {
    seconds: f64,
    /// The memory beyond the page cache at its highest.
    memory_mb: f64,
    output: String,
}

impl Bench<'_> {
    /// Waits until each row has its version and is published: a new node would do it otherwise.
    fn published(&self) -> Result<()> {
        let config = self.config("dir", 1, self.cluster.database(0)?)?;
        self.cluster.wait("the end of joining", || {
            pause(Duration::from_millis(100))?;
            self.has_joined(&config)
        })?;
        self.cluster.settle()
    }

    /// By turns with the plain means, so that a busy neighbour affects both.
    fn saved_and_restored(&self, report: &mut Report, rounds: usize) -> Result<()> {
        let image = self.cluster.database(0)?;
        let file = |name: &str| self.dir.join(name);
        let config = self.config("dir", 1, image)?;
        let (mut saves, mut restores, mut memory) = (Vec::new(), Vec::new(), [0.0_f64; 2]);
        for round in 0..rounds {
            remove(&self.store())?;
            // The disk writes on for a while, so who comes second is slower: they take turns.
            let ours_first = round % 2 == 1;
            let to = file("restored.db");
            let arguments = ["snapshot", "restore", "--to", &to.to_string_lossy()];
            let (plain, saved) = by_turns(
                ours_first,
                || plain::save(image, &file("copy"), &file("packed")),
                || self.run(&config, &["snapshot", "save"]),
            )?;
            report.add("save", saved.seconds, "s", Floor::None);
            saves.push(saved.seconds / plain);
            let (plain, restored) = by_turns(
                ours_first,
                || plain::restore(&file("packed"), &file("again")),
                || self.run(&config, &arguments),
            )?;
            report.add("restore", restored.seconds, "s", Floor::None);
            restores.push(restored.seconds / plain);
            memory = [memory[0].max(saved.memory_mb), memory[1].max(restored.memory_mb)];
            for name in ["copy", "packed", "again", "restored.db"] {
                std::fs::remove_file(file(name))?;
            }
        }
        let most = Floor::AtMost(1.5);
        report.add("save, to copying, hashing and compressing", median(saves), "times", most);
        report.add("restore, to the same backwards", median(restores), "times", most);
        for (what, mb) in ["save", "restore"].into_iter().zip(memory) {
            report.add(&format!("memory of a {what}"), mb, "MB", Floor::AtMost(MEMORY_MB));
        }
        Ok(())
    }

    /// Only pieces with a change are sent: few if the changed rows are neighbours, most of them if
    /// the rows are all over the table.
    fn again(&self, report: &mut Report, app: &Connection) -> Result<()> {
        let rows: i64 = app.query_row("SELECT count(*) FROM note", [], |r| r.get(0))?;
        let config = self.config("dir", 1, self.cluster.database(0)?)?;
        let apart = (rows / UPDATES).max(1);
        for (what, step, most) in
            [("neighbours", 1, Floor::AtMost(1.0)), ("rows all over", apart, Floor::None)]
        {
            for id in 0..UPDATES {
                let update = "UPDATE note SET stars = stars + 1 WHERE id = ?1";
                app.execute(update, [id * step])?;
            }
            let ran = self.run(&config, &["snapshot", "save"])?;
            let name = format!("save after {UPDATES} updates of {what}");
            report.add(&name, ran.seconds, "s", most);
            let sent = ran.field("sent_bytes").unwrap_or(f64::NAN) / 1e6;
            report.add("  sent", sent, "MB", Floor::None);
        }
        Ok(())
    }

    fn queried(&self, report: &mut Report) -> Result<()> {
        let config = self.config("dir", 1, self.cluster.database(0)?)?;
        let ran = self.run(&config, &["snapshot", "query", "SELECT * FROM note LIMIT 1"])?;
        report.add("first row of a query", ran.seconds, "s", Floor::AtMost(1.0));
        Ok(())
    }

    /// A node without a file, until it has joined.
    fn started(&self, report: &mut Report) -> Result<()> {
        let path = self.dir.join("second.db");
        let config = self.config("dir", 2, &path)?;
        let log = self.dir.join("second.log");
        let name = config.to_string_lossy();
        let arguments = ["-config", name.as_ref()];
        let (lifeline, program) = (self.parts.lifeline, &self.parts.program);
        let began = now();
        let mut node = Process::start(lifeline, "harmonylite", program, &arguments, log)?;
        let mut memory_mb = 0.0_f64;
        let joined = loop {
            node.check()?;
            memory_mb = memory_mb.max(node.pid().and_then(anonymous_mb).unwrap_or(0.0));
            if path.exists() && self.has_joined(&config)? {
                break since_s(began);
            }
            anyhow::ensure!(since_s(began) < PATIENCE.as_secs_f64(), "{}", node.last_words());
            pause(Duration::from_millis(20))?;
        };
        report.add("a new node without a file, until ready", joined, "s", Floor::AtMost(10.0));
        report.add("its memory", memory_mb, "MB", Floor::AtMost(MEMORY_MB));
        node.stop()
    }

    fn has_joined(&self, config: &Path) -> Result<bool> {
        let mut command = self.command(config, &["status", "--json"]);
        let out = command.stderr(Stdio::null()).output()?;
        let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let joined = status["running"] == true && status["joined"] == true;
        Ok(joined && status["broker"]["linked"] == true)
    }

    /// A save into the broker. `examples/broker_store.rs` measures the store alone.
    fn in_the_broker(&self, report: &mut Report) -> Result<()> {
        let config = self.config("nats", 1, self.cluster.database(0)?)?;
        let ran = self.run(&config, &["snapshot", "save"])?;
        let sent = ran.field("sent_bytes").context("no sent_bytes")? / 1e6;
        report.add("save into the broker", ran.seconds, "s", Floor::None);
        report.add("  sent", sent / ran.seconds, "MB/s", Floor::None);
        Ok(())
    }

    /// What an application pays while a snapshot is saved.
    fn beside_writers(&self, report: &mut Report, app: &Connection) -> Result<()> {
        let config = self.config("dir", 1, self.cluster.database(0)?)?;
        let mut ratios = Vec::new();
        for round in 0..3 {
            remove(&self.store())?;
            let (saving, save) =
                (AtomicBool::new(true), self.command(&config, &["snapshot", "save"]));
            let with = std::thread::scope(|scope| {
                let saved = scope.spawn(|| {
                    let ran = run(save);
                    saving.store(false, Ordering::Relaxed);
                    ran
                });
                let times = commits(app, round * 2, &|_| saving.load(Ordering::Relaxed))?;
                saved.join().ok().context("the save panicked")??;
                anyhow::Ok(times)
            })?;
            let count = with.len();
            let without = commits(app, round * 2 + 1, &|done| done < count)?;
            let p99 = |times: Vec<i64>| Samples::new(times).quantile(990);
            let (with, without) = (p99(with), p99(without));
            report.add("p99 of a commit beside a save", with, "ms", Floor::None);
            report.add("  without", without, "ms", Floor::None);
            ratios.push(with / without);
        }
        report.add("p99 beside a save, to without", median(ratios), "times", Floor::AtMost(1.3));
        Ok(())
    }

    fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Writes a configuration file, and returns its path.
    fn config(&self, store: &str, node: i64, db: &Path) -> Result<PathBuf> {
        let mut settings = toml::Table::new();
        let text = |path: &Path| toml::Value::from(path.to_string_lossy().as_ref());
        settings.insert("db_path".to_owned(), text(db));
        settings.insert("node_id".to_owned(), node.into());
        let mut nats = toml::Table::new();
        nats.insert("urls".to_owned(), vec![self.cluster.broker_url()].into());
        settings.insert("nats".to_owned(), nats.into());
        let (mut snapshot, mut dir) = (toml::Table::new(), toml::Table::new());
        dir.insert("path".to_owned(), text(&self.store()));
        snapshot.insert("store".to_owned(), store.into());
        snapshot.insert("verify_interval".to_owned(), "0s".into());
        snapshot.insert("dir".to_owned(), dir.into());
        settings.insert("snapshot".to_owned(), snapshot.into());
        let path = self.dir.join(format!("{store}-{node}.toml"));
        std::fs::write(&path, toml::to_string(&settings)?)?;
        Ok(path)
    }

    fn command(&self, config: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.parts.program);
        command.arg("-config").arg(config).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command, and watches its memory.
    fn run(&self, config: &Path, arguments: &[&str]) -> Result<Ran> {
        run(self.command(config, &[arguments, &["--json"]].concat()))
    }
}

/// Does the same by plain means and by ours, one after the other, each with an idle disk.
fn by_turns<A, B>(
    ours_first: bool,
    plain: impl FnOnce() -> Result<A>,
    ours: impl FnOnce() -> Result<B>,
) -> Result<(A, B)> {
    let idle_disk = || Command::new("sync").status().context("cannot run sync");
    idle_disk()?;
    if ours_first {
        let ours = ours()?;
        idle_disk()?;
        return Ok((plain()?, ours));
    }
    let plain = plain()?;
    idle_disk()?;
    Ok((plain, ours()?))
}

fn run(mut command: Command) -> Result<Ran> {
    let began = now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut memory_mb = 0.0_f64;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        memory_mb = memory_mb.max(anonymous_mb(child.id()).unwrap_or(0.0));
        if let Err(error) = pause(Duration::from_millis(2)) {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
    };
    let seconds = since_s(began);
    let mut output = String::new();
    child.stdout.take().context("no output")?.read_to_string(&mut output)?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(Ran { seconds, memory_mb, output })
}

impl Ran {
    fn field(&self, name: &str) -> Option<f64> {
        serde_json::from_str::<serde_json::Value>(&self.output).ok()?[name].as_f64()
    }
}

/// Commits single rows at a pace, while `more` wants them. Returns the nanoseconds of each.
fn commits(app: &Connection, series: i64, more: &dyn Fn(usize) -> bool) -> Result<Vec<i64>> {
    let mut times = Vec::new();
    let mut insert = app.prepare("INSERT INTO note VALUES (?1, 'beside', 'a save', 1)")?;
    for id in (series + 1) * 1_000_000_000.. {
        if !more(times.len()) {
            break;
        }
        let began = now();
        insert.execute([id])?;
        times.push(since_ns(began));
        pause(PACE)?;
    }
    Ok(times)
}

/// Writes rows until the database is as large: text, UUID keys, and some large values.
fn fill(db: &mut Connection, mib: i64) -> Result<()> {
    db.execute_batch(SCHEMA)?;
    let mut random = Random::new(7);
    // Our versions of the rows take the rest.
    let bytes = (mib << 20) / 10 * 8;
    for block in 0_i64.. {
        check()?;
        let tx = db.transaction()?;
        for row in 0..1_000 {
            let id = block * 1_000 + row;
            let author = uuid(random.below(5_000));
            tx.prepare_cached("INSERT INTO note VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                id,
                author,
                words(&mut random, 30),
                row % 9
            ])?;
            let name = words(&mut random, 4);
            tx.prepare_cached("INSERT INTO item VALUES (?1, ?2, ?3)")?.execute(params![
                uuid(id.unsigned_abs()),
                name,
                random.share()
            ])?;
            if row % 50 == 0 {
                let data: Vec<u8> = (0..800).flat_map(|_| random.next().to_le_bytes()).collect();
                tx.prepare_cached("INSERT INTO picture VALUES (?1, ?2, ?3)")?.execute(params![
                    id,
                    words(&mut random, 3),
                    data
                ])?;
            }
        }
        tx.commit()?;
        let size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        if db.query_row(size, [], |r| r.get::<_, i64>(0))? >= bytes {
            return Ok(());
        }
    }
    Ok(())
}

fn words(random: &mut Random, count: usize) -> String {
    let word = |_| WORDS[(random.next() % WORDS.len() as u64) as usize];
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(())
}
