//! The server dies with its owner, whatever kills that. The owner here is this test program, run
//! again as a process of its own.

use super::*;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

const DIR: &str = "HARMONYLITE_TEST_ORPHAN_DIR";

/// Not a test: what the killed process runs. Without its variable it does nothing.
#[tokio::test]
async fn owner_to_be_killed() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let _embedded = start(&settings(&dir)).await.unwrap();
    println!("\nserver {}", server_pid(&dir, 1).as_raw_pid());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_server_dies_with_its_killed_owner_and_its_store_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::tests::orphan::owner_to_be_killed", "--nocapture"])
        .env(DIR, dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let pid = loop {
        let line = lines.next_line().await.unwrap().expect("the owner says where its server is");
        if let Some(pid) = line.strip_prefix("server ") {
            break rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        }
    };
    rustix::process::test_kill_process(pid).unwrap();
    owner.start_kill().unwrap();
    let killed = tokio::time::Instant::now();
    // A new owner need not know of the old one.
    let embedded = start(&settings(dir.path())).await.unwrap();
    assert!(rustix::process::test_kill_process(pid).is_err(), "the orphan is gone");
    let took = killed.elapsed();
    println!("a new server ran {} ms after the SIGKILL of the old owner", took.as_millis());
    assert!(took < Duration::from_secs(5), "{took:?}");
    embedded.stop().await;
}
