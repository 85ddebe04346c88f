//! Child processes that end with their test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

/// A child whose output goes to a file. It is killed when dropped.
pub struct Process {
    child: Child,
    pub log: PathBuf,
}

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name, for instance "TERM", "STOP".
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid().to_string())
            .status()
            .unwrap();
        assert!(sent.success(), "cannot send {name} to {}", self.pid());
        // On a busy machine some of its many threads may still run for a moment.
        let stat = PathBuf::from(format!("/proc/{}/stat", self.pid()));
        if name == "STOP" && stat.exists() {
            crate::eventually("the process stands still", || {
                std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") T "))
            });
        }
    }

    /// Returns its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end, and returns its exit status.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        crate::eventually("the process ends", || {
            status = self.ended();
            status.is_some()
        });
        status.unwrap()
    }

    /// Returns its output so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), self.output());
        }
    }
}

/// Returns the binary that `HARMONYLITE_BINARY` names, or the `harmonylite` binary of this build,
/// which is built if it is missing or old.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("HARMONYLITE_BINARY") {
            return path.into();
        }
        // Tests lie in target/<profile>/deps.
        let profile_dir =
            std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let profile = profile_dir.file_name().unwrap().to_str().unwrap();
        let profile = if profile == "debug" { "dev" } else { profile };
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "-p",
                "harmonylite",
                "--bin",
                "harmonylite",
                "--profile",
                profile,
                "--manifest-path",
            ])
            .arg(manifest)
            .status()
            .unwrap();
        assert!(built.success(), "the binary does not build");
        profile_dir.join("harmonylite")
    })
}

/// Runs a Python 3 program and returns its output.
#[track_caller]
pub fn python(program: &str, arguments: &[&str]) -> String {
    let out = Command::new("python3").arg("-c").arg(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "python: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}
