#!/usr/bin/env python3
"""Measures what one large transaction costs: the memory of both nodes, and the peer's write lock.

    scripts/large_transaction.py BINARY 1000000 integer     # rows of 160 bytes, integer keys
    scripts/large_transaction.py BINARY 1000000 uuid        # the same with UUID keys
    scripts/large_transaction.py BINARY 400 big             # one value of 400 MB
    scripts/large_transaction.py BINARY 400 conflict        # two such values in conflict

Two nodes and one nats-server (`.tools/nats-server`, or HARMONYLITE_NATS_SERVER). Prints RssAnon
beyond that of the idle nodes, and for rows the longest time without the peer's write lock as a
multiple of the same upserts without us."""

import os
import pathlib
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
NATS = os.environ.get("HARMONYLITE_NATS_SERVER", ROOT / ".tools" / "nats-server")
SECONDS_MAX = 600
COUNT = "SELECT count(*) FROM t"
UPSERT = ("INSERT INTO t VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET a = excluded.a, "
          "b = excluded.b, c = excluded.c")


def table(mode):
    return f"CREATE TABLE t (id {'TEXT' if mode == 'uuid' else 'INTEGER'} PRIMARY KEY, a, b, c)"


def row(mode, i):
    chance = random.Random(i)
    key = str(uuid.UUID(int=chance.getrandbits(128))) if mode == "uuid" else i
    text = f"{chance.getrandbits(128):032x}" * 2 + "words that repeat in each row, as texts do " * 2
    return key, text, i, i / 7


def memory(process):
    """RssAnon in MB."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    sys.exit("large_transaction.py: no RssAnon in /proc")


def wait(what, directory):
    end = time.monotonic() + SECONDS_MAX
    while not what():
        if time.monotonic() > end:
            logs = [log.read_text()[-1500:] for log in sorted(directory.glob("?.log"))]
            sys.exit(f"{sys.argv[0]}: nothing after {SECONDS_MAX} s\n" + "\n".join(logs))
        time.sleep(0.02)


class Watch:
    """The greatest memory of the nodes, and the longest time without the peer's write lock."""

    def __init__(self, nodes, peer):
        self.nodes, self.peer, self.going = nodes, peer, True
        self.most, self.longest = [0.0 for _ in nodes], 0.0
        self.threads = [threading.Thread(target=t) for t in (self.memory, self.lock)]
        for thread in self.threads:
            thread.start()

    def memory(self):
        while self.going:
            self.most = [max(m, memory(n)) for m, n in zip(self.most, self.nodes)]
            time.sleep(0.01)

    def lock(self):
        db = sqlite3.connect(self.peer, timeout=0, isolation_level=None)
        last = time.monotonic()
        while self.going:
            try:
                db.execute("BEGIN IMMEDIATE")
                db.execute("ROLLBACK")
                now = time.monotonic()
                self.longest, last = max(self.longest, now - last), now
            except sqlite3.OperationalError:
                pass
            time.sleep(0.002)

    def end(self):
        self.going = False
        for thread in self.threads:
            thread.join()


def start_broker(directory, running):
    """Adds a broker to the running processes, and returns its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = [NATS, "-js", "-a", "127.0.0.1", "-sd", directory / "js", "-p", str(port)]
    running.append(subprocess.Popen(server, stderr=subprocess.DEVNULL))
    return port


def start_node(binary, directory, n, port, running):
    """Adds a node to the running processes."""
    config = directory / f"{n}.toml"
    config.write_text(f'db_path = "{directory / f"{n}.db"}"\nnode_id = {n}\n[nats]\n'
                      f'urls = ["nats://127.0.0.1:{port}"]\n')
    with open(directory / f"{n}.log", "w", encoding="utf-8") as log:
        running.append(subprocess.Popen([binary, "-config", config], stdout=log, stderr=log))


def start(binary, directory, schema, running):
    """Adds a broker and two nodes to the running processes."""
    port = start_broker(directory, running)
    for n in (1, 2):
        db = sqlite3.connect(directory / f"{n}.db")
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(schema)
        db.close()
        start_node(binary, directory, n, port, running)


def databases(directory):
    """Connections to both, once the triggers are there."""
    dbs = [sqlite3.connect(directory / f"{n}.db", timeout=60, isolation_level=None)
           for n in (1, 2)]
    triggers = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 't'"
    wait(lambda: all(db.execute(triggers).fetchone()[0] for db in dbs), directory)
    return dbs


def is_written(db):
    """Whether the node has written its bookkeeping: the log keeps its last entry."""
    return db.execute("SELECT count(*) FROM __harmonylite__change_log").fetchone()[0] <= 1


def write(mode, amount, dbs, server):
    """Writes, and returns what is to arrive: a function that tells whether it has."""
    one, two = dbs
    if mode == "big":
        one.execute("INSERT INTO t VALUES (1, ?, 1, 1)", (os.urandom(amount << 20),))
        return lambda: two.execute(COUNT).fetchone()[0] == 2
    if mode == "conflict":
        server.send_signal(signal.SIGSTOP)
        for i, db in enumerate(dbs):
            db.execute("INSERT INTO t VALUES (1, ?, ?, 1)", (os.urandom(amount << 20), i))
        server.send_signal(signal.SIGCONT)
        losses = "SELECT count(*) FROM __harmonylite__conflict"
        winner = "SELECT b FROM t WHERE id = 1"
        return lambda: (len({db.execute(winner).fetchone()[0] for db in dbs}) == 1
                        and any(db.execute(losses).fetchone()[0] for db in dbs))
    one.execute("BEGIN IMMEDIATE")
    one.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", (row(mode, i) for i in range(amount)))
    one.execute("COMMIT")
    return lambda: two.execute(COUNT).fetchone()[0] == amount + 1


def raw(directory, mode, amount):
    """The seconds that the same upserts take without us."""
    db = sqlite3.connect(directory / "raw.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(table(mode))
    rows = [row(mode, i) for i in range(amount)]
    begin = time.monotonic()
    db.execute("BEGIN IMMEDIATE")
    db.executemany(UPSERT, rows)
    db.execute("COMMIT")
    return time.monotonic() - begin


def measure(binary, amount, mode, directory, running):
    start(binary, directory, table(mode), running)
    server, *nodes = running
    dbs = databases(directory)
    dbs[0].execute("INSERT INTO t VALUES (?, 0, 0, 0)", ("first" if mode == "uuid" else -1,))
    wait(lambda: dbs[1].execute(COUNT).fetchone()[0] == 1, directory)
    wait(lambda: is_written(dbs[0]), directory)
    idle = [memory(node) for node in nodes]
    watch = Watch(nodes, directory / "2.db")
    try:
        arrived = write(mode, amount, dbs, server)
        wait(arrived, directory)
        wait(lambda: is_written(dbs[0]), directory)
    finally:
        watch.end()
    for name, before, most, node in zip(("origin", "peer"), idle, watch.most, nodes):
        print(f"{name}: idle {before:.0f} MB, at most {most - before:.0f} MB more, afterwards "
              f"{memory(node) - before:.0f} MB more")
    if mode in ("integer", "uuid"):
        seconds = raw(directory, mode, amount)
        print(f"write lock at the peer: {watch.longest:.2f} s, {watch.longest / seconds:.2f} of "
              f"the same upserts without us")


def main():
    if len(sys.argv) != 4 or sys.argv[3] not in ("integer", "uuid", "big", "conflict"):
        sys.exit(__doc__)
    binary, amount, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    running = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            measure(binary, amount, mode, pathlib.Path(directory), running)
        finally:
            for process in running:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
