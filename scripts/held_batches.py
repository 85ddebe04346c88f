#!/usr/bin/env python3
"""How long held batches wait after the local migration.

    HARMONYLITE_BINARY=.. scripts/held_batches.py

Two nodes. Node 1 migrates and commits 50 times, each with 20 rows; node 2 holds these batches. Then
node 2 runs the same migration, and the time until all rows are there is printed, for each of some
kinds of change. Ends with status 1 if one takes more than 100 ms.
"""

import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/applications"))
from harness import Failed, Two, until  # noqa: E402

COMMITS, ROWS = 50, 20
MOST_MS = 100
CHANGES = [
    ("a new column", "ALTER TABLE t ADD COLUMN a TEXT"),
    ("a renamed column", "ALTER TABLE t RENAME COLUMN v TO w"),
    ("a dropped column", "ALTER TABLE t DROP COLUMN a"),
    ("a rebuild with NOT NULL", "BEGIN; CREATE TABLE n (id INTEGER PRIMARY KEY, w TEXT NOT NULL); "
     "INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT"),
    ("a new unique index", "CREATE UNIQUE INDEX i ON t (w)"),
    ("a renamed table", "ALTER TABLE t RENAME TO u"),
]


def main():
    with Two("") as nodes:
        one, two = nodes.open(1), nodes.open(2)
        for db in (one, two):
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
        nodes.run_sidecars()
        table, row, slow = "t", 0, []
        for name, sql in CHANGES:
            one.executescript(sql)
            table = "u" if "TO u" in sql else table
            column = one.execute(f"PRAGMA table_info({table})").fetchall()[1][1]
            for _ in range(COMMITS):
                rows = [(row + i, f"{row + i}") for i in range(ROWS)]
                row += ROWS
                one.execute("BEGIN IMMEDIATE")
                one.executemany(f"INSERT INTO {table} (id, {column}) VALUES (?, ?)", rows)
                one.execute("COMMIT")
            until("node 2 holds node 1", lambda: nodes.status(2).get("held"))
            until("node 1 has sent all", lambda: nodes.status(1).get("pending_rows") == 0)
            start = time.monotonic()
            two.executescript(sql)
            migrated = time.monotonic()
            while two.execute(f"SELECT count(*) FROM {table}").fetchone()[0] < row:
                if time.monotonic() - migrated > 60:
                    raise Failed(f"{name}: the held rows do not come")
            took = (time.monotonic() - migrated) * 1000
            print(f"{name}: {took:.0f} ms after the commit ({(migrated - start) * 1000:.0f} ms)")
            slow += [name] if took > MOST_MS else []
        nodes.end_equal()
        if slow:
            raise Failed(f"more than {MOST_MS} ms: {', '.join(slow)}")


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"FAILED: {failed}")
