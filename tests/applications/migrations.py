#!/usr/bin/env python3
"""Migration tools of other languages on two nodes, while both write.

migrations.py TOOL MODE      TOOL: knex, typeorm, drizzle, sequelize, rails, laravel, or all
                             MODE: off, additive, all, or each

Each tool runs its own program in tools/ as an application does at its start: the first migration
on node 1, then node 2 starts. Then six more, while both nodes write: two new columns, one with a
default, and an index; a renamed column; a column of another type and NOT NULL (a rebuild); a
dropped table; a dropped column; a renamed table. What travels in this mode runs on one node, by
turns, and the tool on the other node must find nothing to do; the rest runs on both nodes. All rows
must be there, and no write may fail.

Needs, in $NODE_PATH, what tools/node_modules.sh installs; Debian's ruby-railties, ruby-activerecord
and ruby-sqlite3; php-laravel-framework, php-doctrine-dbal and php-sqlite3. A tool whose language is
not there is named as not tried.
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
    "sequelize": ["node", "sequelize.js"],
    "rails": ["ruby", "rails.rb"],
    "laravel": ["php", "laravel.php"],
}
# The migrations that travel, by mode.
TRAVELS = {"off": (), "additive": (1, 2), "all": (1, 2, 3, 4, 5, 6, 7)}
LAST = 7
# Umzug writes its record after the migration, in another transaction. With "additive" the record of
# the other node arrives in between, and the migration tool fails although all is done.
NOT_TRIED = {("sequelize", "additive")}
ATTEMPTS = 10
# What the tools print when another connection has the write lock, or has overtaken them.
LOCKED = ("SQLITE_BUSY", "database is locked")


class TitleWriter(Writer):
    """Gives no unique column a value: the table of these migrations has none."""

    SQL = "INSERT INTO {table} (id, {column}) VALUES (?, " + Writer.VALUE + ")"


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
        if not any(word in said for word in LOCKED):
            break
    raise Failed(f"{tool} up to {version} on {path}: {said[-1500:]}")


def roll_out(nodes, tool, mode):
    """Migrations 2 to 7, while both write."""
    for version in range(2, LAST + 1):
        first, second = (1, 2) if version % 2 else (2, 1)
        if not migrate(tool, nodes.db(first), version):
            raise Failed(f"{version} was to run on node {first}")
        time.sleep(0.3)
        if version not in TRAVELS[mode]:
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
    nodes.run_sidecars()
    migrate(tool, nodes.db(1), 1)
    if 1 in TRAVELS[mode]:
        until("the first migration arrives", lambda: "item" in nodes.contents(2))
    ran = migrate(tool, nodes.db(2), 1)
    if bool(ran) == (1 in TRAVELS[mode]):
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
        print(f"  {written} rows written, {found['article']} there, errors {unexpected[:3]}")
        if found["article"] != written or unexpected:
            raise Failed("a row is missing, or a write failed")
        sql = "SELECT count(*) FROM article WHERE coalesce(title, '') NOT GLOB 'x*' OR qty IS NOT 0"
        if wrong := nodes.open(1).execute(sql).fetchone()[0]:
            raise Failed(f"{wrong} rows have lost a value")


def main(tools, modes):
    failed = []
    for tool in tools:
        try:
            subprocess.run([PROGRAMS[tool][0], "--version"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{tool}: not tried: {error}")
            continue
        for mode in (mode for mode in modes if (tool, mode) not in NOT_TRIED):
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
