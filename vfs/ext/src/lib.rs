//! The loadable extension `libharmonylite_vfs.so`.
//!
//! `.load libharmonylite_vfs` (in any language) registers the VFS `harmonylite`; the entry point
//! `sqlite3_harmonylite_vfs_default_init`, or `HARMONYLITE_VFS_DEFAULT=1` in the environment, makes
//! it the default one. What it calls of SQLite comes from the table that SQLite hands to an
//! extension: nothing is linked, so it works with every SQLite since 3.24, however many there are
//! in the process.

#![allow(clippy::missing_transmute_annotations)] // the field that it fills is the annotation

use harmonylite_vfs_core::Host;
use harmonylite_vfs_core::abi::{ERROR, NOMEM, OK, OK_LOAD_PERMANENTLY};
use harmonylite_vfs_core::functions::{self, FunctionHost, Opaque};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::transmute;

/// `sqlite3_api_routines`: a table of functions that only ever grows at its end. Slots by their
/// position in sqlite3ext.h.
type Api = *const *const c_void;

mod slot {
    pub(crate) const COLUMN_INT64: usize = 29;
    pub(crate) const COLUMN_TYPE: usize = 38;
    pub(crate) const FINALIZE: usize = 57;
    pub(crate) const FREE: usize = 58;
    pub(crate) const GET_AUTOCOMMIT: usize = 60;
    pub(crate) const LIBVERSION_NUMBER: usize = 67;
    pub(crate) const MALLOC: usize = 68;
    pub(crate) const RESULT_ERROR: usize = 80;
    pub(crate) const RESULT_INT64: usize = 83;
    pub(crate) const RESULT_NULL: usize = 84;
    pub(crate) const RESULT_TEXT: usize = 85;
    pub(crate) const STEP: usize = 94;
    pub(crate) const VALUE_INT64: usize = 107;
    pub(crate) const PREPARE_V2: usize = 116;
    pub(crate) const VFS_FIND: usize = 141;
    pub(crate) const VFS_REGISTER: usize = 142;
    pub(crate) const RESULT_ERROR_CODE: usize = 146;
    pub(crate) const CONTEXT_DB_HANDLE: usize = 149;
    pub(crate) const CREATE_FUNCTION_V2: usize = 162;
    pub(crate) const DB_FILENAME: usize = 180;
    pub(crate) const AUTO_EXTENSION: usize = 192;
}

/// The oldest SQLite that this is made for.
const SQLITE_MIN: c_int = 3_024_000;

/// The function in that slot, as the type that the context wants.
macro_rules! take {
    ($api:expr, $slot:ident) => {{
        let function = *$api.add(slot::$slot);
        if function.is_null() {
            return None;
        }
        transmute(function)
    }};
}

/// # Safety
/// `api` is SQLite's table, of 3.24 or later.
unsafe fn host(api: Api) -> Option<Host> {
    // SAFETY: these slots exist since long before 3.24 and hold functions of these types.
    unsafe {
        Some(Host {
            vfs_find: take!(api, VFS_FIND),
            vfs_register: take!(api, VFS_REGISTER),
            malloc: take!(api, MALLOC),
            free: take!(api, FREE),
            database_file_object: None,
        })
    }
}

/// # Safety
/// As for [`host`].
unsafe fn function_host(api: Api) -> Option<FunctionHost> {
    // SAFETY: as in host.
    unsafe {
        Some(FunctionHost {
            create_function_v2: take!(api, CREATE_FUNCTION_V2),
            context_db_handle: take!(api, CONTEXT_DB_HANDLE),
            prepare_v2: take!(api, PREPARE_V2),
            step: take!(api, STEP),
            column_int64: take!(api, COLUMN_INT64),
            column_type: take!(api, COLUMN_TYPE),
            finalize: take!(api, FINALIZE),
            result_int64: take!(api, RESULT_INT64),
            result_null: take!(api, RESULT_NULL),
            result_text: take!(api, RESULT_TEXT),
            result_error: take!(api, RESULT_ERROR),
            result_error_code: take!(api, RESULT_ERROR_CODE),
            db_filename: take!(api, DB_FILENAME),
            get_autocommit: take!(api, GET_AUTOCOMMIT),
            value_int64: take!(api, VALUE_INT64),
        })
    }
}

/// Registers everything. The error is a code and a word of explanation.
///
/// # Safety
/// SQLite's own arguments to an entry point.
unsafe fn load(db: Opaque, api: Api, as_default: bool) -> Result<(), (c_int, &'static CStr)> {
    const BAD_TABLE: (c_int, &CStr) =
        (ERROR, c"harmonylite: SQLite's table of functions is not as expected");
    if api.is_null() {
        return Err(BAD_TABLE);
    }
    // SAFETY: the slot exists in every SQLite that loads extensions.
    let version: Option<unsafe extern "C" fn() -> c_int> =
        unsafe { transmute(*api.add(slot::LIBVERSION_NUMBER)) };
    // SAFETY: sqlite3_libversion_number.
    if version.is_none_or(|version| unsafe { version() } < SQLITE_MIN) {
        return Err((ERROR, c"harmonylite: needs SQLite 3.24 or later"));
    }
    // SAFETY: a table of 3.24 or later.
    let (Some(host), Some(functions)) = (unsafe { (host(api), function_host(api)) }) else {
        return Err(BAD_TABLE);
    };
    // SAFETY: SQLite's functions; we are loaded permanently.
    unsafe { harmonylite_vfs_core::register(host, as_default) }
        .map_err(|code| (code, c"harmonylite: cannot register the VFS"))?;
    // SAFETY: the slot exists since 3.8.7.
    let auto_extension: Option<unsafe extern "C" fn(Option<EntryPoint>) -> c_int> =
        unsafe { transmute(*api.add(slot::AUTO_EXTENSION)) };
    if let Some(auto_extension) = auto_extension {
        // Twice is once. Where SQLite was built without it, later connections lack the functions,
        // and that is all.
        // SAFETY: an entry point that stays loaded.
        unsafe { auto_extension(Some(on_connection)) };
    }
    // No error from here on: SQLite would unload us, and keep the pointers.
    // SAFETY: the connection that loads us, of this library. One without the functions is better
    // than none.
    let _ = unsafe { functions::install(&functions, db) };
    Ok(())
}

type EntryPoint = unsafe extern "C" fn(Opaque, *mut *mut c_char, Api) -> c_int;

/// Every later connection of the process: the SQL functions.
unsafe extern "C" fn on_connection(db: Opaque, _: *mut *mut c_char, api: Api) -> c_int {
    guard(|| {
        // SAFETY: the table was accepted when we were loaded.
        if let Some(functions) = unsafe { function_host(api) } {
            // SAFETY: a new connection of that library. One without the functions is better than
            // none.
            let _ = unsafe { functions::install(&functions, db) };
        }
        OK
    })
}

unsafe fn entry(db: Opaque, message: *mut *mut c_char, api: Api, as_default: bool) -> c_int {
    guard(|| {
        // SAFETY: SQLite's own arguments.
        match unsafe { load(db, api, as_default) } {
            Ok(()) => OK_LOAD_PERMANENTLY,
            Err((code, text)) => {
                // SAFETY: SQLite frees the message with sqlite3_free; the copy is as long as what
                // was asked for.
                unsafe { explain(message, api, text) };
                code
            }
        }
    })
}

/// # Safety
/// SQLite's own arguments to an entry point.
unsafe fn explain(message: *mut *mut c_char, api: Api, text: &CStr) {
    if message.is_null() || api.is_null() {
        return;
    }
    // SAFETY: the slot exists in every SQLite that loads extensions.
    let malloc: Option<unsafe extern "C" fn(c_int) -> *mut c_void> =
        unsafe { transmute(*api.add(slot::MALLOC)) };
    let bytes = text.to_bytes_with_nul();
    let (Some(malloc), Ok(size)) = (malloc, c_int::try_from(bytes.len())) else { return };
    // SAFETY: sqlite3_malloc; written only where it gave memory, and as much.
    unsafe {
        let copy = malloc(size).cast::<u8>();
        if !copy.is_null() {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
            *message = copy.cast();
        }
    }
}

/// A panic must not cross into C.
fn guard(body: impl FnOnce() -> c_int) -> c_int {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(NOMEM)
}

/// What SQLite calls by itself, having made the name from `libharmonylite_vfs.so`.
///
/// # Safety
/// For SQLite only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_harmonylitevfs_init(
    db: Opaque,
    message: *mut *mut c_char,
    api: Api,
) -> c_int {
    let as_default =
        std::env::var_os("HARMONYLITE_VFS_DEFAULT").is_some_and(|v| !v.is_empty() && v != "0");
    // SAFETY: SQLite's own arguments.
    unsafe { entry(db, message, api, as_default) }
}

/// The same, and the VFS becomes the default one of the process: for drivers that cannot name a
/// VFS.
///
/// # Safety
/// For SQLite only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_harmonylite_vfs_default_init(
    db: Opaque,
    message: *mut *mut c_char,
    api: Api,
) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe { entry(db, message, api, true) }
}
