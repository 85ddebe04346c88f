#!/bin/sh
# Loads the extension into SQLite 3.24.0, the oldest that it is made for: built from the sources in an old libsqlite3-sys.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
: > "$work/src/lib.rs"
printf '[package]\nname = "oldest"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nlibsqlite3-sys = "=0.9.3"\n[workspace]\n' > "$work/Cargo.toml"
(cd "$work" && cargo fetch --quiet)
source=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -path '*/libsqlite3-sys-0.9.3/sqlite3/sqlite3.c' | head -n 1)
cc -shared -fPIC -O1 "$source" -o "$work/libsqlite3-3.24.so" -ldl -lpthread -lm
cd "$root"
HARMONYLITE_TEST_SQLITE="$work/libsqlite3-3.24.so" cargo test --quiet -p harmonylite-vfs-ext --test extension two_sqlite
