#!/usr/bin/env python3
"""PocketBase with `schema.replicate = "all"`: collections are made and changed on one node, by
turns, while both serve.

    go install github.com/pocketbase/pocketbase/examples/base@v0.36.0
    tests/applications/pocketbase.py ~/go/bin/base

A running PocketBase keeps its collections in memory. So each has the hook of
docs/schema-changes.md, which makes it read them again.
"""

import shutil
import subprocess
import sys
import urllib.parse

from harness import Client, Failed, Two, free_port, until

HOOK = """routerAdd("POST", "/api/harmonylite/reload", (e) => {
  $app.reloadCachedCollections()
  return e.noContent(204)
}, $apis.requireSuperuserAuth())
"""
LOGIN = {"identity": "a@example.org", "password": "1234567890"}


class PocketBase(Client):
    """One serving PocketBase."""

    def __init__(self, nodes, program, node):
        super().__init__(f"http://127.0.0.1:{free_port()}")
        hooks = nodes.dir / f"hooks-{node}"
        hooks.mkdir()
        (hooks / "harmonylite.pb.js").write_text(HOOK)
        command = [program, "serve", "--http", self.url.removeprefix("http://"), "--dir",
                   str(nodes.db(node).parent), "--hooksDir", str(hooks)]
        nodes.start(command, f"pocketbase-{node}.log")
        path = "/api/collections/_superusers/auth-with-password"
        until(f"PocketBase {node} serves", lambda: self.ask("POST", path, LOGIN)[0] == 200)
        self.token = self.ask("POST", path, LOGIN)[1]["token"]

    def collection(self, name):
        self.must("POST", "/api/harmonylite/reload", {})
        status, answer = self.ask("GET", f"/api/collections/{name}")
        return answer if status == 200 else None

    def fields(self, name):
        return {field["name"] for field in (self.collection(name) or {"fields": []})["fields"]}

    def total(self, name):
        return self.must("GET", f"/api/collections/{name}/records?perPage=1")["totalItems"]

    def add(self, name, **values):
        self.must("POST", f"/api/collections/{name}/records", values)

    def change(self, name, change):
        collection = self.collection(name)
        change(collection)
        self.must("PATCH", f"/api/collections/{name}", collection)


def text(name):
    return {"name": name, "type": "text"}


def play(program):
    with Two('[schema]\nreplicate = "all"', "data.db") as nodes:
        # One installation, copied.
        subprocess.run([program, "superuser", "upsert", *LOGIN.values(), "--dir",
                        str(nodes.db(1).parent)], check=True, stdout=subprocess.DEVNULL)
        shutil.copytree(nodes.db(1).parent, nodes.db(2).parent, dirs_exist_ok=True)
        nodes.run_sidecars()
        one, two = (PocketBase(nodes, program, node) for node in (1, 2))
        one.must("POST", "/api/collections", {
            "name": "posts", "type": "base", "fields": [text("title"), text("body")],
            "indexes": ["CREATE UNIQUE INDEX `idx_title` ON `posts` (`title`)"]})
        until("the collection is on node 2", lambda: two.collection("posts"))
        for i in range(20):
            one.add("posts", title=f"a{i}", body="x")
            two.add("posts", title=f"b{i}", body="y")
        until("all records are on both", lambda: one.total("posts") == two.total("posts") == 40)
        two.change("posts", lambda c: c["fields"].append(text("extra")))
        until("the new field is on node 1", lambda: "extra" in one.fields("posts"))
        one.add("posts", title="x1", extra="kept")

        def rename(collection):
            for field in collection["fields"]:
                field["name"] = {"extra": "more"}.get(field["name"], field["name"])

        one.change("posts", rename)
        until("the renamed field is on node 2", lambda: "more" in two.fields("posts"))
        found = urllib.parse.quote("title='x1'")
        item = two.must("GET", f"/api/collections/posts/records?filter={found}")["items"][0]
        if item["more"] != "kept":
            raise Failed(f"the renamed field lost its value: {item}")

        def drop_title(collection):
            collection["indexes"] = []
            collection["fields"] = [f for f in collection["fields"] if f["name"] != "title"]

        two.change("posts", drop_title)
        until("the dropped field is gone on node 1", lambda: "title" not in one.fields("posts"))
        one.must("POST", "/api/collections",
                 {"name": "v", "type": "view", "viewQuery": "SELECT id, body FROM posts"})
        until("the view is on node 2", lambda: two.collection("v") and two.total("v") == 41)
        one.must("POST", "/api/collections", {"name": "members", "type": "auth"})
        until("the auth collection is on node 2", lambda: two.collection("members"))
        member = {"email": "m@example.org", "password": "12345678"}
        two.add("members", passwordConfirm=member["password"], **member)
        login = {"identity": member["email"], "password": member["password"]}
        path = "/api/collections/members/auth-with-password"
        until("the member logs in on node 1", lambda: one.ask("POST", path, login)[0] == 200)
        two.must("DELETE", "/api/collections/v")
        two.must("DELETE", "/api/collections/posts")
        until("both are gone on node 1",
              lambda: not one.collection("posts") and not one.collection("v"))
        print(f"  tables and rows: {nodes.end_equal()}")


if __name__ == "__main__":
    try:
        play(sys.argv[1])
    except Failed as failed:
        sys.exit(f"FAILED: {failed}")
