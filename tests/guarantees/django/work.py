"""What one instance of the project does: work.py PHASE, with APP_DB and NODE in the environment.

`create`: people of its own, with groups, permissions and passwords; some deleted again; a group
through the admin's pages.
`cross`: changes to what the other instance created, at the same time as that one does the same.
`check`: everybody whom either instance created can log in with the newest password, and is where
both put them.
"""

import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()

from django.contrib.admin.models import LogEntry
from django.contrib.auth import authenticate
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.models import Session
from django.test import Client

NODE = int(os.environ["NODE"])
OTHER = 3 - NODE
USERS, GROUPS = 40, 6


def is_deleted(i):
    return i % 5 == 4


def password(node, i):
    return f"changed {node}.{i}" if i % 7 == 3 else f"secret {node}.{i}"


def create():
    permissions = list(Permission.objects.order_by("codename"))
    groups = [Group.objects.create(name=f"team {NODE}.{i}") for i in range(GROUPS)]
    for i, group in enumerate(groups):
        group.permissions.set(permissions[i : i + 4])
    for i in range(USERS):
        email = f"user{i}@node{NODE}.example"
        user = User.objects.create_user(f"user{NODE}.{i}", email, f"secret {NODE}.{i}")
        user.groups.add(groups[i % GROUPS], groups[(i + 1) % GROUPS])
        user.user_permissions.add(*permissions[i % 20 : i % 20 + 3])
        if i % 7 == 3:
            user.set_password(password(NODE, i))
            user.save()
        if i % 3 == 0:
            user.groups.remove(groups[i % GROUPS])
        if i >= 5 and is_deleted(i - 5):
            User.objects.get(username=f"user{NODE}.{i - 5}").delete()
    for i in range(USERS - 5, USERS):
        if is_deleted(i):
            User.objects.get(username=f"user{NODE}.{i}").delete()
    doomed = Group.objects.create(name=f"doomed {NODE}")
    doomed.user_set.add(*User.objects.filter(username__startswith=f"user{NODE}."))
    doomed.delete()
    User.objects.create_superuser(f"boss{NODE}", "", f"boss {NODE}")
    browser = Client()
    assert browser.login(username=f"boss{NODE}", password=f"boss {NODE}")
    group = {"name": f"from the admin {NODE}", "permissions": [permissions[0].pk]}
    page = browser.post("/admin/auth/group/add/", group)
    assert page.status_code == 302, page.content
    (entry,) = LogEntry.objects.filter(user__username=f"boss{NODE}")
    assert entry.object_repr == f"from the admin {NODE}"


def cross():
    for i in range(USERS):
        if is_deleted(i):
            continue
        # Mine go into a team of the other; both set everybody's last name, and one of the two
        # stays.
        team = Group.objects.get(name=f"team {OTHER}.{i % GROUPS}")
        User.objects.get(username=f"user{NODE}.{i}").groups.add(team)
        for node in (1, 2):
            User.objects.filter(username=f"user{node}.{i}").update(last_name=f"named by {NODE}")
    # Both give the same permission to the same group: two rows with different ids, of which a
    # unique index lets one stay.
    view_session = Permission.objects.get(codename="view_session")
    for node in (1, 2):
        Group.objects.get(name=f"team {node}.0").permissions.add(view_session)


def check():
    for node in (1, 2):
        for i in range(USERS):
            name = f"user{node}.{i}"
            if is_deleted(i):
                assert not User.objects.filter(username=name).exists(), name
                continue
            user = authenticate(username=name, password=password(node, i))
            assert user is not None, f"{name} cannot log in"
            assert user.email == f"user{i}@node{node}.example", name
            assert user.last_name in ("named by 1", "named by 2"), name
            teams = {f"team {node}.{(i + 1) % GROUPS}", f"team {3 - node}.{i % GROUPS}"}
            if i % 3:
                teams.add(f"team {node}.{i % GROUPS}")
            assert set(user.groups.values_list("name", flat=True)) == teams, name
        old = authenticate(username=f"user{node}.3", password=f"secret {node}.3")
        assert old is None, "an old password still works"
        team = Group.objects.get(name=f"team {node}.0")
        assert team.permissions.filter(codename="view_session").count() == 1
        assert authenticate(username=f"boss{node}", password=f"boss {node}").is_superuser
        assert Group.objects.get(name=f"from the admin {node}").permissions.count() == 1
    assert not Group.objects.filter(name__startswith="doomed").exists()
    # A browser that logged in at the other node is logged in here.
    browser = Client()
    for session in Session.objects.all():
        browser.cookies["sessionid"] = session.session_key
        assert browser.get("/admin/").status_code == 200
    assert Session.objects.count() == 2 and LogEntry.objects.count() == 2
    print(f"{User.objects.count()} users, {Group.objects.count()} groups")


{"create": create, "cross": cross, "check": check}[sys.argv[1]]()
