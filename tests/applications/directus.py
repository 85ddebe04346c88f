#!/usr/bin/env python3
"""Directus with `schema.replicate = "all"`: collections and fields are made and changed on one
node, by turns, while both serve; at last by `schema apply`.

    npm install directus@11.3.5          # needs Node 20; sqlite3 is compiled
    tests/applications/directus.py FOLDER/node_modules/directus/cli.js

With the settings of docs/schema-changes.md.
"""

import os
import shutil
import subprocess
import sys
import uuid

from harness import Client, Failed, Two, free_port, until

ADMIN = {"email": "a@example.org", "password": "1234567890"}
OWN = ("SELECT group_concat(name) FROM sqlite_schema WHERE type IN ('table', 'view') AND "
       "substr(name, 1, 15) = '__harmonylite__'")


def environment(nodes, node, excluded=""):
    return os.environ | {
        "DB_CLIENT": "sqlite3", "DB_FILENAME": str(nodes.db(node)), "SECRET": "0" * 32,
        "ADMIN_EMAIL": ADMIN["email"], "ADMIN_PASSWORD": ADMIN["password"], "TELEMETRY": "false",
        "HOST": "127.0.0.1", "CACHE_SCHEMA": "false", "DB_EXCLUDE_TABLES": excluded}


def run(nodes, program, node, *arguments):
    excluded = nodes.open(node).execute(OWN).fetchone()[0] or ""
    done = subprocess.run(["node", program, *arguments], cwd=nodes.dir, capture_output=True,
                          text=True, check=False, env=environment(nodes, node, excluded))
    if done.returncode:
        raise Failed(f"directus {arguments} on node {node}: {done.stdout}{done.stderr}")


class Directus(Client):
    """One serving Directus."""

    def __init__(self, nodes, program, node):
        port = free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        excluded = nodes.open(node).execute(OWN).fetchone()[0] or ""
        env = environment(nodes, node, excluded) | {"PORT": str(port)}
        nodes.start(["node", program, "start"], f"directus-{node}.log", env)
        until(f"Directus {node} serves", lambda: self.ask("POST", "/auth/login", ADMIN)[0] == 200,
              90)
        token = self.ask("POST", "/auth/login", ADMIN)[1]["data"]["access_token"]
        self.token = f"Bearer {token}"

    def has(self, path):
        return self.ask("GET", path)[0] == 200

    def titles(self):
        found = self.must("GET", "/items/posts?limit=-1")["data"]
        return {item["id"]: item.get("title") for item in found}

    def add(self, count, **values):
        for _ in range(count):
            self.must("POST", "/items/posts", {"id": str(uuid.uuid4()), **values})


POSTS = {"collection": "posts", "schema": {}, "meta": {}, "fields": [
    {"field": "id", "type": "uuid", "schema": {"is_primary_key": True}, "meta": {}},
    {"field": "title", "type": "string", "schema": {}, "meta": {}}]}


def install(nodes, program):
    """One installation, copied."""
    run(nodes, program, 1, "bootstrap")
    shutil.copy(nodes.db(1), nodes.db(2))


def play(program):
    with Two('[ids]\nranges = true\n[schema]\nreplicate = "all"') as nodes:
        install(nodes, program)
        nodes.run_sidecars()
        one, two = (Directus(nodes, program, node) for node in (1, 2))
        one.must("POST", "/collections", POSTS)
        until("the collection is on node 2", lambda: two.has("/items/posts"))
        one.add(10, title="a")
        two.add(10, title="b")
        until("all items are on both", lambda: len(one.titles()) == len(two.titles()) == 20)
        two.must("POST", "/fields/posts", {"field": "extra", "type": "string", "meta": {},
                                           "schema": {"default_value": "d"}})
        until("the new field is on node 1", lambda: one.has("/fields/posts/extra"))
        one.add(5, title="a", extra="e")
        change = {"field": "title", "type": "text", "schema": {"is_nullable": False}}
        one.must("PATCH", "/fields/posts/title", change)
        is_text = lambda: two.must("GET", "/fields/posts/title")["data"]["type"] == "text"
        until("the changed field is on node 2", is_text)
        two.add(5, title="b")
        two.must("DELETE", "/fields/posts/extra")
        until("the field is gone on node 1", lambda: not one.has("/fields/posts/extra"))
        one.add(5, title="a")
        until("all items are on both", lambda: one.titles() == two.titles())
        if sorted(one.titles().values()) != ["a"] * 20 + ["b"] * 15:
            raise Failed(f"items are missing: {one.titles()}")
        two.must("POST", "/collections", POSTS | {"collection": "other"})
        until("the second collection is on node 1", lambda: one.has("/items/other"))
        one.must("DELETE", "/collections/other")
        until("it is gone on node 2", lambda: not two.has("/items/other"))
        apply_a_snapshot(nodes, program, one, two)
        found = nodes.end_equal()
        print(f"  posts: {found['posts']}, activity: {found['directus_activity']}")


def apply_a_snapshot(nodes, program, one, two):
    """`schema snapshot` has none of our tables; `schema apply` on one node reaches the other."""
    model = nodes.dir / "model.yaml"
    run(nodes, program, 1, "schema", "snapshot", "-y", str(model))
    if "__harmonylite__" in model.read_text():
        raise Failed("the snapshot has our tables")
    one.must("DELETE", "/collections/posts")
    until("the first collection is gone on node 2", lambda: not two.has("/items/posts"))
    run(nodes, program, 2, "schema", "apply", "-y", str(model))
    until("the collection of the snapshot is on node 1", lambda: one.has("/items/posts"))
    one.add(5, title="c")
    until("its items are on both", lambda: len(one.titles()) == len(two.titles()) == 5)


if __name__ == "__main__":
    try:
        play(os.path.abspath(sys.argv[1]))
    except Failed as failed:
        sys.exit(f"FAILED: {failed}")
