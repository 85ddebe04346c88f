//! Checks the surroundings of the database: file system, free space, another sidecar, journal mode.

use super::super::exit::Failure;
use super::super::show;
use super::report::{Level, Report};
use crate::db::lockfile::{LockError, Sidecar, sidecar};
use crate::db::preflight::FileFacts;
use std::path::Path;

/// File systems whose locks or shared memory do not work across machines, by the kernel's magic
/// numbers.
const NETWORK: [(u32, &str); 11] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9P"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x786f_4256, "a VirtualBox share"),
    (0x0116_1970, "GFS2"),
];

/// Less free space than this, or than half the database, is little for a -wal and for spilled
/// batches.
const FREE_BYTES_MIN: u64 = 256 << 20;

/// Adds the findings.
pub(super) fn check(path: &Path, facts: FileFacts, report: &mut Report) {
    report.add(
        Level::Note,
        "application",
        "begin transactions that write with BEGIN IMMEDIATE: a deferred one fails if rows of \
        another node are written between its first read and its first write",
        "docs/deferred-transactions.md shows how in your framework",
    );
    report.add(
        Level::Note,
        "application",
        "the application must neither set PRAGMA journal_mode = DELETE (or another than WAL) nor \
        PRAGMA locking_mode = EXCLUSIVE: either fails with `database is locked`, or locks us out",
        "remove both from what it does when it opens the database; WAL stays in the file",
    );
    match sidecar(path) {
        Ok(Sidecar::Stopped) => {}
        Ok(Sidecar::Running(owner)) => {
            let error = LockError::Running { db: path.to_owned(), owner };
            report.add(Level::Note, "sidecar", error.to_string(), error.hint());
        }
        Err(error) => report.problem("sidecar", &Failure::of(&error.into())),
    }
    if let Ok(found) = rustix::fs::statfs(path) {
        // The kernel's type is signed on some machines, the numbers are 32 bits wide on all.
        let kind = found.f_type as u32;
        if let Some(name) = network(kind) {
            let text = format!(
                "the database is on {name}: SQLite's WAL needs shared memory, which works on one \
                machine only, and locks, which such file systems often lack"
            );
            report.add(
                Level::Warning,
                "disk",
                text,
                "put the database on a local disk; replication copies it to the other machines",
            );
        }
        let free = found.f_bavail.saturating_mul(u64::try_from(found.f_bsize).unwrap_or(0));
        if free < FREE_BYTES_MIN.max(facts.bytes / 2) {
            let text = format!(
                "only {} free on the disk of a database of {}",
                show::bytes(free),
                show::bytes(facts.bytes)
            );
            report.add(
                Level::Warning,
                "disk",
                text,
                "free some space: the -wal and large batches need it",
            );
        }
    }
    if facts.empty {
        report.add(
            Level::Note,
            "database",
            "the file is empty; tables are replicated once the application creates them",
            "",
        );
    } else if !facts.wal {
        report.add(
            Level::Note,
            "database",
            "the journal mode is not WAL; `run` switches it to WAL permanently",
            "WAL works with every program that uses SQLite 3.7 or newer",
        );
    }
    if let Err(refused) = facts.check_encoding(path) {
        report.problem("database", &Failure::of(&refused.into()));
    }
}

fn network(kind: u32) -> Option<&'static str> {
    NETWORK.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known() {
        assert_eq!((network(0x6969), network(0xef53)), (Some("NFS"), None));
        let mut report = Report::default();
        let huge = FileFacts { bytes: u64::MAX, ..FileFacts::default() };
        check(Path::new("/tmp"), huge, &mut report);
        let text = report.text();
        assert!(
            text.contains("free on the disk of a database") && text.contains("not WAL"),
            "{text}"
        );
    }
}
