#!/usr/bin/env python3
"""Fails if a line of a tracked text file is longer than 100 columns; prints FILE:LINE: N columns.

A column is a character. Exempt in Markdown: table rows, and lines that are a single link or path:
no break makes them shorter.
"""

import pathlib
import re
import subprocess
import sys

LIMIT = 100
ROOT = pathlib.Path(__file__).resolve().parent.parent
PATTERNS = ["*.rs", "*.md", "*.py", "*.sh", "*.sql", "*.c", "Makefile", "*.toml", ".ci/run"]
# A list's sign, a quotation, the name of a link; then one word.
UNBREAKABLE = re.compile(r"[\s>]*([-*+] |\d+\. |\[[^\]]*\]: )?\S*[/:]\S*")


def exempt(path, line):
    if path.suffix != ".md":
        return False
    return line.lstrip().startswith("|") or UNBREAKABLE.fullmatch(line) is not None


def main():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *PATTERNS], cwd=ROOT, capture_output=True, check=True
    )
    found = 0
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        # Deleted and not yet committed.
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if len(line) > LIMIT and not exempt(path, line):
                print(f"{name}:{number}: {len(line)} columns")
                found += 1
    if found:
        sys.exit(f"{found} lines are longer than {LIMIT} columns")


main()
