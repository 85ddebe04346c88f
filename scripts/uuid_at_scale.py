#!/usr/bin/env python3
"""What rows with UUID keys cost in a large table.

    scripts/uuid_at_scale.py BINARY [ROWS]

Fills a table with a UUID key and one secondary index up to ROWS (a million) in transactions of
1,000, on one of two nodes. Prints the rows a second that arrive at the other, and the CPU of each
process in microseconds a row, also as multiple of the same inserts without us."""

import os
import pathlib
import random
import sqlite3
import sys
import tempfile
import time
import uuid

from large_transaction import databases, is_written, start, wait

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY, owner INTEGER, a TEXT); CREATE INDEX o ON t (owner)"
BODY = "what somebody wrote on a rainy afternoon, and nobody has read since that day"


def fill(db, chance, rows):
    """Inserts rows, and returns the seconds of CPU that SQLite took."""
    seconds = 0
    for _ in range(rows // 1000):
        new = [(str(uuid.UUID(int=chance.getrandbits(128), version=4)), chance.getrandbits(20),
                BODY) for _ in range(1000)]
        begin = time.process_time()
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", new)
        db.execute("COMMIT")
        seconds += time.process_time() - begin
    return seconds


def cpu(process):
    """The seconds of CPU of a process."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def without(directory, steps):
    db = sqlite3.connect(directory / "plain.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(SCHEMA)
    chance = random.Random(1)
    return [fill(db, chance, upto - at) for at, upto in steps]


def measure(binary, directory, steps, running):
    plain = without(directory, steps)
    start(binary, directory, SCHEMA, running)
    one, two = databases(directory)
    chance = random.Random(1)
    for (at, upto), alone in zip(steps, plain):
        rows, before, begin = upto - at, [cpu(p) for p in running], time.monotonic()
        own = fill(one, chance, rows)
        wait(lambda: two.execute("SELECT max(rowid) FROM t").fetchone()[0] == upto, directory)
        seconds = time.monotonic() - begin
        wait(lambda: is_written(one), directory)
        spent = [own] + [cpu(p) - b for p, b in zip(running, before)]
        named = zip(("application", "broker", "origin", "peer"), spent)
        print(f"to {upto:,}: {rows / seconds:,.0f} rows/s; alone {alone / rows * 1e6:.0f} us; "
              + "; ".join(f"{name} {s / rows * 1e6:.0f} ({s / alone:.2f})" for name, s in named),
              flush=True)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    most = int(sys.argv[2]) if len(sys.argv) == 3 else 1_000_000
    steps = [(0, most // 10), (most // 10, most // 2), (most // 2, most)]
    running = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            measure(sys.argv[1], pathlib.Path(directory), steps, running)
        finally:
            for process in running:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
