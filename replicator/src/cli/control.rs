//! Sends requests to the running node of a database: HTTP over the socket that its lock file names.

use super::exit::{Exit, Failure};
use crate::db::lockfile::Owner;
use anyhow::{Context, Result};
use axum::body::{Body, to_bytes};
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::time::Duration;

/// The node answers from memory; a longer wait means that it hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// Greatest size of an answer, far above any real one.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The node's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The text of the answer.
    pub(crate) body: String,
}

/// Sends a request to the node that holds the lock.
pub(crate) fn ask(owner: Option<&Owner>, method: &str, path: &str) -> Result<Answer> {
    let Some(owner) = owner else {
        return Err(Failure::new(
            Exit::General,
            "the node is starting and does not answer yet",
            "try again in a moment",
        )
        .into());
    };
    let failed = |why: String| {
        let what = format!(
            "the node (process {}) does not answer on {}: {why}",
            owner.pid,
            owner.socket.display()
        );
        Failure::new(
            Exit::General,
            what,
            "see its log; run this command as the same user, or as root",
        )
    };
    let runtime = runtime()?;
    let exchanged = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, exchange(&owner.socket, method, path)).await
    });
    match exchanged {
        Ok(answer) => answer.map_err(|e| failed(format!("{e:#}")).into()),
        Err(_) => Err(failed(format!("no answer for {} s", PATIENCE.as_secs())).into()),
    }
}

/// Waits.
pub(crate) fn pause(time: Duration) -> Result<()> {
    // A timer must be made inside the runtime.
    runtime()?.block_on(async { tokio::time::sleep(time).await });
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the network runtime")
}

async fn exchange(socket: &Path, method: &str, path: &str) -> Result<Answer> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "harmonylite")
        .body(Body::empty())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX).await?;
    drop(sender);
    connection.abort();
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

/// A fake node that gives one answer, for tests.
#[cfg(test)]
pub(crate) fn fake_node(
    socket: &Path,
    status: u16,
    body: String,
) -> std::thread::JoinHandle<String> {
    use std::io::{Read, Write};
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        String::from_utf8(request).unwrap().lines().next().unwrap().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_asked_and_a_missing_one_reported() {
        let dir = tempfile::tempdir().unwrap();
        let owner = Owner { pid: 1, node_id: 1, socket: dir.path().join("s") };
        let error = ask(Some(&owner), "GET", "/status").unwrap_err();
        assert!(error.to_string().contains("process 1"), "{error}");
        assert!(ask(None, "GET", "/status").unwrap_err().to_string().contains("starting"));
        let node = fake_node(&owner.socket, 202, "fine".to_owned());
        let answer = ask(Some(&owner), "POST", "/quarantine/5/retry").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (202, "fine"));
        assert_eq!(node.join().unwrap(), "POST /quarantine/5/retry HTTP/1.1");
    }

    #[test]
    fn a_pause_ends() {
        pause(Duration::from_millis(1)).unwrap();
    }
}
