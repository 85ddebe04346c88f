"""Ids that no other node gives: milliseconds, the node's number, a counter (docs/ids.md).

Ordered by time like those of AUTOINCREMENT, and below 2^63. Two processes of one node share its
number; should they ever meet, the database itself refuses the second row. Without NODE (while
`migrate` runs) SQLite numbers the rows, the same ones on every node.
"""

import itertools
import os
import secrets
import time

from django.db import models

NODE = int(os.environ.get("NODE", 0))
EPOCH_MS = 1_735_689_600_000  # 2025
assert NODE < 256
counter = itertools.count(secrets.randbits(14))


def new_id():
    ms = time.time_ns() // 1_000_000 - EPOCH_MS
    return (ms << 22) | (NODE << 14) | (next(counter) & 0x3FFF)


class NodeAutoField(models.AutoField):
    """An AutoField in the database and in migrations; only its value comes from here."""

    def get_pk_value_on_save(self, instance):
        return new_id() if NODE else None

    def deconstruct(self):
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.AutoField", args, kwargs
