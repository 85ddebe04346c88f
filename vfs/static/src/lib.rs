//! The HarmonyLite VFS for Rust programs: a commit through it wakes the sidecar in microseconds.
//!
//! ```no_run
//! let db = harmonylite_vfs::open("app.db")?;
//! db.execute("INSERT INTO note (text) VALUES ('hello')", [])?;
//! # Ok::<(), rusqlite::Error>(())
//! ```
//!
//! Nothing else changes: it is SQLite's own VFS with a bell at commit. Any other program may use
//! the same file, with or without it.

#![allow(clippy::missing_transmute_annotations)] // the field that it fills is the annotation

pub mod walindex;

use harmonylite_vfs_core::Host;
use harmonylite_vfs_core::functions::{self, FunctionHost};
use rusqlite::{Connection, OpenFlags, ffi};
use std::ffi::c_int;
use std::mem::transmute;
use std::path::Path;

pub use harmonylite_vfs_core::{VERSION, bell};

/// The name for `file:app.db?vfs=harmonylite` and [`Connection::open_with_flags_and_vfs`].
pub const VFS_NAME: &str = "harmonylite";

/// The name of the VFS of the sidecar's writing connection ([`harmonylite_vfs_core::gather`]).
pub const GATHERING_VFS_NAME: &str = "harmonylite-gathering";

fn host() -> Host {
    // SAFETY: the same functions; only the names of the structures differ (vfs/static/tests/abi.rs
    // compares their layouts).
    unsafe {
        Host {
            vfs_find: transmute::<*const (), _>(ffi::sqlite3_vfs_find as *const ()),
            vfs_register: transmute::<*const (), _>(ffi::sqlite3_vfs_register as *const ()),
            malloc: transmute::<*const (), _>(ffi::sqlite3_malloc as *const ()),
            free: transmute::<*const (), _>(ffi::sqlite3_free as *const ()),
            database_file_object: Some(transmute::<*const (), _>(
                ffi::sqlite3_database_file_object as *const (),
            )),
        }
    }
}

fn function_host() -> FunctionHost {
    // SAFETY: the same functions; only the names of the opaque structures differ.
    unsafe {
        FunctionHost {
            create_function_v2: transmute::<*const (), _>(
                ffi::sqlite3_create_function_v2 as *const (),
            ),
            context_db_handle: transmute::<*const (), _>(
                ffi::sqlite3_context_db_handle as *const (),
            ),
            prepare_v2: transmute::<*const (), _>(ffi::sqlite3_prepare_v2 as *const ()),
            step: transmute::<*const (), _>(ffi::sqlite3_step as *const ()),
            column_int64: transmute::<*const (), _>(ffi::sqlite3_column_int64 as *const ()),
            column_type: transmute::<*const (), _>(ffi::sqlite3_column_type as *const ()),
            finalize: transmute::<*const (), _>(ffi::sqlite3_finalize as *const ()),
            result_int64: transmute::<*const (), _>(ffi::sqlite3_result_int64 as *const ()),
            result_null: transmute::<*const (), _>(ffi::sqlite3_result_null as *const ()),
            result_text: transmute::<*const (), _>(ffi::sqlite3_result_text as *const ()),
            result_error: transmute::<*const (), _>(ffi::sqlite3_result_error as *const ()),
            result_error_code: transmute::<*const (), _>(
                ffi::sqlite3_result_error_code as *const (),
            ),
            db_filename: transmute::<*const (), _>(ffi::sqlite3_db_filename as *const ()),
            get_autocommit: transmute::<*const (), _>(ffi::sqlite3_get_autocommit as *const ()),
            value_int64: transmute::<*const (), _>(ffi::sqlite3_value_int64 as *const ()),
        }
    }
}

fn error(code: c_int) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        ffi::Error::new(code),
        Some("cannot register the harmonylite VFS".to_owned()),
    )
}

/// Registers the VFS `harmonylite` in this process. Again is nothing.
///
/// # Errors
/// SQLite has no VFS to build on.
pub fn register() -> rusqlite::Result<()> {
    start()?;
    // SAFETY: functions of the linked SQLite, which stays as long as the process does, as does this
    // code.
    unsafe { harmonylite_vfs_core::register(host(), false) }.map_err(error)
}

/// As [`register`], and every connection that names no VFS uses it: for libraries that open the
/// database themselves.
///
/// # Errors
/// SQLite has no VFS to build on.
pub fn register_default() -> rusqlite::Result<()> {
    start()?;
    // SAFETY: as in register.
    unsafe { harmonylite_vfs_core::register(host(), true) }.map_err(error)
}

/// Registers the VFS `harmonylite-gathering` in this process. Again is nothing.
///
/// # Errors
/// SQLite has no VFS to build on.
pub fn register_gathering() -> rusqlite::Result<()> {
    start()?;
    // SAFETY: as in register.
    unsafe { harmonylite_vfs_core::gather::register(host()) }.map_err(error)
}

fn start() -> rusqlite::Result<()> {
    // SAFETY: may be called at any time, from any thread.
    match unsafe { ffi::sqlite3_initialize() } {
        ffi::SQLITE_OK => Ok(()),
        code => Err(error(code)),
    }
}

/// Opens a database through the VFS, with the SQL functions `harmonylite_lag()` and
/// `harmonylite_wait(timeout_ms)`.
///
/// # Errors
/// As [`Connection::open`].
pub fn open(path: impl AsRef<Path>) -> rusqlite::Result<Connection> {
    open_with_flags(path, OpenFlags::default())
}

/// As [`open`], with flags.
///
/// # Errors
/// As [`Connection::open_with_flags`].
pub fn open_with_flags(path: impl AsRef<Path>, flags: OpenFlags) -> rusqlite::Result<Connection> {
    register()?;
    let db = Connection::open_with_flags_and_vfs(path, flags, VFS_NAME)?;
    add_functions(&db)?;
    Ok(db)
}

/// Adds the SQL functions to a connection that was opened otherwise.
///
/// # Errors
/// What SQLite says.
pub fn add_functions(db: &Connection) -> rusqlite::Result<()> {
    // SAFETY: an open connection of the linked SQLite.
    unsafe { functions::install(&function_host(), db.handle().cast()) }.map_err(error)
}
