//! CPU time and memory of processes, where Linux' /proc shows them; elsewhere nothing is reported.

use std::fs;

/// Returns the CPU nanoseconds of all threads of a process. /proc/PID/stat is too coarse, because
/// it counts hundredths of a second.
pub(crate) fn cpu_ns(pid: u32) -> Option<i64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let used: Vec<i64> =
        tasks.flatten().filter_map(|task| schedstat(&task.path().join("schedstat"))).collect();
    if used.is_empty() { None } else { Some(used.iter().sum()) }
}

/// Returns the CPU nanoseconds of the calling thread.
pub(crate) fn own_cpu_ns() -> Option<i64> {
    schedstat("/proc/thread-self/schedstat".as_ref())
}

fn schedstat(path: &std::path::Path) -> Option<i64> {
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

/// Returns the memory of a process in MB: at rest, and at its highest.
pub(crate) fn memory_mb(pid: u32) -> Option<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some((field_mb(&text, "VmRSS:")?, field_mb(&text, "VmHWM:")?))
}

/// Returns the present memory of a process in MB that is no part of a file.
pub(crate) fn anonymous_mb(pid: u32) -> Option<f64> {
    field_mb(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "RssAnon:")
}

fn field_mb(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kb: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kb * 1_024.0 / 1e6)
}

/// Makes the kernel forget the highest memory of a process, so that the next one is measured.
pub(crate) fn reset_highest(pid: u32) {
    // Not every kernel allows it; the highest is then that of the whole run.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_used_something() {
        let pid = std::process::id();
        // The kernel counts at its ticks.
        while own_cpu_ns().unwrap() == 0 {
            std::hint::spin_loop();
        }
        assert!(cpu_ns(pid).is_some_and(|ns| ns > 0));
        let (rest, highest) = memory_mb(pid).unwrap();
        assert!(rest > 0.5 && highest >= rest);
        assert!(anonymous_mb(pid).is_some_and(|mb| mb > 0.1));
        assert!(cpu_ns(u32::MAX).is_none());
    }
}
