"""Two nodes around one nats-server, for the applications of others.

Arrives: the path of a harmonylite binary. Leaves: running processes, ended by `close`. Each script
here uses an application as its users do, prints what it saw, and ends with status 1 if something
is not as docs/schema-changes.md says.
"""

import json
import os
import pathlib
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("HARMONYLITE_BINARY", str(ROOT / "target/release/harmonylite"))


class Failed(Exception):
    """Something is not as it should be."""


class Two:
    """Two nodes; their databases are `1/app.db` and `2/app.db` below `dir`, unless given."""

    def __init__(self, settings, database="app.db"):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="harmonylite-applications-"))
        self.processes = []
        self.database = database
        self.url = f"nats://127.0.0.1:{self._server()}"
        for node in (1, 2):
            (self.dir / str(node)).mkdir()
            text = f'db_path = "{self.db(node)}"\nnode_id = {node}\n{settings}\n'
            text += f'[nats]\nurls = ["{self.url}"]\n'
            self.config(node).write_text(text)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        if kind is None:
            shutil.rmtree(self.dir)
        else:
            print(f"logs and databases are in {self.dir}")

    def db(self, node):
        return self.dir / str(node) / self.database

    def config(self, node):
        return self.dir / f"{node}.toml"

    def start(self, command, log, env=None):
        out = open(self.dir / log, "w", encoding="utf-8")
        self.processes.append(
            subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env))

    def _server(self):
        finder = [str(ROOT / "scripts/nats-server.py")]
        server = subprocess.run(finder, check=True, capture_output=True, text=True).stdout.strip()
        port = free_port()
        self.start([server, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", f"{self.dir}/js"],
                   "nats.log")
        return port

    def run_sidecars(self):
        for node in (1, 2):
            self.start([BINARY, "-config", str(self.config(node))], f"sidecar-{node}.log")
        for node in (1, 2):
            until(f"node {node} has joined", lambda: self.status(node).get("joined"))

    def status(self, node):
        command = [BINARY, "status", "--json", "-config", str(self.config(node))]
        shown = json.loads(subprocess.run(command, capture_output=True, text=True).stdout or "{}")
        return shown if shown.get("running") else {}

    def open(self, node):
        return sqlite3.connect(self.db(node), timeout=20, isolation_level=None)

    def local_only(self):
        """The tables that a node keeps to itself."""
        return {name for name, _ in self.status(1)["skipped"]}

    def schema(self, node):
        """The application's tables and their columns, and the names of its indexes."""
        db = self.open(node)
        columns = db.execute(
            "SELECT m.name, c.name, c.\"notnull\" FROM sqlite_schema AS m, "
            "pragma_table_info(m.name) AS c WHERE m.type = 'table' AND "
            "substr(m.name, 1, 15) <> '__harmonylite__' ORDER BY 1, 2").fetchall()
        indexes = db.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT "
                             "NULL AND substr(name, 1, 15) <> '__harmonylite__' ORDER BY 1")
        return json.dumps([columns, indexes.fetchall()])

    def contents(self, node):
        """Every table of the application with its columns and rows."""
        db = self.open(node)
        names = [name for (name,) in db.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, 15) <> "
            "'__harmonylite__' AND substr(name, 1, 7) <> 'sqlite_'")]
        found = {}
        for name in names:
            quoted = '"' + name.replace('"', '""') + '"'
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({quoted})")]
            rows = [dict(zip(columns, row)) for row in db.execute(f"SELECT * FROM {quoted}")]
            found[name] = sorted(json.dumps(row, sort_keys=True, default=str) for row in rows)
        return found

    def end_equal(self, but=()):
        def differing():
            one, two = self.contents(1), self.contents(2)
            return [name for name in sorted({*one, *two}) if one.get(name) != two.get(name)
                    and name not in but]

        until("both databases are equal", lambda: not differing(), 60, differing)
        def complaints():
            keys = ("degraded", "held", "quarantine")
            found = [(node, key, self.status(node).get(key)) for node in (1, 2) for key in keys]
            return [each for each in found if each[2] or each[2] is None]

        until("both nodes are healthy", lambda: not complaints(), 60, complaints)
        return {name: len(rows) for name, rows in self.contents(1).items()}


class Client:
    """Asks a serving application. Answers are JSON."""

    def __init__(self, url):
        self.url, self.token = url, ""

    def ask(self, method, path, body=None):
        request = urllib.request.Request(
            self.url + path, method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": self.token})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or "null")
        except OSError as error:
            return 0, str(error)

    def must(self, method, path, body=None):
        status, answer = self.ask(method, path, body)
        if not 200 <= status < 300:
            raise Failed(f"{method} {path}: {status} {answer}")
        return answer


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(what, holds, seconds=30, detail=lambda: ""):
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise Failed(f"{what}: not after {seconds} s {detail()}")
        time.sleep(0.05)
    print(f"  {what}: {time.monotonic() - started:.2f} s")
