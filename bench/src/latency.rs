//! From the end of a commit to the moment at which a reader of the peer sees it.

use crate::flow::insert;
use crate::pair::{Pair, count, pause};
use crate::report::{Floor, Report};
use anyhow::Result;
use harmonylite::clock;
use std::time::Duration;

const FROM: i64 = 200_000_000;
/// 50 commits a second.
const PACE_NS: i64 = 20_000_000;
/// The reader's own part of what is measured.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// Connections, caches, statements: the first commits measure those.
const WARM_UP: i64 = 20;

pub(crate) fn measure(pair: &Pair, report: &mut Report, quick: bool) -> Result<()> {
    let commits = if quick { 100 } else { 500 };
    let (app, peer) = (pair.open(0)?, pair.open(1)?);
    let mut taken_ns = Vec::new();
    for i in 0..WARM_UP + commits {
        let next = clock::unix_ns() + PACE_NS;
        insert(&app, FROM + i)?;
        let committed = clock::unix_ns();
        let gives_up = committed + 60_000_000_000;
        while count(&peer, "SELECT count(*) FROM item WHERE id = ?1", FROM + i)? == 0 {
            anyhow::ensure!(clock::unix_ns() < gives_up, "a commit has not become visible after 60 s\n{}", pair.what_they_say());
            pause(LOOK_EVERY);
        }
        if i >= WARM_UP {
            taken_ns.push(clock::unix_ns() - committed);
        }
        pause(Duration::from_nanos(u64::try_from(next - clock::unix_ns()).unwrap_or(0)));
    }
    taken_ns.sort_unstable();
    let at = |share: usize| taken_ns.get((taken_ns.len() * share / 100).min(taken_ns.len() - 1)).map_or(f64::NAN, |ns| *ns as f64 / 1e6);
    report.add("commit to visible, median", at(50), "ms", Floor::AtMost(5.0));
    report.add("commit to visible, p99", at(99), "ms", Floor::None);
    pair.settle()
}
