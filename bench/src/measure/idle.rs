//! Measures CPU and memory of a sidecar that has nothing to do.

use crate::cluster::Cluster;
use crate::report::{Floor, Report};
use crate::time::{now, pause, since_ns};
use crate::usage::{cpu_ns, memory_mb};
use anyhow::Result;
use std::time::Duration;

pub(crate) fn measure(pair: &Cluster, report: &mut Report, quick: bool) -> Result<()> {
    report.group("idle");
    pair.settle()?;
    let Some(pid) = pair.pid(0) else { return Ok(()) };
    // Let the sidecar first finish earlier work (a checkpoint, a timer, giving back the code of its
    // start), which does not count as idle.
    pause(Duration::from_secs(5))?;
    let (began, before) = (now(), cpu_ns(pid));
    pause(Duration::from_secs(if quick { 3 } else { 10 }))?;
    if let Some(used) = before.zip(cpu_ns(pid)).map(|(before, after)| after - before) {
        let share = used as f64 * 100.0 / since_ns(began) as f64;
        report.add("idle CPU of a sidecar", share, "%", Floor::AtMost(0.1));
    }
    if let Some((at_rest, highest)) = memory_mb(pid) {
        report.add("memory of a sidecar", at_rest, "MB", Floor::AtMost(25.0));
        report.add("memory at its highest", highest, "MB", Floor::None);
    }
    Ok(())
}
