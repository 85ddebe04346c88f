//! Finds the nats-server program to run.
//!
//! The order: `nats.server_binary`, `HARMONYLITE_NATS_SERVER`, the one inside this executable,
//! `PATH`. The first that exists is used or refused, never silently skipped. Owns: every program
//! reports its version before it runs, and the digest of an unpacked one is compared at every use.

use super::{EmbeddedError, lock};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The oldest sufficient nats-server: older ones lose acknowledged messages (docs/design.md section
/// 4).
pub const VERSION_MIN: (u64, u64, u64) = (2, 10, 23);

/// A nats-server inside this executable.
struct Inside {
    compressed: &'static [u8],
    bytes: usize,
    sha256: &'static str,
    version: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/inside.rs"));

/// Describes the nats-server inside, for `harmonylite version`.
pub fn inside() -> String {
    match INSIDE {
        Some(inside) => format!(
            "nats-server {} inside ({:.1} MB, {:.1} MB unpacked, sha256 {})",
            inside.version,
            inside.compressed.len() as f64 / 1e6,
            inside.bytes as f64 / 1e6,
            inside.sha256
        ),
        None => "no nats-server inside (`make build` puts one there)".to_owned(),
    }
}

/// A program with a sufficient version.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) version: String,
}

/// Finds the program and reads its version.
pub(super) async fn find(server_binary: &str) -> Result<Program, EmbeddedError> {
    let server_binary = server_binary.to_owned();
    let path = tokio::task::spawn_blocking(move || locate(&server_binary))
        .await
        .map_err(|e| EmbeddedError::NoBinary { reason: e.to_string() })??;
    let version = ask_version(&path).await?;
    if parse_version(&version).is_none_or(|v| v < VERSION_MIN) {
        let (major, minor, patch) = VERSION_MIN;
        return Err(EmbeddedError::TooOld {
            path,
            found: version,
            needed: format!("{major}.{minor}.{patch}"),
        });
    }
    Ok(Program { path, version })
}

/// Returns the nats-server that a node would run, with a sufficient version.
///
/// # Errors
/// [`EmbeddedError::NoBinary`] or [`EmbeddedError::TooOld`].
pub async fn server_program(server_binary: &str) -> Result<PathBuf, EmbeddedError> {
    Ok(find(server_binary).await?.path)
}

fn locate(server_binary: &str) -> Result<PathBuf, EmbeddedError> {
    if !server_binary.is_empty() {
        return Ok(PathBuf::from(server_binary));
    }
    if let Some(named) =
        std::env::var_os("HARMONYLITE_NATS_SERVER").filter(|named| !named.is_empty())
    {
        return Ok(PathBuf::from(named));
    }
    if let Some(inside) = INSIDE {
        return unpack(&inside, &cache_directories());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("nats-server"))
        .find(|program| program.is_file());
    found.ok_or_else(|| EmbeddedError::NoBinary {
        reason: "none is configured, none is inside this program, none is on PATH".to_owned(),
    })
}

/// The directories for an unpacked program, best first. The home of a service is often missing or
/// read-only.
fn cache_directories() -> Vec<PathBuf> {
    let variable =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home =
        variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    let private = format!("harmonylite-{}", rustix::process::getuid().as_raw());
    home.map(|home| home.join("harmonylite"))
        .into_iter()
        .chain([std::env::temp_dir().join(private)])
        .collect()
}

/// Unpacks the program if necessary, and returns its path after a check of the digest.
fn unpack(inside: &Inside, directories: &[PathBuf]) -> Result<PathBuf, EmbeddedError> {
    let mut reasons = Vec::new();
    for dir in directories {
        let path = dir.join(format!("nats-server-{}", &inside.sha256[..16]));
        match lock::create_private(dir)
            .map_err(|e| e.to_string())
            .and_then(|()| unpack_to(inside, dir, &path))
        {
            Ok(()) => return Ok(path),
            Err(reason) => reasons.push(format!("{}: {reason}", path.display())),
        }
    }
    Err(EmbeddedError::NoBinary {
        reason: format!("cannot unpack the one inside ({})", reasons.join("; ")),
    })
}

fn unpack_to(inside: &Inside, dir: &Path, path: &Path) -> Result<(), String> {
    ours_alone(dir)?;
    if digest(path).is_ok_and(|found| found == inside.sha256) {
        return Ok(());
    }
    let content =
        zstd::bulk::decompress(inside.compressed, inside.bytes).map_err(|e| e.to_string())?;
    if HEXLOWER.encode(&Sha256::digest(&content)) != inside.sha256 {
        return Err("the nats-server inside this executable is damaged".to_owned());
    }
    let write = || -> io::Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("nats-server-").suffix(".part");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let mut file = builder.tempfile_in(dir)?;
        file.write_all(&content)?;
        file.as_file().sync_all()?;
        // Close the file before it gets its name: a program that is open for writing cannot start.
        file.into_temp_path().persist(path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| e.to_string())
}

/// Refuses a directory (in the shared temporary one) that another user could change between the
/// check and the start.
fn ours_alone(dir: &Path) -> Result<(), String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let about = fs::symlink_metadata(dir).map_err(|e| e.to_string())?;
        let mine = rustix::process::getuid().as_raw();
        if !about.is_dir() && !dir.is_dir()
            || about.uid() != mine && mine != 0
            || about.mode() & 0o022 != 0
        {
            return Err("other users can write to it".to_owned());
        }
    }
    Ok(())
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut HashWriter(&mut hasher))?;
    Ok(HEXLOWER.encode(&hasher.finalize()))
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `-v`. Retries after "Text file busy": a thread that forks while the program is written
/// keeps it open for a moment.
async fn ask_version(path: &Path) -> Result<String, EmbeddedError> {
    let refuse = |reason: String| EmbeddedError::NoBinary {
        reason: format!("cannot run {}: {reason}", path.display()),
    };
    let mut tries = 0;
    let output = loop {
        match tokio::process::Command::new(path).arg("-v").kill_on_drop(true).output().await {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && tries < 20 => tries += 1,
            result => break result.map_err(|e| refuse(e.to_string()))?,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.trim().strip_prefix("nats-server: v").map(str::to_owned);
    version.ok_or_else(|| {
        refuse(format!(
            "it is no nats-server: `-v` printed {:?}",
            said.chars().take(80).collect::<String>()
        ))
    })
}

/// Parses the three numbers of "2.15.1" or "2.12.0-preview.1".
pub(crate) fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let numbers = text.split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
    Some((major, minor, patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(parse_version("2.10.9") < Some(VERSION_MIN));
        assert!(parse_version("2.10.23") >= Some(VERSION_MIN));
        assert!(parse_version("2.12.0-preview.1") > Some(VERSION_MIN));
        assert_eq!(parse_version("two"), None);
    }

    #[test]
    fn an_unpacked_program_is_checked_at_every_use_and_put_right() {
        let content = b"#!/bin/sh\necho nats-server: v9.9.9\n";
        let compressed: &'static [u8] =
            Box::leak(zstd::bulk::compress(content, 1).unwrap().into_boxed_slice());
        let sha256: &'static str =
            Box::leak(HEXLOWER.encode(&Sha256::digest(content)).into_boxed_str());
        let inside = Inside { compressed, bytes: content.len(), sha256, version: "9.9.9" };
        let dir = tempfile::tempdir().unwrap();
        let not_a_dir = dir.path().join("file");
        fs::write(&not_a_dir, "").unwrap();
        let places = [not_a_dir.join("cache"), dir.path().join("cache")];
        let path = unpack(&inside, &places).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
        fs::write(&path, "tampered").unwrap();
        assert_eq!(unpack(&inside, &places).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing temporary stays"
        );
        let error = unpack(
            &Inside { sha256: Box::leak("0".repeat(64).into_boxed_str()), ..inside },
            &places,
        )
        .unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_server_or_too_old_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, says: &str| {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .unwrap();
            path.to_str().unwrap().to_owned()
        };
        let old = find(&script("old", "nats-server: v2.10.22")).await.unwrap_err();
        assert!(matches!(&old, EmbeddedError::TooOld { found, .. } if found == "2.10.22"), "{old}");
        let other = find(&script("other", "hello")).await.unwrap_err();
        assert!(
            matches!(&other, EmbeddedError::NoBinary { reason } if reason.contains("hello")),
            "{other}"
        );
        let missing = find("/nonexistent/nats-server").await.unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/nats-server"), "{missing}");
    }
}
