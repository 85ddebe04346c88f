//! Goal: the loadable extension works in programs that know nothing of it, beside the Rust side and
//! beside other SQLite libraries. Method: the sqlite3 shell and Debian's python3 load it and
//! commit; this test holds the bell.

#![allow(clippy::unwrap_used, clippy::missing_transmute_annotations, missing_docs)] // a test may

use harmonylite_vfs::bell::{Bell, Commit};
use rusqlite::{Connection, ffi};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Cargo builds no cdylib for a test, so we ask for it: whatever was built before may be old.
fn extension() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let profile =
            std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let name = if profile.ends_with("debug") {
            "dev"
        } else {
            profile.file_name().unwrap().to_str().unwrap()
        };
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "harmonylite-vfs-ext", "--profile", name])
            .status()
            .unwrap();
        assert!(built.success());
        profile.join("libharmonylite_vfs.so")
    };
    BUILT.get_or_init(build).clone()
}

fn fixture() -> (tempfile::TempDir, PathBuf, Bell) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
        .unwrap();
    let bell = Bell::open_or_create(&path).unwrap();
    (directory, path, bell)
}

fn shell(environment: &[(&str, &str)], arguments: &[&str]) -> String {
    let out = Command::new("sqlite3")
        .arg("-batch")
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    said
}

#[test]
fn it_links_no_sqlite() {
    let out =
        Command::new("nm").args(["-D", "--undefined-only"]).arg(extension()).output().unwrap();
    let undefined = String::from_utf8(out.stdout).unwrap();
    assert!(undefined.contains("mmap"), "{undefined}");
    assert!(!undefined.contains("sqlite3"), "{undefined}");
    let out = Command::new("nm").args(["-D", "--defined-only"]).arg(extension()).output().unwrap();
    let mut defined: Vec<String> = String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(|l| l.rsplit(' ').next().unwrap().to_owned())
        .collect();
    defined.sort();
    assert_eq!(defined, ["sqlite3_harmonylite_vfs_default_init", "sqlite3_harmonylitevfs_init"]);
}

#[test]
fn the_shell_names_the_vfs() {
    let (_directory, path, bell) = fixture();
    let load = format!(".load {}", extension().display());
    let open = format!(".open file:{}?vfs=harmonylite", path.display());
    let said = shell(
        &[],
        &[
            ":memory:",
            &load,
            &open,
            ".vfsname",
            "INSERT INTO t VALUES (1); SELECT harmonylite_vfs_version(), harmonylite_lag()",
        ],
    );
    assert_eq!(said, format!("harmonylite/unix\n{}|\n", harmonylite_vfs::VERSION));
    let mut commits = Vec::new();
    bell.recent(0, &mut commits);
    assert!(matches!(*commits, [Commit { pages: 1, .. }]), "{commits:?}");
}

#[test]
fn the_shell_takes_it_as_the_default() {
    let (_directory, path, bell) = fixture();
    let file = extension().display().to_string();
    let open = format!(".open {}", path.display());
    let write = "INSERT INTO t VALUES (1)";
    shell(
        &[("HARMONYLITE_VFS_DEFAULT", "1")],
        &[":memory:", &format!(".load {file}"), &open, write],
    );
    assert_eq!(bell.rings(), 1);
    shell(
        &[],
        &[":memory:", &format!(".load {file} sqlite3_harmonylite_vfs_default_init"), &open, write],
    );
    assert_eq!(bell.rings(), 2);
    shell(
        &[("HARMONYLITE_VFS_DEFAULT", "0")],
        &[":memory:", &format!(".load {file}"), &open, write],
    );
    assert_eq!(bell.rings(), 2);
}

#[test]
fn debians_python() {
    let (_directory, path, bell) = fixture();
    let program = r#"
import os, sqlite3, sys
extension, path = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
loader.load_extension(extension)
loader.close()
db = sqlite3.connect(f"file:{path}?vfs=harmonylite", uri=True)
db.execute("INSERT INTO t VALUES (1)")
db.commit()
print(db.execute("SELECT harmonylite_vfs_version()").fetchone()[0])
# A child that opens its own connection; and one that only inherits ours and goes.
for child in range(2):
    if os.fork() == 0:
        if child == 0:
            own = sqlite3.connect(f"file:{path}?vfs=harmonylite", uri=True)
            own.execute("INSERT INTO t VALUES (2)")
            own.commit()
        os._exit(0)
    os.wait()
db.execute("INSERT INTO t VALUES (3)")
db.commit()
print(db.execute("SELECT count(*) FROM t").fetchone()[0])
"#;
    let out = Command::new("/usr/bin/python3")
        .args(["-c", program])
        .arg(extension())
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    assert_eq!(String::from_utf8_lossy(&out.stdout), format!("{}\n3\n", harmonylite_vfs::VERSION));
    assert_eq!(bell.rings(), 3);
}

/// A SQLite library by its five functions that this test needs.
struct Library {
    open: unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int,
    exec: unsafe extern "C" fn(
        *mut c_void,
        *const c_char,
        *const c_void,
        *mut c_void,
        *mut *mut c_char,
    ) -> c_int,
    enable: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    load:
        unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, *mut *mut c_char) -> c_int,
    close: unsafe extern "C" fn(*mut c_void) -> c_int,
}

impl Library {
    fn bundled() -> Self {
        // SAFETY: the same functions; sqlite3 is opaque.
        unsafe {
            Self {
                open: std::mem::transmute::<*const (), _>(ffi::sqlite3_open as *const ()),
                exec: std::mem::transmute::<*const (), _>(ffi::sqlite3_exec as *const ()),
                enable: std::mem::transmute::<*const (), _>(
                    ffi::sqlite3_enable_load_extension as *const (),
                ),
                load: std::mem::transmute::<*const (), _>(ffi::sqlite3_load_extension as *const ()),
                close: std::mem::transmute::<*const (), _>(ffi::sqlite3_close as *const ()),
            }
        }
    }

    /// The system's (or the one that HARMONYLITE_TEST_SQLITE names), in this same process.
    fn of_the_system() -> Self {
        // SAFETY: a library and the functions that it has by these names, with these types.
        unsafe {
            let name = CString::new(
                std::env::var("HARMONYLITE_TEST_SQLITE").unwrap_or("libsqlite3.so.0".into()),
            )
            .unwrap();
            let library = libc::dlopen(
                name.as_ptr(),
                libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_DEEPBIND,
            );
            assert!(!library.is_null());
            let function = |name: &CStr| {
                let function = libc::dlsym(library, name.as_ptr());
                assert!(!function.is_null());
                function
            };
            Self {
                open: std::mem::transmute::<*mut c_void, _>(function(c"sqlite3_open")),
                exec: std::mem::transmute::<*mut c_void, _>(function(c"sqlite3_exec")),
                enable: std::mem::transmute::<*mut c_void, _>(function(
                    c"sqlite3_enable_load_extension",
                )),
                load: std::mem::transmute::<*mut c_void, _>(function(c"sqlite3_load_extension")),
                close: std::mem::transmute::<*mut c_void, _>(function(c"sqlite3_close")),
            }
        }
    }

    fn open(&self, name: &Path) -> *mut c_void {
        let name = CString::new(name.to_str().unwrap()).unwrap();
        let mut db = std::ptr::null_mut();
        // SAFETY: a terminated name, a place for the connection.
        assert_eq!(unsafe { (self.open)(name.as_ptr(), &raw mut db) }, 0);
        db
    }

    fn execute(&self, db: *mut c_void, sql: &CStr) -> c_int {
        // SAFETY: an open connection.
        unsafe {
            (self.exec)(
                db,
                sql.as_ptr(),
                std::ptr::null(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        }
    }

    /// Loads the extension as the default VFS, then inserts a row through a connection opened
    /// thereafter.
    fn load_and_insert(&self, path: &Path) {
        let loader = self.open(Path::new(":memory:"));
        let extension = CString::new(extension().to_str().unwrap()).unwrap();
        // SAFETY: open connections, terminated names.
        unsafe {
            assert_eq!((self.enable)(loader, 1), 0);
            for _ in 0..2 {
                let entry = c"sqlite3_harmonylite_vfs_default_init";
                assert_eq!(
                    (self.load)(loader, extension.as_ptr(), entry.as_ptr(), std::ptr::null_mut()),
                    0
                );
            }
            assert_eq!((self.close)(loader), 0);
        }
        let db = self.open(path);
        assert_eq!(
            self.execute(
                db,
                c"INSERT INTO t VALUES (1); SELECT harmonylite_lag(), harmonylite_vfs_version()"
            ),
            0
        );
        // SAFETY: closed once.
        assert_eq!(unsafe { (self.close)(db) }, 0);
    }
}

#[test]
fn two_sqlite_libraries_and_the_rust_side_in_one_process() {
    // Different databases: two libraries on one file would undo each other's POSIX locks, with or
    // without us.
    let (_a, path_a, bell_a) = fixture();
    let (_b, path_b, bell_b) = fixture();
    harmonylite_vfs::register().unwrap();
    Library::of_the_system().load_and_insert(&path_b);
    assert_eq!((bell_a.rings(), bell_b.rings()), (0, 1));
    Library::bundled().load_and_insert(&path_a);
    assert_eq!((bell_a.rings(), bell_b.rings()), (1, 1));
    harmonylite_vfs::register_default().unwrap();
    harmonylite_vfs::open(&path_a).unwrap().execute_batch("INSERT INTO t VALUES (2)").unwrap();
    Library::of_the_system().load_and_insert(&path_b);
    assert_eq!((bell_a.rings(), bell_b.rings()), (2, 2), "each commit rang once");
}
