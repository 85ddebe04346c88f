#!/usr/bin/env python3
"""What a database with many tables costs: the first start, and each connection after it.

    scripts/many_tables.py BINARY 5000          # nobody else has the database open
    scripts/many_tables.py BINARY 5000 busy     # an application writes all the time

Prints the seconds until the node has joined; how long a connection of Python's SQLite takes to its
first SELECT, without our triggers and with them; and, if busy, the longest time that the
application waited for the write lock."""

import pathlib
import sqlite3
import statistics
import sys
import tempfile
import threading
import time

from large_transaction import start_broker, start_node, wait


def create(path, tables):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN")
    for i in range(tables):
        db.execute(f"CREATE TABLE t{i} (id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c REAL)")
    db.execute("COMMIT")
    db.close()


def first_select(path):
    """Milliseconds, the median of many."""
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        db = sqlite3.connect(path)
        db.execute("SELECT * FROM t1").fetchall()
        times.append(time.perf_counter() - begin)
        db.close()
    return statistics.median(times) * 1000


def write(path, ended, waits):
    """Takes the write lock until the end, every two milliseconds."""
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    while not ended.is_set():
        begin = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        waits.append(time.perf_counter() - begin)
        db.execute("INSERT INTO t0 DEFAULT VALUES")
        db.execute("COMMIT")
        ended.wait(0.002)
    db.close()


def has_joined(path):
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT value FROM __harmonylite__meta WHERE key = 'joined'").fetchone()
    except sqlite3.Error:
        return None
    finally:
        db.close()


def main():
    binary, tables, busy = sys.argv[1], int(sys.argv[2]), "busy" in sys.argv[3:]
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        path = directory / "1.db"
        create(path, tables)
        before = first_select(path)
        ended, waits = threading.Event(), []
        application = threading.Thread(target=write, args=(path, ended, waits))
        if busy:
            application.start()
        begin = time.monotonic()
        running = []
        try:
            start_node(binary, directory, 1, start_broker(directory, running), running)
            wait(lambda: has_joined(path), directory)
            joined = time.monotonic() - begin
        finally:
            ended.set()
            if busy:
                application.join()
            for process in reversed(running):
                process.terminate()
                process.wait()
        print(f"{tables} tables: joined after {joined:.1f} s; first SELECT {before:.2f} ms without "
              f"us, {first_select(path):.2f} ms with us")
        if busy:
            print(f"the application waited {max(waits):.2f} s for the lock at most, in "
                  f"{len(waits)} transactions")


main()
