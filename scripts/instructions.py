#!/usr/bin/env python3
"""Counts the instructions that a row costs in each stage, by valgrind's callgrind.

    scripts/instructions.py                 print them beside the baseline
    scripts/instructions.py --check         fail if one is more than 5 % above its baseline
    scripts/instructions.py --write         write the baseline

`bench/examples/stages.rs` is run twice with a different number of rows; the difference is the cost
of a row without the start. The baseline is that of one machine, compiler and libc: after a change
of these write it again, in a commit of its own."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = ROOT / "bench" / "instructions.json"
SHAPES = ("integer", "uuid")
STAGES = ("collect", "absorb", "decode", "apply")
ROWS = (10_000, 20_000)
GROWTH_MAX = 1.05


def program():
    build = ["cargo", "build", "--release", "--locked", "--package", "harmonylite-bench",
             "--example", "stages", "--config", 'profile.release.debug="line-tables-only"',
             # Without it the counts change with what is inlined across crates.
             "--config", "profile.release.lto=false", "--config",
             "profile.release.codegen-units=16"]
    subprocess.run(build, cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    return pathlib.Path(target) / "release" / "examples" / "stages"


def counted(stages, shape, rows):
    """The instructions of each stage in one run."""
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "out"
        subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet", stages,
             shape, str(rows)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        text = subprocess.run(
            ["callgrind_annotate", "--inclusive=yes", "--threshold=99.9", str(out)], check=True,
            capture_output=True, text=True).stdout
    found = {}
    for line in text.splitlines():
        for stage in STAGES:
            if match := re.match(rf"\s*([\d,]+) .*stages::Stages::{stage}\b", line):
                found.setdefault(stage, int(match.group(1).replace(",", "")))
    if set(found) != set(STAGES):
        sys.exit(f"instructions.py: callgrind shows only {sorted(found)} of {STAGES}")
    return found


def measured():
    stages = program()
    result = {}
    for shape in SHAPES:
        few, many = (counted(stages, shape, rows) for rows in ROWS)
        span = ROWS[1] - ROWS[0]
        result[shape] = {stage: round((many[stage] - few[stage]) / span) for stage in STAGES}
    return result


def main():
    now = measured()
    if "--write" in sys.argv:
        BASELINE.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
    before = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    grown = []
    for shape, stages in now.items():
        for stage, count in stages.items():
            base = before.get(shape, {}).get(stage)
            ratio = count / base if base else 1.0
            print(f"{shape:8} {stage:8} {count:8,} instructions a row, {ratio:5.2f} of the base")
            if ratio > GROWTH_MAX:
                grown.append(f"{stage} of {shape} keys")
    if grown and "--check" in sys.argv:
        sys.exit(f"instructions.py: more than {GROWTH_MAX - 1:.0%} above the baseline: "
                 f"{', '.join(grown)}; if that is meant, run it with --write")


if __name__ == "__main__":
    main()
