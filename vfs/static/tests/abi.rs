//! Goal: our declarations of SQLite's structures, and the slots of its function table, are those of
//! the real header. Method: the C compiler prints sizes and offsets from the bundled sqlite3.h and
//! sqlite3ext.h; we compare.

#![allow(clippy::unwrap_used, missing_docs)] // a test may

use harmonylite_vfs_core::abi::{File, IoMethods, Vfs};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::mem::offset_of;
use std::process::Command;

fn from_c(expressions: &[String]) -> BTreeMap<String, usize> {
    let directory = tempfile::tempdir().unwrap();
    let mut program =
        "#include <stdio.h>\n#include <stddef.h>\n#include \"sqlite3ext.h\"\nint main(void) {\n"
            .to_owned();
    for expression in expressions {
        writeln!(program, "  printf(\"%zu\\n\", (size_t)({expression}));").unwrap();
    }
    program.push_str("  return 0;\n}\n");
    let source = directory.path().join("abi.c");
    let binary = directory.path().join("abi");
    std::fs::write(&source, program).unwrap();
    let built = Command::new("cc")
        .args(["-I", env!("SQLITE_INCLUDE")])
        .arg(&source)
        .arg("-o")
        .arg(&binary)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let said = String::from_utf8(Command::new(binary).output().unwrap().stdout).unwrap();
    expressions.iter().cloned().zip(said.lines().map(|line| line.parse().unwrap())).collect()
}

macro_rules! offsets {
    ($c:literal, $rust:ty, $($field:ident $name:literal),* $(,)?) => {
        vec![(format!("sizeof({})", $c), size_of::<$rust>()), $((format!("offsetof({}, \
            {})", $c, $name), offset_of!($rust, $field))),*]
    };
}

#[test]
fn structures_are_as_in_the_header() {
    let mut ours = offsets!("sqlite3_file", File, methods "pMethods");
    ours.extend(offsets!(
        "sqlite3_io_methods", IoMethods, version "iVersion", close "xClose", read "xRead",
        write "xWrite", truncate "xTruncate", sync "xSync",
        file_size "xFileSize", lock "xLock", unlock "xUnlock",
        check_reserved_lock "xCheckReservedLock", file_control "xFileControl",
        sector_size "xSectorSize", device_characteristics "xDeviceCharacteristics",
        shm_map "xShmMap", shm_lock "xShmLock",
        shm_barrier "xShmBarrier", shm_unmap "xShmUnmap", fetch "xFetch", unfetch "xUnfetch",
    ));
    ours.extend(offsets!(
        "sqlite3_vfs", Vfs, version "iVersion", os_file_size "szOsFile",
        pathname_max "mxPathname", next "pNext", name "zName",
        app_data "pAppData", open "xOpen", delete "xDelete", access "xAccess",
        full_pathname "xFullPathname", dl_open "xDlOpen",
        dl_error "xDlError", dl_sym "xDlSym", dl_close "xDlClose", randomness "xRandomness",
        sleep "xSleep", current_time "xCurrentTime",
        get_last_error "xGetLastError", current_time_int64 "xCurrentTimeInt64",
        set_system_call "xSetSystemCall",
        get_system_call "xGetSystemCall", next_system_call "xNextSystemCall",
    ));
    let theirs = from_c(&ours.iter().map(|(expression, _)| expression.clone()).collect::<Vec<_>>());
    for (expression, value) in ours {
        assert_eq!(theirs[&expression], value, "{expression}");
    }
}

#[test]
fn slots_are_as_in_the_header() {
    let source =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ext/src/lib.rs")).unwrap();
    let slots: Vec<(String, usize)> = source
        .lines()
        .filter_map(|line| {
            let (name, slot) = line
                .trim()
                .strip_prefix("pub(crate) const ")?
                .strip_suffix(';')?
                .split_once(": usize = ")?;
            Some((
                format!(
                    "offsetof(struct sqlite3_api_routines, {})/sizeof(void*)",
                    name.to_lowercase()
                ),
                slot.parse().ok()?,
            ))
        })
        .collect();
    assert!(slots.len() > 20);
    let theirs =
        from_c(&slots.iter().map(|(expression, _)| expression.clone()).collect::<Vec<_>>());
    for (expression, slot) in slots {
        assert_eq!(theirs[&expression], slot, "{expression}");
    }
}

#[test]
fn constants_are_as_in_the_header() {
    use harmonylite_vfs_core::abi;
    let ours = [
        ("SQLITE_OK", abi::OK),
        ("SQLITE_ERROR", abi::ERROR),
        ("SQLITE_NOMEM", abi::NOMEM),
        ("SQLITE_IOERR", abi::IOERR),
        ("SQLITE_ROW", abi::ROW),
        ("SQLITE_OK_LOAD_PERMANENTLY", abi::OK_LOAD_PERMANENTLY),
        ("SQLITE_OPEN_MAIN_DB", abi::OPEN_MAIN_DB),
        ("SQLITE_OPEN_WAL", abi::OPEN_WAL),
        ("SQLITE_LOCK_SHARED", abi::LOCK_SHARED),
        ("SQLITE_SHM_UNLOCK", abi::SHM_UNLOCK),
        ("SQLITE_SHM_LOCK", abi::SHM_LOCK),
        ("SQLITE_SHM_EXCLUSIVE", abi::SHM_EXCLUSIVE),
        ("SQLITE_FCNTL_FILE_POINTER", abi::FCNTL_FILE_POINTER),
        ("SQLITE_FCNTL_VFSNAME", abi::FCNTL_VFSNAME),
        ("SQLITE_FCNTL_COMMIT_PHASETWO", abi::FCNTL_COMMIT_PHASETWO),
        ("SQLITE_UTF8", abi::UTF8),
        ("SQLITE_DIRECTONLY", abi::DIRECTONLY),
        ("SQLITE_INTEGER", abi::INTEGER),
    ];
    let theirs = from_c(&ours.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
    for (name, value) in ours {
        assert_eq!(theirs[name], usize::try_from(value).unwrap(), "{name}");
    }
}
