//! One run of the nats-server child: configured, checked, started, ready, stopped.
//!
//! Owns: the child never outlives this process, however it ends. A shell stands between us and the
//! server and reads a pipe of which we hold the only other end, the *lifeline*: a line on it is a
//! signal to deliver, its end is SIGKILL. The kernel closes it when we die. Not a parent-death
//! signal: that one follows the *thread* that started the child, knows nothing of a parent that
//! died before it was set, needs unsafe code or util-linux, and is Linux alone. The child has a
//! process group of its own, so that Ctrl-C reaches us only and pending changes can still be
//! published.

use super::binary::Program;
use super::config::Plan;
use super::{EmbeddedError, log};
use parking_lot::Mutex;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Time limit for the start. The server recovers the streams of its store before it listens.
const READY_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Time limit for an orderly shutdown, which writes the state of the streams.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What `/bin/sh -c` runs around a child (its program and arguments follow a name). stdin: the
/// lifeline. stdout: the store's lock, which the server so inherits. stderr: the server's log.
pub const LIFELINE_SHELL: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
exec 2>/dev/null
{ while read -r signal; do kill -s "$signal" "$server"; done; kill -s KILL "$server"; } <&3 >&2 &
lifeline=$!
exec 3<&-
wait "$server"
status=$?
kill "$lifeline"
exit "$status"
"#;

/// A server that accepts connections.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    lifeline: ChildStdin,
    /// `host:port` for our own client.
    pub(super) address: String,
    /// The server has reported a full disk.
    disk_full: watch::Receiver<bool>,
}

impl Running {
    /// Starts the server and returns when it accepts connections.
    pub(super) async fn start(
        program: &Program,
        plan: &Plan,
        lock: &File,
        port: Option<u16>,
    ) -> Result<Self, EmbeddedError> {
        let config = plan.store.join("nats-server.conf");
        write_private(&config, &plan.text(port)).map_err(EmbeddedError::files(&config))?;
        check(program, &config).await?;
        remove_ports_files(&plan.store).map_err(EmbeddedError::files(&plan.store))?;

        let (mut child, lifeline, stderr) = spawn(program, &config, lock)?;
        let last_failure = Arc::new(Mutex::new(None));
        let (full, disk_full) = watch::channel(false);
        let logged = forward(stderr, Arc::clone(&last_failure), full);
        let ready = async {
            loop {
                if let Some(address) = ports_file(&plan.store)
                    && tokio::net::TcpStream::connect(&address).await.is_ok()
                {
                    return address;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            address = ready => Ok(Self { child, lifeline, address, disk_full }),
            status = child.wait() => {
                // The log is complete when it ends.
                _ = tokio::time::timeout(Duration::from_secs(1), logged).await;
                Err(did_not_start(last_failure.lock().take(), status.ok()))
            }
            () = tokio::time::sleep(READY_WITHIN) => {
                let last = last_failure.lock().take();
                let last = last.map_or(String::new(), |text| format!("; its last error: {text}"));
                let reason = format!("not ready after {} s{last}", READY_WITHIN.as_secs());
                Err(EmbeddedError::DidNotStart { reason })
            }
        }
    }

    /// Waits for the server's end.
    pub(super) async fn ended(&mut self) {
        _ = self.child.wait().await;
    }

    /// Returns whether the server has reported a full disk, and changes of that.
    pub(super) fn disk_full(&self) -> watch::Receiver<bool> {
        self.disk_full.clone()
    }

    /// Stops the server in order, or kills it after a while.
    pub(super) async fn stop(mut self) {
        _ = self.lifeline.write_all(b"TERM\n").await;
        if tokio::time::timeout(STOP_WITHIN, self.child.wait()).await.is_err() {
            tracing::warn!(
                "killed the embedded nats-server, which did not end within {} s",
                STOP_WITHIN.as_secs()
            );
            drop(self.lifeline);
            _ = tokio::time::timeout(STOP_WITHIN, self.child.wait()).await;
        }
    }
}

fn spawn(
    program: &Program,
    config: &Path,
    lock: &File,
) -> Result<(Child, ChildStdin, ChildStderr), EmbeddedError> {
    let failed = |reason: String| EmbeddedError::DidNotStart { reason };
    let lock = lock.try_clone().map_err(|e| failed(format!("cannot hand over the lock: {e}")))?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", LIFELINE_SHELL, "nats-server"]).arg(&program.path).arg("-c").arg(config);
    command.stdin(Stdio::piped()).stdout(lock).stderr(Stdio::piped()).process_group(0);
    let mut child = command
        .spawn()
        .map_err(|e| failed(format!("cannot run /bin/sh, which watches over the server: {e}")))?;
    let (Some(lifeline), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(failed("no pipes to the server".to_owned()));
    };
    Ok((child, lifeline, stderr))
}

fn forward(
    stderr: ChildStderr,
    last_failure: Arc<Mutex<Option<String>>>,
    full: watch::Sender<bool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stderr).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line = String::from_utf8_lossy(&line);
            // The server repeats the message at every attempt. Log it once: our log may be on the
            // same disk.
            if !log::tells_of_full_disk(&line) || !full.send_replace(true) {
                log::forward(&line);
            }
            if let Some(said) = log::failure(&line) {
                *last_failure.lock() = Some(said.to_owned());
            }
        }
    })
}

/// Lets the server check its configuration.
async fn check(program: &Program, config: &Path) -> Result<(), EmbeddedError> {
    let output = Command::new(&program.path)
        .arg("-t")
        .arg("-c")
        .arg(config)
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.map_err(EmbeddedError::files(&program.path))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(EmbeddedError::ConfigRefused {
        said: without_logins(said.trim().trim_start_matches("nats-server: ")),
    })
}

/// Removes the logins of all URLs in a text.
fn without_logins(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ']');
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let (url, tail) = after.split_at(after.find(ends).unwrap_or(after.len()));
        out.push_str(before);
        out.push_str(url.rsplit('@').next().unwrap_or(url));
        rest = tail;
    }
    out + rest
}

fn did_not_start(said: Option<String>, status: Option<ExitStatus>) -> EmbeddedError {
    match said {
        Some(said) if said.contains("address already in use") => EmbeddedError::PortInUse { said },
        Some(reason) => EmbeddedError::DidNotStart { reason },
        None => EmbeddedError::DidNotStart {
            reason: status.map_or("it ended".to_owned(), |status| format!("it ended: {status}")),
        },
    }
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = File::options();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}

fn ports_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.filter_map(Result::ok).map(|entry| entry.path());
    Ok(entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "ports"))
        .collect())
}

/// Removes the file that a killed server left, which names a wrong port.
fn remove_ports_files(dir: &Path) -> std::io::Result<()> {
    ports_files(dir)?.iter().try_for_each(fs::remove_file)
}

/// Reads the address for clients from the server's ports file, once it exists.
fn ports_file(dir: &Path) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let text = fs::read_to_string(ports_files(dir).ok()?.first()?).ok()?;
    let ports: Ports = serde_json::from_str(&text).ok()?;
    let addresses =
        || ports.nats.iter().filter_map(|url| url.split_once("://").map(|(_, address)| address));
    // A server that listens everywhere lists all interfaces.
    addresses()
        .find(|address| address.starts_with("127."))
        .or_else(|| addresses().next())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::without_logins;

    #[test]
    fn logins_in_the_servers_words_are_hidden() {
        assert_eq!(
            without_logins("error parsing route url [\"nats://u:p%zz@h:1\"], \"x://a\": bad"),
            "error parsing route url [\"nats://h:1\"], \"x://a\": bad"
        );
        assert_eq!(without_logins("nothing"), "nothing");
    }
}
