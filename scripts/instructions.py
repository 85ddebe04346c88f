#!/usr/bin/env python3
"""Counts the instructions that a row costs in each stage, by valgrind's callgrind.

    scripts/instructions.py                 print them beside the baseline
    scripts/instructions.py --check         fail if one has grown by more than 5 %
    scripts/instructions.py --write         write the baseline

`bench/examples/stages/` is run twice with a different number of rows; the difference is the cost of
a row without the start. What is compared is the multiple of a plain upsert of the same rows in the
same run, so that the C library and the processor of a machine count little. Our code is only
moderately optimised, because a release build takes longer than all tests: what a stage does is
counted, not what link-time optimisation makes of it. After another compiler write the baseline
again, in a commit of its own.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = ROOT / "bench" / "instructions.json"
SHAPES = ("integer", "uuid")
PLAIN = "raw"
STAGES = (PLAIN, "collect", "absorb", "decode", "apply")
ROWS = (10_000, 20_000)
GROWTH_MAX = 1.05


def has_valgrind():
    """Installs it where it is missing."""
    if not shutil.which("valgrind") and shutil.which("apt-get"):
        apt = ["apt-get"] if os.geteuid() == 0 else ["sudo", "apt-get"]
        install = apt + ["install", "-y", "--no-install-recommends", "valgrind"]
        quiet = {"stdout": subprocess.DEVNULL, "check": False}
        if subprocess.run(install, **quiet).returncode:
            subprocess.run(apt + ["update"], **quiet)
            subprocess.run(install, **quiet)
    return shutil.which("valgrind") is not None


def program():
    # The libraries are those of `make test`; only ours is built anew, optimised.
    build = ["cargo", "build", "--locked", "--workspace", "--exclude", "harmonylite-simulation",
             "--example", "stages", "--config", "profile.dev.package.harmonylite.opt-level=1"]
    subprocess.run(build, cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    return pathlib.Path(target) / "debug" / "examples" / "stages"


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
    if not has_valgrind():
        sys.exit("instructions.py: NOT CHECKED: no valgrind here, and none can be installed")
    now = measured()
    if "--write" in sys.argv:
        BASELINE.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
    before = json.loads(BASELINE.read_text(encoding="utf-8"))
    grown = []
    for shape, stages in now.items():
        base = before[shape]
        for stage, count in stages.items():
            multiple = count / stages[PLAIN]
            ratio = multiple / (base[stage] / base[PLAIN])
            print(f"{shape:8} {stage:8} {count:8,} instructions a row, {multiple:5.2f} of a plain "
                  f"upsert, {ratio:5.2f} of the base")
            if ratio > GROWTH_MAX:
                grown.append(f"{stage} of {shape} keys")
    if grown and "--check" in sys.argv:
        sys.exit(f"instructions.py: more than {GROWTH_MAX - 1:.0%} above the baseline: "
                 f"{', '.join(grown)}; if that is meant, run it with --write")


if __name__ == "__main__":
    main()
