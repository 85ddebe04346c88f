//! Measures CPU and memory of an idle sidecar, after the other measurements. Uses Linux' /proc.

use crate::pair::{Pair, pause};
use crate::report::{Floor, Report};
use anyhow::{Context, Result};
use harmonylite::clock;
use std::fs;
use std::time::Duration;

pub(crate) fn measure(pair: &Pair, report: &mut Report, quick: bool) -> Result<()> {
    pair.settle()?;
    let pid = pair.pid(0)?;
    // Let the sidecar first finish earlier work (a checkpoint, a timer), which does not count as
    // idle.
    pause(Duration::from_secs(1));
    let (began, used) = (clock::unix_ns(), cpu_ns(pid)?);
    let ends = clock::mono_ms() + if quick { 3_000 } else { 10_000 };
    while clock::mono_ms() < ends {
        pause(Duration::from_millis(200));
    }
    let share = (cpu_ns(pid)? - used) as f64 * 100.0 / (clock::unix_ns() - began) as f64;
    report.add("idle CPU of a sidecar", share, "%", Floor::AtMost(0.5));
    report.add("memory of a sidecar", memory_mb(pid, "VmRSS:")?, "MB", Floor::AtMost(60.0));
    report.add("memory at its highest", memory_mb(pid, "VmHWM:")?, "MB", Floor::None);
    Ok(())
}

/// Returns the CPU time of all its threads. /proc/PID/stat is too coarse, because it counts
/// hundredths of a second.
fn cpu_ns(pid: u32) -> Result<i64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the sidecar has ended")? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text
            .split_whitespace()
            .next()
            .and_then(|ns| ns.parse::<i64>().ok())
            .context("unknown schedstat")?;
    }
    Ok(sum)
}

fn memory_mb(pid: u32, key: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(key)).context("unknown /proc status")?;
    let kb: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kb * 1_024.0 / 1e6)
}
