//! `harmonylite_lag()`, `harmonylite_wait(timeout_ms)` and `harmonylite_vfs_version()`.
//!
//! Arrives: a call in somebody's SQL. Leaves: an answer from what this connection sees of the
//! change log and what the sidecar says in the bell file, or, if there is no living sidecar, what
//! it last wrote into the database. Owns: they read only, and never say that a change has left the
//! machine when it has not.
//!
//! (Never a function named `harmonylite_version`: triggers of HarmonyLite (Go) fall silent where it
//! exists.)

use crate::abi::{DIRECTONLY, ERROR, INTEGER, OK, ROW, UTF8};
use crate::bell::Asked;
use crate::futex;
use crate::guard;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

/// `sqlite3*`, `sqlite3_context*`, `sqlite3_value*`, `sqlite3_stmt*`.
pub type Opaque = *mut c_void;
/// A function's body.
pub type Body = unsafe extern "C" fn(Opaque, c_int, *mut Opaque);

/// What is called of SQLite here. Each field is the function of that name without `sqlite3_`.
#[allow(missing_docs)]
#[derive(Clone, Copy)]
pub struct FunctionHost {
    pub create_function_v2: unsafe extern "C" fn(
        Opaque,
        *const c_char,
        c_int,
        c_int,
        *mut c_void,
        Option<Body>,
        Option<Body>,
        Option<unsafe extern "C" fn(Opaque)>,
        Option<unsafe extern "C" fn(*mut c_void)>,
    ) -> c_int,
    pub context_db_handle: unsafe extern "C" fn(Opaque) -> Opaque,
    pub prepare_v2: unsafe extern "C" fn(
        Opaque,
        *const c_char,
        c_int,
        *mut Opaque,
        *mut *const c_char,
    ) -> c_int,
    pub step: unsafe extern "C" fn(Opaque) -> c_int,
    pub column_int64: unsafe extern "C" fn(Opaque, c_int) -> i64,
    pub column_type: unsafe extern "C" fn(Opaque, c_int) -> c_int,
    pub finalize: unsafe extern "C" fn(Opaque) -> c_int,
    pub result_int64: unsafe extern "C" fn(Opaque, i64),
    pub result_null: unsafe extern "C" fn(Opaque),
    pub result_text: unsafe extern "C" fn(
        Opaque,
        *const c_char,
        c_int,
        Option<unsafe extern "C" fn(*mut c_void)>,
    ),
    pub result_error: unsafe extern "C" fn(Opaque, *const c_char, c_int),
    pub result_error_code: unsafe extern "C" fn(Opaque, c_int),
    pub db_filename: unsafe extern "C" fn(Opaque, *const c_char) -> *const c_char,
    pub get_autocommit: unsafe extern "C" fn(Opaque) -> c_int,
    pub value_int64: unsafe extern "C" fn(Opaque) -> i64,
}

/// Between two looks at the database while waiting: a killed sidecar, an interrupted statement.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The SQLite libraries of this process that use the functions. A function is called with a context
/// of its library and nothing from which to tell which one that is: so each library gets bodies of
/// its own.
static HOSTS: [OnceLock<FunctionHost>; 4] = [const { OnceLock::new() }; 4];

/// Puts the three functions on a connection.
///
/// # Errors
/// SQLite's code; `SQLITE_ERROR` for a fifth SQLite library in one process.
///
/// # Safety
/// `db` is a connection of the library that the functions are of; that library stays loaded.
pub unsafe fn install(host: &FunctionHost, db: Opaque) -> Result<(), c_int> {
    let mine = |slot: &OnceLock<FunctionHost>| {
        slot.get_or_init(|| *host).create_function_v2 as usize == host.create_function_v2 as usize
    };
    let bodies = match HOSTS.iter().position(mine) {
        Some(0) => bodies::<0>(),
        Some(1) => bodies::<1>(),
        Some(2) => bodies::<2>(),
        Some(3) => bodies::<3>(),
        _ => return Err(ERROR),
    };
    for (name, arguments, body) in bodies {
        // Not from views or triggers: a wait inside a write would hold up what it waits for.
        let flags = UTF8 | DIRECTONLY;
        // SAFETY: the caller's promise.
        match unsafe {
            (host.create_function_v2)(
                db,
                name.as_ptr(),
                arguments,
                flags,
                ptr::null_mut(),
                Some(body),
                None,
                None,
                None,
            )
        } {
            OK => {}
            code => return Err(code),
        }
    }
    Ok(())
}

fn bodies<const SLOT: usize>() -> [(&'static CStr, c_int, Body); 3] {
    [
        (c"harmonylite_lag", 0, lag::<SLOT>),
        (c"harmonylite_wait", 1, wait::<SLOT>),
        (c"harmonylite_vfs_version", 0, version::<SLOT>),
    ]
}

/// One call: the host, the context, the connection.
struct Call {
    host: &'static FunctionHost,
    context: Opaque,
    db: Opaque,
}

/// A query that SQLite refused, with its code.
struct Refused(c_int);

impl Call {
    /// # Safety
    /// `context` is that of a function that [`install`] gave the library of this slot.
    unsafe fn of(slot: usize, context: Opaque) -> Option<Self> {
        let host = HOSTS.get(slot)?.get()?;
        // SAFETY: the caller's promise.
        Some(Self { host, context, db: unsafe { (host.context_db_handle)(context) } })
    }

    /// The first column of the first row. None: no row, NULL, or no integer.
    fn query(&self, sql: &CStr) -> Result<Option<i64>, Refused> {
        let mut statement = ptr::null_mut();
        // SAFETY: the connection is in the middle of a call of ours; the string is terminated.
        let code = unsafe {
            (self.host.prepare_v2)(self.db, sql.as_ptr(), -1, &raw mut statement, ptr::null_mut())
        };
        if code != OK {
            return Err(Refused(code));
        }
        // SAFETY: a statement just prepared, finalised once.
        unsafe {
            let found = (self.host.step)(statement) == ROW
                && (self.host.column_type)(statement, 0) == INTEGER;
            let value = found.then(|| (self.host.column_int64)(statement, 0));
            match (self.host.finalize)(statement) {
                OK => Ok(value),
                code => Err(Refused(code)),
            }
        }
    }

    /// The full name of the main database; None in memory.
    fn bell(&self) -> Option<Asked> {
        // SAFETY: a connection; the name is valid as long as it is open.
        let name = unsafe { (self.host.db_filename)(self.db, c"main".as_ptr()) };
        // SAFETY: a terminated string, or null.
        (!name.is_null())
            .then(|| unsafe { CStr::from_ptr(name) })
            .filter(|n| !n.is_empty())
            .and_then(Asked::open)
    }

    /// Whether this database is replicated at all.
    fn is_replicated(&self) -> Result<bool, Refused> {
        let sql = c"SELECT count(*) FROM main.sqlite_master WHERE name IN \
            ('__harmonylite__change_log', '__harmonylite__meta')";
        Ok(self.query(sql)? == Some(2))
    }

    fn site(&self) -> Result<i64, Refused> {
        Ok(self
            .query(c"SELECT value FROM main.__harmonylite__meta WHERE key = 'site'")?
            .unwrap_or(0))
    }

    /// The last change that left, as far as anybody knows, and the word to sleep on for more.
    fn published(&self, bell: Option<&Asked>, site: i64) -> Result<(i64, u32), Refused> {
        let stored = self
            .query(c"SELECT value FROM main.__harmonylite__meta WHERE key = 'published'")?
            .unwrap_or(0);
        let (word, said) = bell.map_or((0, None), Asked::progress);
        Ok((said.filter(|p| p.site == site).map_or(stored, |p| p.published.max(stored)), word))
    }

    fn lag(&self) -> Result<Option<i64>, Refused> {
        if !self.is_replicated()? {
            return Ok(None);
        }
        let bell = self.bell();
        let (published, _) = self.published(bell.as_ref(), self.site()?)?;
        let sql = format!(
            "SELECT CASE typeof(time) WHEN 'real' THEN CAST(time * 86400000 - 210866759999999.5 AS \
            INTEGER) ELSE time END FROM main.__harmonylite__change_log WHERE id > {published} \
            ORDER BY id LIMIT 1\0"
        );
        let sql = CStr::from_bytes_with_nul(sql.as_bytes()).map_err(|_| Refused(ERROR))?;
        let now_ms = (futex::now_ns() / 1_000_000).cast_signed();
        Ok(Some(self.query(sql)?.map_or(0, |time| now_ms.saturating_sub(time).max(0))))
    }

    /// Whether everything that this connection sees now has left within that time.
    fn wait(&self, timeout: Duration) -> Result<bool, Refused> {
        let end = futex::monotonic_ns()
            .saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        let mut goal: Option<(i64, i64)> = None;
        let mut bell = self.bell();
        loop {
            // Asked each time: the sidecar may make its tables while we wait.
            let mut word = 0;
            if self.is_replicated()? {
                let site = self.site()?;
                let (from, last) = match goal {
                    Some(goal) => goal,
                    None => (
                        site,
                        self.query(c"SELECT max(id) FROM main.__harmonylite__change_log")?
                            .unwrap_or(0),
                    ),
                };
                goal = Some((from, last));
                let (published, at) = self.published(bell.as_ref(), site)?;
                // Another life of the database counts its changes anew: then nobody can say.
                if site == from && published >= last {
                    return Ok(true);
                }
                word = at;
            }
            let now = futex::monotonic_ns();
            if now >= end {
                return Ok(false);
            }
            let nap = Duration::from_nanos(end - now).min(LOOK_AGAIN);
            match &bell {
                Some(bell) => bell.wait(word, nap),
                None => {
                    futex::pause(nap);
                    bell = self.bell();
                }
            }
        }
    }

    fn error(&self, text: &CStr) {
        // SAFETY: a terminated string, copied by SQLite.
        unsafe { (self.host.result_error)(self.context, text.as_ptr(), -1) };
    }

    fn answer(&self, answer: Result<Option<i64>, Refused>) {
        // SAFETY: the context of the present call.
        unsafe {
            match answer {
                Ok(Some(value)) => (self.host.result_int64)(self.context, value),
                Ok(None) => (self.host.result_null)(self.context),
                Err(Refused(code)) => (self.host.result_error_code)(self.context, code),
            }
        }
    }
}

unsafe extern "C" fn lag<const SLOT: usize>(context: Opaque, _: c_int, _: *mut Opaque) {
    guard((), || {
        // SAFETY: SQLite's own context.
        let Some(call) = (unsafe { Call::of(SLOT, context) }) else { return };
        call.answer(call.lag());
    });
}

unsafe extern "C" fn wait<const SLOT: usize>(context: Opaque, _: c_int, arguments: *mut Opaque) {
    guard((), || {
        // SAFETY: SQLite's own context.
        let Some(call) = (unsafe { Call::of(SLOT, context) }) else { return };
        // SAFETY: a connection.
        if unsafe { (call.host.get_autocommit)(call.db) } == 0 {
            return call.error(
                c"harmonylite_wait() inside a transaction would wait in vain: COMMIT first",
            );
        }
        // SAFETY: the function has one argument.
        let timeout_ms = unsafe { (call.host.value_int64)(*arguments) };
        call.answer(
            call.wait(Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)))
                .map(|done| Some(i64::from(done))),
        );
    });
}

unsafe extern "C" fn version<const SLOT: usize>(context: Opaque, _: c_int, _: *mut Opaque) {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    guard((), || {
        // SAFETY: SQLite's own context.
        let Some(call) = (unsafe { Call::of(SLOT, context) }) else { return };
        // SAFETY: a terminated string that lives for ever: no destructor.
        unsafe { (call.host.result_text)(context, TEXT.as_ptr().cast(), -1, None) };
    });
}
