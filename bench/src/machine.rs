//! Where a run took place, for the report.

use crate::Parts;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;

/// The machine and the versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Machine {
    pub(crate) system: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gb: f64,
    /// Processes that wanted to run in the last minute, before the run.
    pub(crate) load: f64,
    /// The program that was measured, with its commit if its build knew one.
    pub(crate) program: String,
    pub(crate) nats_server: String,
    pub(crate) sqlite: String,
    /// Where the databases are.
    pub(crate) directory: String,
    pub(crate) file_system: String,
    pub(crate) began: String,
}

impl Machine {
    pub(crate) fn look(parts: &Parts) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, v)| v.trim()).to_owned()
        };
        let memory_kb = value(&read("/proc/meminfo"), "MemTotal");
        let memory_kb: f64 = memory_kb.trim_end_matches(" kB").parse().unwrap_or(0.0);
        let directory = std::env::temp_dir();
        Self {
            system: system(),
            processor: value(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gb: memory_kb * 1_024.0 / 1e9,
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
            program: parts.version.clone(),
            nats_server: first_line(Command::new(&parts.server).arg("-v")),
            sqlite: rusqlite::version().to_owned(),
            file_system: file_system(&directory, &read("/proc/self/mounts")),
            directory: directory.to_string_lossy().into_owned(),
            began: first_line(Command::new("date").arg("+%Y-%m-%d %H:%M %z")),
        }
    }

    /// Returns what the report shows, by name.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let memory = format!("{:.0} GB, load {:.2} before the run", self.memory_gb, self.load);
        let disk = format!("{} ({})", self.directory, self.file_system);
        vec![
            ("program", self.program.clone()),
            ("broker", self.nats_server.clone()),
            ("SQLite of the application", self.sqlite.clone()),
            ("system", self.system.clone()),
            ("processor", format!("{}, {} cores", self.processor, self.cores)),
            ("memory", memory),
            ("databases", disk),
            ("began", self.began.clone()),
        ]
    }
}

fn system() -> String {
    let name = rustix::system::uname();
    let text = |s: &std::ffi::CStr| s.to_string_lossy().into_owned();
    format!("{} {} {}", text(name.sysname()), text(name.release()), text(name.machine()))
}

/// Returns the first line that a program prints; nothing if it does not run.
pub(crate) fn first_line(command: &mut Command) -> String {
    let out = command.output().map(|out| out.stdout).unwrap_or_default();
    String::from_utf8_lossy(&out).lines().next().unwrap_or("").trim().to_owned()
}

/// Returns the kind of the file system with the longest mount point above a directory.
fn file_system(directory: &Path, mounts: &str) -> String {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (point, kind) = (words.nth(1)?, words.next()?);
        directory.starts_with(point).then_some((point.len(), kind))
    });
    mounts.max_by_key(|(length, _)| *length).map_or("", |(_, kind)| kind).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_is_found() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\ntmpfs /t xfs rw 0 0\n";
        assert_eq!(file_system(Path::new("/tmp/x"), mounts), "tmpfs");
        assert_eq!(file_system(Path::new("/var"), mounts), "ext4");
    }
}
