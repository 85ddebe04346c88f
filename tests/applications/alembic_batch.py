#!/usr/bin/env python3
"""Alembic in batch mode under load: nine migrations on two nodes, while both write.

alembic_batch.py off | all      (needs `pip install alembic`)

With `off` each migration runs on both nodes, one after the other. With `all` it runs on one node,
by turns, and arrives on the other.
"""

import sqlite3
import subprocess
import sys
import threading
import time
import uuid

from harness import Failed, Two, until

REBUILD = "with op.batch_alter_table('item', recreate='always') as b: b."
MIGRATIONS = [
    "op.create_table('item', sa.Column('id', sa.String(36), primary_key=True), "
    "sa.Column('name', sa.String(50)), sa.Column('sku', sa.String(20), unique=True))",
    "with op.batch_alter_table('item') as b: "
    "b.add_column(sa.Column('qty', sa.Integer, nullable=False, server_default='0'))",
    REBUILD + "alter_column('name', new_column_name='title')",
    REBUILD + "alter_column('qty', type_=sa.BigInteger(), existing_type=sa.Integer())",
    "op.create_table('tag', sa.Column('id', sa.String(36), primary_key=True))\n"
    "    op.create_index('ix_title', 'item', ['title'])",
    REBUILD + "add_column(sa.Column('note', sa.Text()))\n"
    "    op.execute(\"UPDATE item SET note = 'n' || id\")",
    "with op.batch_alter_table('item') as b: b.drop_column('note')",
    "op.rename_table('item', 'article')",
    "op.drop_table('tag')",
]


ENV = """
from alembic import context
from sqlalchemy import create_engine
url = "sqlite:///" + context.get_x_argument(as_dictionary=True)["db"]
with create_engine(url, connect_args={"timeout": 20}).connect() as connection:
    context.configure(connection=connection, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
"""


class Writer(threading.Thread):
    """Inserts under whatever name the table and the column have now."""

    # The values differ, as in real columns: they show that a column was renamed by a rebuild.
    VALUE = "'x' || abs(random() % 100)"
    SQL = "INSERT INTO {table} (id, {column}, sku) VALUES (?, " + VALUE + ", ?)"

    def __init__(self, nodes, node):
        super().__init__()
        self.db, self.node, self.written, self.ended = nodes.db(node), node, 0, threading.Event()
        self.unexpected = []

    def run(self):
        db = sqlite3.connect(self.db, timeout=20, isolation_level=None)
        while not self.ended.wait(0.02):
            for table, column in (("item", "name"), ("item", "title"), ("article", "title")):
                if self.insert(db, table, column):
                    break

    def insert(self, db, table, column):
        try:
            values = (str(uuid.uuid4()), f"{self.node}-{self.written}")
            sql = self.SQL.format(table=table, column=column)
            db.execute(sql, values[:sql.count("?")])
            self.written += 1
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "no column" in str(error):
                return False
            self.unexpected.append(str(error))
        return True


def play(mode):
    settings = f"[schema]\nreplicate = \"{mode}\""
    with Two(settings) as nodes:
        versions = nodes.dir / "versions"
        versions.mkdir()
        (nodes.dir / "env.py").write_text(ENV)
        (nodes.dir / "alembic.ini").write_text(f"[alembic]\nscript_location={nodes.dir}\n")
        texts = MIGRATIONS
        for i, text in enumerate(texts, 1):
            former = f"'r{i - 1}'" if i > 1 else "None"
            (versions / f"r{i}.py").write_text(
                f"from alembic import op\nimport sqlalchemy as sa\nrevision = 'r{i}'\n"
                f"down_revision = {former}\ndef upgrade():\n    {text}\n")

        def upgrade(node, to):
            command = [sys.executable, "-m", "alembic", "-c", str(nodes.dir / "alembic.ini"), "-x",
                       f"db={nodes.db(node)}", "upgrade", f"r{to}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Failed(f"alembic upgrade r{to} on node {node}: {done.stderr[-500:]}")

        def version(node):
            return nodes.open(node).execute("SELECT version_num FROM alembic_version").fetchone()[0]

        for node in (1, 2):
            upgrade(node, 1)
        nodes.run_sidecars()
        writers = [Writer(nodes, node) for node in (1, 2)]
        for writer in writers:
            writer.start()
        try:
            for i in range(2, len(texts) + 1):
                for node in (1, 2) if mode == "off" else (1 + i % 2,):
                    upgrade(node, i)
                    time.sleep(0.3)
                until(f"both are at r{i}", lambda: version(1) == version(2) == f"r{i}")
        finally:
            for writer in writers:
                writer.ended.set()
            for writer in writers:
                writer.join()
        found = nodes.end_equal()
        written = sum(writer.written for writer in writers)
        unexpected = [error for writer in writers for error in writer.unexpected]
        sql = "SELECT count(*) FROM article WHERE coalesce(title, '') NOT GLOB 'x*'"
        lost = nodes.open(1).execute(sql).fetchone()[0]
        there = found["article"] - lost
        print(f"  {mode}: {written} rows written, {found['article']} there, {lost} without their "
              f"title, errors {unexpected[:3]}")
        if there != written or unexpected:
            raise Failed("a row is missing, or a write failed")


if __name__ == "__main__":
    try:
        play(sys.argv[1])
    except Failed as failed:
        sys.exit(f"FAILED: {failed}")
