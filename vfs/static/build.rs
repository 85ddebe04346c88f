//! Tells tests/abi.rs where the header of the bundled SQLite is.

fn main() {
    let include = std::env::var("DEP_SQLITE3_INCLUDE").unwrap_or_default();
    println!("cargo:rustc-env=SQLITE_INCLUDE={include}");
    println!("cargo:rerun-if-changed=build.rs");
}
