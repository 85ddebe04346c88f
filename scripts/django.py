#!/usr/bin/env python3
"""Prints the directory of a Django for the tests, installing it there if it is missing.

Django and what it needs are installed by pip into .tools/django (versions and digests pinned
below), to be put on PYTHONPATH. Not a virtual environment: Debian's Python has no `ensurepip`
without another package. Needs Python 3.10 with pip, nothing else. Running it twice at once is
safe: a lock file serialises the installation, and the directory appears by a rename.
"""

import fcntl
import pathlib
import shutil
import subprocess
import sys
import tempfile

REQUIREMENTS = """\
Django==5.2.19 --hash=sha256:5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00
asgiref==3.13.0 --hash=sha256:f9596a2434512686473d50f96ff6207fbba49ae1a785dfac614df4aeb085674d
sqlparse==0.6.1 --hash=sha256:3be5a72d04c873d690d7c6dedd33d6fae2ef82759881ceec02fc2efd0cba564f
"""
TOOLS = pathlib.Path(__file__).resolve().parent.parent / ".tools"
DJANGO = TOOLS / "django"
# Written last, so that it says what the directory holds.
STAMP = DJANGO / "requirements.txt"


def is_there():
    return STAMP.exists() and STAMP.read_text() == REQUIREMENTS


def install():
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        fresh = pathlib.Path(scratch) / "django"
        requirements = pathlib.Path(scratch) / "requirements.txt"
        requirements.write_text(REQUIREMENTS)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-deps", "--root-user-action=ignore", "--only-binary=:all:", "--require-hashes"]
        pip += ["--target", str(fresh), "--requirement", str(requirements)]
        if subprocess.run(pip, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode != 0:
            sys.exit(
                "cannot install Django, which one of the tests runs: "
                "is PyPI (or a mirror that pip knows) in reach?"
            )
        (fresh / STAMP.name).write_text(REQUIREMENTS)
        shutil.rmtree(DJANGO, ignore_errors=True)
        fresh.rename(DJANGO)


def main():
    if not is_there():
        TOOLS.mkdir(exist_ok=True)
        with open(TOOLS / "django.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_there():
                install()
    print(DJANGO)


main()
