//! A child process that never outlives this one.
//!
//! A shell with a pipe to this process watches over it (the program's own `LIFELINE_SHELL`, which
//! the caller gives): the end of the pipe is SIGKILL, also if this process is killed.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// The last lines of a log that an error shows.
const LAST_LINES: usize = 15;

pub(crate) struct Process {
    name: String,
    child: Child,
    lifeline: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts a program. Its output is appended to `log`.
    pub(crate) fn start(
        lifeline: &str,
        name: &str,
        program: &Path,
        arguments: &[&str],
        log: PathBuf,
    ) -> Result<Self> {
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", lifeline, name]).arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let mut child = command.spawn().context("cannot run /bin/sh")?;
        let lifeline = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, lifeline, log })
    }

    /// Returns the program's process id, where /proc shows it: it is the shell's first child.
    pub(crate) fn pid(&self) -> Option<u32> {
        let shell = self.child.id();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(mut lifeline) = self.lifeline.take() {
            // The pipe is broken if the process has ended already.
            let _ = writeln!(lifeline, "TERM").and_then(|()| lifeline.flush());
            // The lifeline stays open until the end, which is otherwise SIGKILL.
            self.child.wait()?;
        }
        Ok(())
    }

    /// Fails if the process has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.lifeline.is_some()
            && let Some(status) = self.child.try_wait()?
        {
            bail!("{} ended by itself: {status}. Its log ends:\n{}", self.name, self.last_words());
        }
        Ok(())
    }

    /// Returns the last lines of its output.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        let skipped = lines.len().saturating_sub(LAST_LINES);
        lines.iter().skip(skipped).map(|line| format!("  {line}\n")).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Closing the lifeline is SIGKILL. Wait, because the files are removed next.
        if self.lifeline.take().is_some() {
            let _ = self.child.wait();
        }
    }
}
