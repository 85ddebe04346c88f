#!/usr/bin/env python3
"""Migration tools of other languages on two nodes, while both write.

migrations.py TOOL MODE      TOOL: knex, typeorm, drizzle, prisma, activerecord, laravel,
                                   or all
                             MODE: off, additive, all, or each

Each tool runs its own program in tools/ as an application does at its start: the first migration
on node 1, then node 2 starts. Then four more, while both nodes write: a new column with an index, a
renamed column, a column made NOT NULL (a rebuild; with Laravel a second new column), a dropped
table. What travels in this mode runs on one node, by turns, and the tool on the other node must
find nothing to do; the rest runs on both nodes. All rows must be there, and no write may fail.

Needs, in $NODE_PATH, what tools/node_modules.sh installs; Debian's ruby-activerecord and
ruby-sqlite3; php-laravel-framework and php-sqlite3. A tool whose language is not there is named as
not tried.
"""

import pathlib
import subprocess
import sys
import time

from alembic_batch import Writer
from harness import Failed, Two, until

TOOLS = pathlib.Path(__file__).parent / "tools"
PROGRAMS = {
    "knex": ["node", "knex.js"],
    "typeorm": ["node", "typeorm.js"],
    "drizzle": ["node", "drizzle.js"],
    "activerecord": ["ruby", "activerecord.rb"],
    "laravel": ["php", "laravel.php"],
    "prisma": ["node", "prisma.js"],
}
# The migrations that travel, by mode.
TRAVELS = {"off": (), "additive": (1, 2), "all": (1, 2, 3, 4, 5)}
# Laravel's fourth migration adds a column: it cannot rebuild a table without doctrine/dbal.
ADDITIVE = {("laravel", "additive"): (1, 2, 4)}
LAST = 5
ATTEMPTS = 10


class TitleWriter(Writer):
    """Gives no unique column a value: the table of these migrations has none."""

    def insert(self, db, table, column):
        return super().insert(db, table, column) if table == "item" else False

    SQL = "INSERT INTO {table} (id, {column}) VALUES (?, 'x')"


def migrate(tool, path, version):
    """What the tool says that it ran."""
    language, program = PROGRAMS[tool]
    command = [language, str(TOOLS / program), str(path), str(version)]
    for attempt in range(ATTEMPTS):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if done.returncode == 0 and "ran: " in said:
            if attempt:
                print(f"  {tool} {version}: locked {attempt} times")
            return said.split("ran: ")[1].strip()
        # A migration in a deferred transaction that another connection's write overtakes fails
        # and leaves nothing, also without a sidecar: the operator runs it again.
        if not any(word in said for word in ("SQLITE_BUSY", "database is locked")):
            break
    raise Failed(f"{tool} up to {version} on {path}: {said[:400]} .. {said[-300:]}")


def travels(tool, mode, version):
    return version in ADDITIVE.get((tool, mode), TRAVELS[mode])


def roll_out(nodes, tool, mode):
    """Migrations 2 to 5, while both write."""
    for version in range(2, LAST + 1):
        first, second = (1, 2) if version % 2 else (2, 1)
        if not migrate(tool, nodes.db(first), version):
            raise Failed(f"{version} was to run on node {first}")
        time.sleep(0.3)
        if not travels(tool, mode, version):
            if not migrate(tool, nodes.db(second), version):
                raise Failed(f"{version} was to run on node {second}")
            continue
        schemas = lambda: [nodes.schema(node) for node in (1, 2)]
        until(f"migration {version} is on both", lambda: len(set(schemas())) == 1, 30, schemas)
        ran = migrate(tool, nodes.db(second), version)
        if ran:
            raise Failed(f"{version} travelled, but node {second} ran {ran}")


def begin(nodes, tool, mode):
    """The first migration on node 1, then the application's start on node 2."""
    if tool == "prisma":
        # It refuses a database with tables and without its own bookkeeping (P3005).
        for node in (1, 2):
            migrate(tool, nodes.db(node), 1)
        return nodes.run_sidecars()
    nodes.run_sidecars()
    migrate(tool, nodes.db(1), 1)
    if travels(tool, mode, 1):
        until("the first migration arrives", lambda: "item" in nodes.contents(2))
    ran = migrate(tool, nodes.db(2), 1)
    if bool(ran) == travels(tool, mode, 1):
        raise Failed(f"node 2 ran {ran!r} at its start")


def play(tool, mode):
    print(f"{tool}, {mode}")
    with Two(f'[schema]\nreplicate = "{mode}"') as nodes:
        for node in (1, 2):
            nodes.open(node).execute("PRAGMA journal_mode = WAL")
        begin(nodes, tool, mode)
        writers = [TitleWriter(nodes, node) for node in (1, 2)]
        for writer in writers:
            writer.start()
        try:
            roll_out(nodes, tool, mode)
        finally:
            for writer in writers:
                writer.ended.set()
            for writer in writers:
                writer.join()
        found = nodes.end_equal(but=nodes.local_only())
        written = sum(writer.written for writer in writers)
        unexpected = [error for writer in writers for error in writer.unexpected]
        print(f"  {written} rows written, {found['item']} there, errors {unexpected[:3]}")
        if found["item"] != written or unexpected:
            raise Failed("a row is missing, or a write failed")


def main(tools, modes):
    failed = []
    for tool in tools:
        try:
            subprocess.run([PROGRAMS[tool][0], "--version"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{tool}: not tried: {error}")
            continue
        for mode in modes:
            try:
                play(tool, mode)
            except Failed as failure:
                print(f"  FAILED: {failure}")
                failed.append(f"{tool} {mode}")
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)}")


if __name__ == "__main__":
    chosen, mode = sys.argv[1:]
    main(PROGRAMS if chosen == "all" else [chosen], TRAVELS if mode == "each" else [mode])
