#!/usr/bin/env python3
"""Runs SQLite's own TCL tests with the harmonylite VFS as the default one, and without it.

    tests/sqlite-suite/run.py [--seconds N] [name ...]      for example: run.py wal wal2 pager1

The tests come with the sources of Debian's package sqlite3 (apt-get source); their program,
testfixture, is built with a hook that loads the extension before any test opens anything. Each test
file runs in a directory of its own, with a bell beside test.db, so that its commits ring. A file in
which something fails is run again without the VFS: only a difference counts. Some tests fail either
way, as root or without a feature. KNOWN says what must differ and why.
"""
import argparse
import glob
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORK = os.path.join(tempfile.gettempdir(), f"harmonylite-sqlite-suite-{os.getuid()}")
EXTENSION = os.path.join(ROOT, "target", "release", "libharmonylite_vfs.so")

# What has to do with files, locks, journals and the WAL. (The SQL language above it does not know
# what a VFS is.)
ABOUT = re.compile(
    r"(wal|lock|pager|journal|jrnlmode|vacuum|mmap|exclusive|savepoint|attach|trans|superlock|"
    r"backup|io|incrvacuum|autovacuum|uri|vfs|readonly|nolock|immutable|temp|rollback|insert|"
    r"update|delete|memdb|snapshot|sync|shmlock|filectrl|unixexcl|fallocate|dbstatus|corrupt|"
    r"oserror|shared|shrink|stat|syscall|symlink|zerodamage|8_3_names|chunksize|close|cursor|"
    r"conflict)"
)
LONG = re.compile(
    r"fault|crash|slow|thread|stress|malloc|soak|big|wal_common|permutations|fuzz|ioerr"
)
KNOWN = {
    "dbstatus.test": "counts bytes of memory: our part of a file object is 288 bytes",
}

HOOK = r"""
/* HarmonyLite: the VFS as the default one, before any test opens anything. */
int harmony_init(const char *unused){
  const char *z = getenv("HARMONY_EXT");
  sqlite3 *db = 0; char *zErr = 0; int rc;
  (void)unused;
  if( z==0 ) return SQLITE_OK;
  rc = sqlite3_open(":memory:", &db);
  if( rc==SQLITE_OK ) rc = sqlite3_enable_load_extension(db, 1);
  if( rc==SQLITE_OK ){
    rc = sqlite3_load_extension(db, z, "sqlite3_harmonylite_vfs_default_init", &zErr);
  }
  if( rc ) fprintf(stderr, "harmony: %d %s\n", rc, zErr ? zErr : "");
  sqlite3_close(db);
  return rc;
}
"""


def build():
    """The directory of SQLite's sources, with testfixture built in it."""
    found = glob.glob(os.path.join(WORK, "sqlite3-*", "testfixture"))
    if found:
        return os.path.dirname(found[0])
    os.makedirs(os.path.join(WORK, "lists", "partial"), exist_ok=True)
    os.makedirs(os.path.join(WORK, "parts"), exist_ok=True)
    silent = subprocess.DEVNULL
    quiet = {"check": True, "stdout": silent, "stderr": silent, "cwd": WORK}
    with open("/etc/os-release") as file:
        release = dict(line.rstrip().replace('"', "").split("=", 1) for line in file if "=" in line)
    with open(os.path.join(WORK, "parts", "source.list"), "w") as file:
        file.write(f"deb-src http://deb.debian.org/debian {release['VERSION_CODENAME']} main\n")
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    install = [*sudo, "apt-get", "install", "-y", "--no-install-recommends"]
    subprocess.run([*install, "tcl-dev", "zlib1g-dev", "make", "gcc", "libc6-dev"], **quiet)
    apt = [
        "apt-get",
        "-oDir::Etc::sourcelist=/dev/null",
        f"-oDir::Etc::sourceparts={WORK}/parts",
        f"-oDir::State::lists={WORK}/lists",
        f"-oDir::Cache={WORK}",
    ]
    subprocess.run([*apt, "update"], **quiet)
    subprocess.run([*apt, "source", "--download-only", "sqlite3"], **quiet)
    archive = next(path for path in glob.glob(os.path.join(WORK, "*.orig.tar.*")))
    subprocess.run(["tar", "xf", archive], **quiet)
    source = glob.glob(os.path.join(WORK, "sqlite3-*", ""))[0].rstrip("/")
    with open(os.path.join(source, "src", "tclsqlite.c"), "a") as file:
        file.write(HOOK)
    quiet["cwd"] = source
    subprocess.run(["./configure"], **quiet)
    options = ["CFLAGS=-O1", "OPTS=-DSQLITE_EXTRA_INIT=harmony_init"]
    subprocess.run(["make", "testfixture", *options], **quiet)
    return source


def run(source, name, with_vfs):
    """What the file's run came to, the tests that failed, and how often the bell rang."""
    directory = os.path.join(WORK, "run", name)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(os.path.join(directory, "testdir"))
    bell = os.path.join(directory, "testdir", "test.db-harmonylite-bell")
    env = dict(os.environ)
    if with_vfs:
        env["HARMONY_EXT"] = EXTENSION
        with open(bell, "wb") as file:
            file.write((b"harmonylite bell" + struct.pack("III", 1, 4096, 64)).ljust(4096, b"\0"))
    command = [os.path.join(source, "testfixture"), os.path.join(source, "test", name)]
    try:
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=directory, env=env, timeout=120, **output)
    except subprocess.TimeoutExpired:
        return "took too long", "", 0
    said = done.stdout.decode("latin1")
    summary = re.search(r"\d+ errors out of \d+ tests", said)
    failed = re.search(r"!Failures on these tests: (.*)", said)
    rings = 0
    if os.path.exists(bell):
        with open(bell, "rb") as file:
            rings = struct.unpack_from("Q", file.read(), 72)[0]
    came_to = summary.group(0) if summary else f"ended with {done.returncode}"
    return came_to, failed.group(1) if failed else "", rings


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=3600, help="start no more after so long")
    parser.add_argument("names", nargs="*")
    wanted = parser.parse_args()
    cargo = ["cargo", "build", "--quiet", "--release", "-p", "harmonylite-vfs-ext"]
    subprocess.run(cargo, cwd=ROOT, check=True)
    source = build()
    paths = glob.glob(os.path.join(source, "test", "*.test"))
    files = sorted(os.path.basename(path) for path in paths)
    about = [name for name in files if ABOUT.match(name) and not LONG.search(name)]
    names = [f"{name}.test" for name in wanted.names] or about
    end = time.monotonic() + wanted.seconds
    ran = tests = rings = different = 0
    for name in names:
        if time.monotonic() > end:
            break
        ours = run(source, name, True)
        ran += 1
        rings += ours[2]
        tests += int(re.search(r"out of (\d+)|$", ours[0]).group(1) or 0)
        if ours[0].startswith("0 errors"):
            continue
        plain = run(source, name, False)
        if ours[:2] == plain[:2]:
            print(f"{name}: the same without the VFS: {ours[0]} {ours[1]}", flush=True)
        elif name in KNOWN:
            print(f"{name}: differs as it must: {KNOWN[name]}", flush=True)
        else:
            different += 1
            ours, plain = (f"{run[0]} {run[1]}" for run in (ours, plain))
            print(f"{name}: DIFFERENT: {ours}; without the VFS {plain}", flush=True)
    print(f"{ran} of {len(names)} files, {tests} tests, {rings} rings; {different} files differ")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
