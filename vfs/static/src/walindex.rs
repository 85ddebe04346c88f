//! What was committed last, in nanoseconds, through a connection that is open anyway.
//!
//! The -shm file is never opened here: closing it again would drop every lock that this process
//! holds on the database. The connection's own file object lends its mapping.

use harmonylite_vfs_core::abi::{FCNTL_FILE_POINTER, File};
pub use harmonylite_vfs_core::walindex::Header;
use rusqlite::{Connection, ffi};
use std::ptr;

/// A region of the wal-index, as SQLite maps it.
const REGION_SIZE: i32 = 32 * 1024;

/// A connection of which it is known that its WAL is open.
#[derive(Clone, Copy, Debug)]
pub struct WalIndex {
    connection: usize,
}

/// The file object of the main database. Asked for each time: kept, it could outlive the
/// connection.
fn file_of(db: &Connection) -> *mut File {
    let mut file: *mut File = ptr::null_mut();
    // SAFETY: an open connection; this control writes a pointer to the file object, which lives as
    // long as the connection.
    let code = unsafe {
        ffi::sqlite3_file_control(
            db.handle(),
            c"main".as_ptr(),
            FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        )
    };
    if code == ffi::SQLITE_OK { file } else { ptr::null_mut() }
}

impl WalIndex {
    /// Of this connection's main database. None: not in WAL mode, or no shared wal-index (exclusive
    /// locking mode, memory). Do not change the connection's journal mode afterwards.
    ///
    /// # Errors
    /// What SQLite says to the read that makes sure that the WAL is open.
    pub fn of(db: &Connection) -> rusqlite::Result<Option<Self>> {
        db.query_row("SELECT count(*) FROM main.sqlite_master", [], |_| Ok(()))?;
        let mode: String = db.query_row("PRAGMA main.journal_mode", [], |r| r.get(0))?;
        let locking: String = db.query_row("PRAGMA main.locking_mode", [], |r| r.get(0))?;
        // SAFETY: an open connection; the address is only a name here.
        let connection = unsafe { db.handle() } as usize;
        Ok((mode == "wal" && locking == "normal").then_some(Self { connection }))
    }

    /// The header now; None if it is being written (look again).
    ///
    /// # Panics
    /// With another connection than [`WalIndex::of`] had.
    #[must_use]
    pub fn header(&self, db: &Connection) -> Option<Header> {
        // SAFETY: an open connection; the address is only a name here.
        let connection = unsafe { db.handle() } as usize;
        assert_eq!(
            connection, self.connection,
            "the header is read through the connection that it was asked for"
        );
        let file = file_of(db);
        let mut region = ptr::null_mut();
        // SAFETY: the connection is open, so its file object is alive; &Connection is not shared
        // between threads, so nobody else is in it. No extension: a region that is not there is
        // null, and the mapping stays while the WAL is open, that is, longer than this call.
        unsafe {
            let methods = file.as_ref()?.methods.as_ref()?;
            let map = methods.shm_map.filter(|_| methods.version >= 2)?;
            if map(file, 0, REGION_SIZE, 0, &raw mut region) != ffi::SQLITE_OK || region.is_null() {
                return None;
            }
            harmonylite_vfs_core::walindex::read(region.cast_const().cast())
        }
    }
}
