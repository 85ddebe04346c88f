#!/usr/bin/env python3
"""Runs the lines of docs/vfs-*.md as a newcomer would; checks the output, and the bell's rings.

    tests/languages/run.py [page ...]      for example: run.py python node

In a page, a block ```sh is run, a block ```anything file=NAME is written to NAME, a block ```text
is what the last ```sh must have printed. Each page gets a directory of its own in /tmp, which keeps
what npm and cargo downloaded. Beside it, the example `ring` holds the bell in the place of a
sidecar: each commit must ring it.
"""
import glob
import os
import re
import signal
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Outside of the clone: cargo would take a package inside for a member of our workspace.
WORK = os.path.join(tempfile.gettempdir(), f"harmonylite-languages-{os.getuid()}")
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.M | re.S)
# What a page needs of the machine: a command that proves it, and the packages that bring it.
NEEDS = {
    "shell": ("sqlite3 --version", ["sqlite3"]),
    "python": ("/usr/bin/python3 -c 'import sqlite3'", ["python3"]),
    "node": ("node --version && npm --version", ["nodejs", "npm"]),
    "go": ("go version && cc --version", ["golang", "gcc", "libc6-dev"]),
    "php": (
        "php -r 'new SQLite3(\":memory:\"); new PDO(\"sqlite::memory:\");'",
        ["php-cli", "php-sqlite3"],
    ),
    "rust": ("cargo --version", []),
}


def succeeds(command):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run(["bash", "-c", command], **quiet).returncode == 0


def provide(page):
    command, packages = NEEDS[page]
    if succeeds(command):
        return
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    install = [*sudo, "apt-get", "install", "-y", "--no-install-recommends", *packages]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    if not succeeds(command):
        sys.exit(f"{page}: needs {' '.join(packages)}, and they could not be installed")


def clean(directory):
    """Leaves downloads and builds, nothing else."""
    kept = ("node_modules", "package.json", "package-lock.json", "target", "Cargo.lock")
    os.makedirs(directory, exist_ok=True)
    for name in os.listdir(directory):
        if name not in kept:
            subprocess.run(["rm", "-rf", os.path.join(directory, name)], check=True)


def run(page):
    provide(page)
    directory = os.path.join(WORK, page)
    clean(directory)
    database = os.path.join(directory, "app.db")
    # As a sidecar does: WAL mode, and a bell.
    prepare = ["sqlite3", database, "PRAGMA journal_mode = WAL; VACUUM"]
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
    ring = subprocess.Popen([RING, database], stdout=subprocess.PIPE, text=True)
    ring.stdout.readline()
    printed = None
    try:
        with open(os.path.join(ROOT, "docs", f"vfs-{page}.md")) as file:
            text = file.read()
        for kind, name, body in BLOCK.findall(text):
            if name:
                path = os.path.join(directory, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w") as file:
                    file.write(body)
            elif kind == "sh":
                env = {**os.environ, "HARMONYLITE": ROOT}
                script = ["bash", "-euc", body]
                done = subprocess.run(
                    script, cwd=directory, env=env, stdout=subprocess.PIPE, text=True
                )
                if done.returncode != 0:
                    sys.exit(f"{page}: failed:\n{body}")
                printed = done.stdout
            elif kind == "text" and printed != body:
                sys.exit(f"{page}: the page says\n{body}\nbut this was printed:\n{printed}")
        # CREATE TABLE and INSERT: two commits, each with its ring.
        signal.alarm(10)  # ends us if they do not come
        rung = [ring.stdout.readline() for _ in range(2)]
    finally:
        signal.alarm(0)
        ring.kill()
        ring.wait()
    print(f"{page}: ok ({', '.join(line.strip() for line in rung)}, ...)", flush=True)


if __name__ == "__main__":
    cargo = ["cargo", "build", "--quiet"]
    subprocess.run([*cargo, "--release", "-p", "harmonylite-vfs-ext"], cwd=ROOT, check=True)
    subprocess.run([*cargo, "-p", "harmonylite-vfs", "--example", "ring"], cwd=ROOT, check=True)
    RING = os.path.join(ROOT, "target", "debug", "examples", "ring")
    documents = glob.glob(os.path.join(ROOT, "docs", "vfs-*.md"))
    every = sorted(re.search(r"vfs-(\w+)\.md", path).group(1) for path in documents)
    for page in sys.argv[1:] or every:
        run(page)
