//! Gives the code of the running program back to the kernel, which maps again what is called.
//!
//! Here because it needs `unsafe`. Linux only; elsewhere it does nothing.

/// Unmaps the code of the running program. What only the start needed then counts no more as memory
/// of the process, and the kernel drops it first when memory is short. The next call into each 64
/// KiB costs a page fault of some microseconds.
pub fn release() {
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (from, to) in code_of(&maps, &program.to_string_lossy()) {
        // SAFETY: a mapping of our own program that nobody can write, so its file has every byte.
        // The file cannot be written while it runs (ETXTBSY). Which mapping it is cannot change:
        // nothing unmaps the program.
        #[cfg(target_os = "linux")]
        unsafe {
            libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (from, to);
    }
}

/// The addresses at which a text like `/proc/self/maps` has code of a file and nothing else.
fn code_of(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    maps.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(6, ' ');
            let (from, to) = parts.next()?.split_once('-')?;
            // Other parts may be read-only too, but were written before (relocations).
            let is_code = parts.next()? == "r-xp" && parts.nth(3)?.trim_start() == program;
            if is_code { address(from).zip(address(to)) } else { None }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_the_program_is_named() {
        let maps = "5581a000-5581c000 r--p 00000000 fe:00 12  /opt/odd name (deleted)\n\
             5581c000-5581f000 r-xp 00002000 fe:00 12  /opt/odd name (deleted)\n\
             5581f000-55820000 rw-p 00005000 fe:00 12  /opt/odd name (deleted)\n\
             7f001000-7f002000 r-xp 00000000 fe:00 13  /lib/libc.so.6\n\
             7ffd1000-7ffd2000 r-xp 00000000 00:00 0   [vdso]\n\
             7f003000-7f004000 rwxp 00000000 00:00 0\n";
        assert_eq!(code_of(maps, "/opt/odd name (deleted)"), [(0x5581_c000, 0x5581_f000)]);
        assert!(code_of(maps, "/opt/odd name").is_empty());
        assert!(code_of(maps, "").is_empty(), "not what belongs to no file");
    }

    #[test]
    fn a_program_runs_on_without_its_code() {
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert_eq!(code_of(&maps, &program.to_string_lossy()).len(), 1, "{maps}");
        for _ in 0..3 {
            release();
        }
    }
}
