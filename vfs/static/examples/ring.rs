//! Holds the bell of a database in the place of a sidecar and says each commit that rings: `ring
//! app.db`. For trying the VFS without a broker, and for the tests of docs/.

#![allow(clippy::expect_used)] // an example may

use harmonylite_vfs::bell::{Bell, Woken};
use std::time::Duration;

fn main() {
    let path = std::env::args_os().nth(1).expect("usage: ring DATABASE");
    let bell = Bell::open_or_create(path.as_ref()).expect("cannot make the bell");
    println!("listening at {}", bell.path().display());
    let (mut seen, mut commits) = (bell.rings(), Vec::new());
    loop {
        if bell.wait(seen, Duration::from_secs(3600)) == Woken::Rung {
            bell.recent(seen, &mut commits);
            seen = bell.rings();
            for commit in &commits {
                println!("commit {}: {} pages", commit.number, commit.pages);
            }
        }
    }
}
