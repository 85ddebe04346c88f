#!/usr/bin/env python3
"""Writes replicator/licenses.txt: the licences of everything inside a harmonylite executable.

    scripts/licenses.py                 write it
    scripts/licenses.py --check         fail if it is not what would be written
    scripts/licenses.py --nats-server   read the licences inside the nats-server anew (needs Go)

Inside are the crates that `cargo tree` lists for Linux (no build scripts, no procedural macros,
no tests), the C sources that some of them carry, Rust's standard library, and nats-server with its
Go modules. Their texts come from the packages themselves: `cargo` unpacks the crates; those of
nats-server stand in nats-server-licenses.json beside this file. Each text is written once, with
all that it covers. Of several licences that a crate offers, the first of PREFERRED is taken.
"""

import collections
import difflib
import hashlib
import importlib.util
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap

SCRIPTS = pathlib.Path(__file__).resolve().parent
ROOT = SCRIPTS.parent
OUTPUT = ROOT / "replicator" / "licenses.txt"
GO_TEXTS = SCRIPTS / "nats-server-licenses.json"
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]
LICENCE_FILE = re.compile(r"(un)?licen[cs]e|copying", re.I)

# In the order in which a licence is taken where there is a choice: one text for many first.
PREFERRED = [
    "Apache-2.0",
    "MIT",
    "Unicode-3.0",
    "BSD-3-Clause",
    "BSD-2-Clause",
    "ISC",
    "Zlib",
    "CC0-1.0",
    "Unlicense",
    "BSL-1.0",
    "Apache-2.0 WITH LLVM-exception",
]
# Words that only this licence's text has; and where its text begins after title and copyright.
KNOWN = {
    "Apache-2.0 WITH LLVM-exception": ("LLVM Exceptions to the Apache 2.0 License", None),
    "Apache-2.0": ("TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION", None),
    "MIT": ("Permission is hereby granted, free of charge, to any person obtaining", "Permission"),
    "BSL-1.0": ("Boost Software License - Version 1.0", None),
    "ISC": ("Permission to use, copy, modify, and/or distribute this software", "Permission"),
    "Unicode-3.0": ("UNICODE LICENSE V3", None),
    "BSD-3-Clause": ("may be used to endorse or promote products derived", "Redistribution"),
    "BSD-2-Clause": ("Redistribution and use in source and binary forms", "Redistribution"),
    "Zlib": ("must not be misrepresented; you must not claim that you wrote", "This software"),
    "CC0-1.0": ("CC0 1.0 Universal", None),
    "Unlicense": ("This is free and unencumbered software released", None),
    "GPL": ("GNU GENERAL PUBLIC LICENSE", None),
}
TITLE = re.compile(r"(the )?(mit|isc|bsd|zlib)?[\w\s-]*licen[cs]e( \(\w+\))?:?", re.I)

# One text of a package: what it covers, its licence, the text.
Item = collections.namedtuple("Item", "covers licence text")


def run(*command, **options):
    options = {"check": True, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT, **options}
    return subprocess.run(command, **options).stdout


def flat(text):
    return " ".join(text.split())


def licence_of(text):
    """The SPDX identifier of a text; None if it is none of KNOWN, or several in one."""
    words = flat(text).lower().replace("and distribute", "and/or distribute")
    found = {name for name, (mark, _) in KNOWN.items() if mark.lower() in words}
    if "BSD-3-Clause" in found:
        found.discard("BSD-2-Clause")
    if "Apache-2.0 WITH LLVM-exception" in found:
        found.discard("Apache-2.0")
    return found.pop() if len(found) == 1 else None


def choices(expression):
    """The sets of licences of an SPDX expression, each of which is enough."""
    tokens = re.findall(r"\(|\)|[^()\s]+", expression.replace("/", " OR "))

    def either():
        found = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            found = found + both()
        return found

    def both():
        found = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            found = [a | b for a, b in itertools.product(found, one())]
        return found

    def one():
        token = tokens.pop(0)
        if token == "(":
            found = either()
            tokens.pop(0)
            return found
        if tokens and tokens[0] == "WITH":
            token = f"{token} {tokens.pop(0)} {tokens.pop(0)}"
        return [frozenset([token])]

    return either()


def chosen(name, expression):
    unknown = [one for choice in choices(expression) for one in choice if one not in PREFERRED]
    able = [choice for choice in choices(expression) if not choice & set(unknown)]
    if not able:
        sys.exit(f"licenses.py: {name} has the licence {expression}: what to do with {unknown}?")
    return min(able, key=lambda choice: sorted(map(PREFERRED.index, choice), reverse=True))


def crates():
    """The packages that are linked in, as `cargo metadata` describes them."""
    tree = ["cargo", "tree", "--locked", "--package", "harmonylite", "--edges"]
    tree += ["normal,no-proc-macro", "--prefix", "none", "--format", "{p}"]
    lines = run(*tree, *itertools.chain(*(("--target", target) for target in TARGETS)))
    linked = {tuple(line.split()[:2]) for line in lines.splitlines() if line.strip()}
    metadata = ["cargo", "metadata", "--locked", "--format-version", "1"]
    metadata += itertools.chain(*(("--filter-platform", target) for target in TARGETS))
    packages = json.loads(run(*metadata))["packages"]
    found = [p for p in packages if p["source"] and (p["name"], f"v{p['version']}") in linked]
    return sorted(found, key=lambda p: (p["name"], p["version"]))


def items_of_crate(package):
    """What a crate's licences need to have printed; without a text where it carries none."""
    name = f"{package['name']} {package['version']}"
    licences = chosen(name, package["license"])
    directory = pathlib.Path(package["manifest_path"]).parent
    # Several at once means sources of others, whose texts lie deeper.
    paths = directory.rglob("*") if len(licences) > 1 else directory.iterdir()
    texts = [
        path.read_text(errors="replace")
        for path in sorted(paths)
        if LICENCE_FILE.match(path.name) and path.is_file() and path.suffix not in (".rs", ".py")
    ]
    named = [(licence_of(text), text) for text in texts]
    if len(licences) > 1:
        # Everything but what is only another choice, such as the GPL for zstd.
        wanted = [(licence, text) for licence, text in named if licence in {*licences, None}]
    else:
        (only,) = licences
        wanted = [(licence, text) for licence, text in named if licence == only]
        if not wanted and [licence for licence, _ in named] == [None]:
            wanted = [(only, texts[0])]
    # The Apache licence wants these kept.
    notices = [path for path in directory.iterdir() if path.name.upper().startswith("NOTICE")]
    wanted += [(None, path.read_text(errors="replace")) for path in sorted(notices)]
    lacking = licences - {licence for licence, _ in wanted} if None not in dict(wanted) else set()
    found = [Item(name, licence or "several licences", text) for licence, text in wanted]
    return found + [Item(name, licence, None) for licence in sorted(lacking)]


def sqlite(packages):
    """SQLite's blessing, from the source that libsqlite3-sys carries."""
    (package,) = [p for p in packages if p["name"] == "libsqlite3-sys"]
    header = pathlib.Path(package["manifest_path"]).parent / "sqlite3" / "sqlite3.h"
    text = header.read_text(errors="replace")
    version = re.search(r'#define SQLITE_VERSION\s+"([\d.]+)"', text).group(1)
    comment = text[: text.index("*****")].removeprefix("/*\n")
    blessing = "\n".join(line.removeprefix("**").removeprefix(" ") for line in comment.split("\n"))
    return Item(f"SQLite {version} (in libsqlite3-sys)", "public domain", blessing)


def standard_library():
    toolchain = (ROOT / "rust-toolchain.toml").read_text()
    version = re.search(r'channel = "([\d.]+)"', toolchain).group(1)
    return Item(f"Rust's standard library {version}", "Apache-2.0", None)


def nats_server_version():
    spec = importlib.util.spec_from_file_location("nats_server", SCRIPTS / "nats-server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VERSION


def go_items():
    stored = json.loads(GO_TEXTS.read_text())
    if stored["version"] != nats_server_version():
        sys.exit(
            f"licenses.py: {GO_TEXTS.name} is of nats-server {stored['version']}, and "
            f"nats-server.py fetches {nats_server_version()}: run scripts/licenses.py --nats-server"
        )
    for module in stored["modules"]:
        text = stored["texts"][module["text"]]
        name = f"{module['name']} {module['version']}"
        if module["name"] != "nats-server":
            name += " (in nats-server)"
        yield Item(name, licence_of(text) or "several licences", text)


def read_nats_server():
    """Writes GO_TEXTS anew: the modules that the program itself lists, as Go's proxy has them."""
    program = run(sys.executable, str(SCRIPTS / "nats-server.py")).strip()
    about = run("go", "version", "-m", program)
    server = re.search(r"^\tmod\t(\S+)\tv(\S+)", about, re.M).groups()
    wanted = [
        ("nats-server", *server),
        *((None, *m) for m in re.findall(r"\tdep\t(\S+)\tv(\S+)", about)),
    ]
    modules, texts = [], {}

    def add(name, version, text):
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        texts[digest] = text
        modules.append({"name": name, "version": version, "text": digest})

    with tempfile.TemporaryDirectory() as scratch:
        (pathlib.Path(scratch) / "go.mod").write_text("module licences\n")
        for name, module, version in wanted:
            download = ("go", "mod", "download", "-json", f"{module}@v{version}")
            directory = pathlib.Path(json.loads(run(*download, cwd=scratch))["Dir"])
            for path in sorted(directory.iterdir()):
                if LICENCE_FILE.match(path.name):
                    add(name or module, version, path.read_text())
    go = re.search(r": go([\d.]+)", about).group(1)
    root = pathlib.Path(run("go", "env", "GOROOT").strip())
    add("Go's runtime and standard library", go, (root / "LICENSE").read_text())
    stored = {"version": server[1], "modules": modules, "texts": texts}
    GO_TEXTS.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


def split(item):
    """The copyright of a text, and the text without title and copyright."""
    lines = [line.rstrip() for line in item.text.expandtabs().splitlines()]
    if all(line.startswith("//") for line in lines if line):
        lines = [line.removeprefix("//").removeprefix(" ") for line in lines]
    text = "\n".join(lines).strip("\n")
    if item.licence == "Apache-2.0":
        # The appendix is advice to authors.
        return "", text.split("END OF TERMS AND CONDITIONS")[0].rstrip()
    start = KNOWN.get(item.licence, (None, None))[1]
    begin = re.search(rf"^[ \t*]*{start}\b", text, re.M) if start else None
    if begin is None:
        return "", text
    parts = re.split(r"\n\s*\n", text[: begin.start()])
    kept = [flat(part) for part in parts if part.strip() and not TITLE.fullmatch(flat(part))]
    kept = [re.sub(r"^(The )?(MIT|ISC) License( \(\w+\))? (?=Copyright)", "", one) for one in kept]
    return re.sub(r"(?<=[\w>]) (?=Copyright \()", "; ", " ".join(kept)), text[begin.start() :]


def same(text):
    """Equal for texts that differ in line breaks, signs and the protocol of links only."""
    return re.sub(r"[^a-z0-9]+", "", text.lower().replace("https://", "http://"))


HEAD = """\
What a harmonylite executable for Linux contains besides HarmonyLite itself (MIT), and the licences.
Written by scripts/licenses.py from the packages; do not edit.

Each text stands here once, below the list of what it covers. Of several licences that a package
offers, one is taken: Apache-2.0 if it is among them, else MIT. The copyright notice of a package
stands behind its name. A package marked with * contains no text of its licence: it names the
licence only, and the text is that of other packages.

An executable made by `make build` contains, compressed and not changed, the program nats-server
{nats_server} (Copyright The NATS Authors, Apache-2.0, https://github.com/nats-io/nats-server; it
has no NOTICE file), with the Go modules that are marked as being in it.
"""


def wrap(line):
    filled = textwrap.fill(line, 98, subsequent_indent="  ", break_on_hyphens=False)
    return filled.replace("\N{NO-BREAK SPACE}", " ")


def render():
    packages = crates()
    every = [standard_library(), sqlite(packages), *go_items()]
    every += [item for package in packages for item in items_of_crate(package)]
    groups = collections.defaultdict(list)
    for item in (item for item in every if item.text is not None):
        groups[item.licence, same(split(item)[1])].append(item)
    for item in (item for item in every if item.text is None):
        # The text that most packages have.
        able = [key for key in groups if key[0] == item.licence]
        if not able:
            sys.exit(f"licenses.py: {item.covers}: no package has a text of {item.licence}")
        groups[max(able, key=lambda key: len(groups[key]))].append(item)

    def order(group):
        (licence, body), items = group
        place = PREFERRED.index(licence) if licence in PREFERRED else len(PREFERRED)
        return place, -len(items), body

    out = [HEAD.format(nats_server=nats_server_version())]
    for (licence, _), items in sorted(groups.items(), key=order):
        lines, plain = [], []
        for item in sorted(set(items), key=lambda item: item.covers.lower()):
            notice = split(item)[0] if item.text else ""
            name = item.covers + ("" if item.text else " *")
            # Not to be broken between name and version.
            name = name.replace(" ", "\N{NO-BREAK SPACE}")
            if notice:
                lines.append(f"{name}: {notice}")
            elif name not in plain:
                plain.append(name)
        if plain:
            lines.insert(0, ", ".join(plain))
        lines = [wrap(line) for line in dict.fromkeys(lines)]
        texts = collections.Counter(split(item)[1] for item in items if item.text)
        text = min(texts, key=lambda text: (-texts[text], text))
        out.append("\n".join(["=" * 98, licence, "=" * 98, *lines, "", text.strip("\n"), ""]))
    return "\n".join(out)


def main():
    if sys.argv[1:] == ["--nats-server"]:
        read_nats_server()
    elif sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    text = render()
    if sys.argv[1:] != ["--check"]:
        OUTPUT.write_text(text)
        return
    there = OUTPUT.read_text() if OUTPUT.exists() else ""
    if there != text:
        lines = difflib.unified_diff(there.split("\n"), text.split("\n"), "is", "should be", n=0)
        print("\n".join(itertools.islice(lines, 40)))
        sys.exit("replicator/licenses.txt is out of date: run scripts/licenses.py")


main()
