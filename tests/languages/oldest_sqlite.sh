#!/bin/sh
# Loads the extension into SQLite 3.24.0, the oldest that it is made for: built from the sources in
# an old libsqlite3-sys.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
: > "$work/src/lib.rs"
cat > "$work/Cargo.toml" <<END
[package]
name = "oldest"
version = "0.0.0"
edition = "2021"
[dependencies]
libsqlite3-sys = "=0.9.3"
[workspace]
END
(cd "$work" && cargo fetch --quiet)
registry="${CARGO_HOME:-$HOME/.cargo}/registry/src"
source=$(find "$registry" -path '*/libsqlite3-sys-0.9.3/sqlite3/sqlite3.c' | head -n 1)
cc -shared -fPIC -O1 "$source" -o "$work/libsqlite3-3.24.so" -ldl -lpthread -lm
cd "$root"
export HARMONYLITE_TEST_SQLITE="$work/libsqlite3-3.24.so"
cargo test --quiet -p harmonylite-vfs-ext --test extension two_sqlite
