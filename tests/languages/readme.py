#!/usr/bin/env python3
"""Types the lines of the README's section "Use it" into a fresh shell, as a newcomer would.

usage: readme.py PROGRAM

The files, commands and the order are the README's own; only the port is a free one, and PROGRAM
stands for target/release/harmonylite. Ends with 1 if a line fails, or shows something else than it
promises."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE_S = 60


def blocks(section):
    """The indented blocks of a section, without their indentation."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", section, re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip("\n") for block in found]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def typed(line, directory, environment):
    done = subprocess.run(
        ["bash", "-c", line], cwd=directory, env=environment, text=True, capture_output=True,
        timeout=PATIENCE_S, check=False)
    print(f"$ {line}\n{done.stdout}{done.stderr}", end="", flush=True)
    return done


def until(line, wanted, directory, environment):
    """Types a line until it shows what it is to show."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        done = typed(line, directory, environment)
        if done.returncode == 0 and wanted in done.stdout:
            return
        time.sleep(0.1)
    sys.exit(f"{line}: never showed {wanted!r}")


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Use it\n(.*?)^## ", readme, re.MULTILINE | re.DOTALL).group(1)
    section = section.replace("127.0.0.1:4222", f"127.0.0.1:{free_port()}")
    section = section.replace("target/release/harmonylite", str(program))
    create, one, two, rest = blocks(section)[:4]
    # A program without a nats-server inside finds one by the last name.
    kept = ("PATH", "HOME", "HARMONYLITE_NATS_SERVER")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    nodes = []
    with tempfile.TemporaryDirectory() as directory:
        (pathlib.Path(directory) / "one.toml").write_text(one, encoding="utf-8")
        (pathlib.Path(directory) / "two.toml").write_text(two, encoding="utf-8")
        try:
            for line in create.splitlines():
                if typed(line, directory, environment).returncode:
                    sys.exit(f"{line}: failed")
            for line in filter(None, rest.splitlines()):
                if "# terminal" in line:
                    print(f"$ {line}", flush=True)
                    nodes.append(subprocess.Popen(
                        ["bash", "-c", "exec " + line], cwd=directory, env=environment,
                        stderr=subprocess.DEVNULL))
                    config = re.search(r"\w+\.toml", line).group(0)
                    until(f"{program} status -config {config}", "healthy", directory, environment)
                elif "SELECT" in line:
                    until(line, "a|written on one", directory, environment)
                elif "status" in line:
                    until(line, "healthy", directory, environment)
                elif typed(line, directory, environment).returncode:
                    sys.exit(f"{line}: failed")
        finally:
            for node in nodes:
                node.terminate()
            statuses = [node.wait(timeout=PATIENCE_S) for node in nodes]
    if len(nodes) != 2 or any(statuses):
        sys.exit(f"the nodes ended with {statuses}")
    print("the README's lines work")


if __name__ == "__main__":
    main()
