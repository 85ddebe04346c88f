#!/usr/bin/env python3
"""Counts the instructions of one INSERT: without triggers, without those for displaced rows, and
with all.

    scripts/trigger_cost.py app.db t

app.db is a database that a node has prepared, with a table `t (id, email, a, b)`: the key, and
what its indexes read. Only its schema is used. Needs valgrind."""

import os
import random
import sqlite3
import subprocess
import sys

FEW, MANY = 10_000, 30_000


def insert(path, table, triggers, count):
    """What valgrind counts: the rows of one transaction, in memory."""
    source = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    db = sqlite3.connect(":memory:", isolation_level=None)
    wanted = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name " \
        "NOT LIKE 'sqlite_%' ORDER BY type = 'trigger', rowid"
    for kind, name, owner, sql in source.execute(wanted):
        is_left_out = triggers == "none" or (triggers == "others" and "displaced" in name)
        if kind != "trigger" or (owner == table and not is_left_out):
            db.execute(sql)
    chance = random.Random(1)
    is_text = db.execute(f"SELECT type = 'TEXT' FROM pragma_table_info('{table}')").fetchone()[0]
    rows = [(f"{chance.getrandbits(128):032x}" if is_text else None,
             f"{chance.getrandbits(64):016x}@example.com", i, "text of about fifty bytes " * 2)
            for i in range(MANY)]
    db.execute("BEGIN")
    db.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows[:count])
    db.execute("COMMIT")


def instructions(path, table, triggers, count):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable,
               __file__, path, table, triggers, str(count)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    line = next(line for line in said.splitlines() if "Collected" in line)
    return int(line.split()[-1])


def main():
    if len(sys.argv) == 5:
        insert(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    if len(sys.argv) != 3 or not os.path.exists(sys.argv[1]):
        sys.exit(__doc__)
    path, table = sys.argv[1:]
    for triggers in ("none", "others", "all"):
        few, many = (instructions(path, table, triggers, count) for count in (FEW, MANY))
        print(f"{triggers}: {(many - few) // (MANY - FEW)} instructions a row")


if __name__ == "__main__":
    main()
