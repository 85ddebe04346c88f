#!/usr/bin/env python3
"""Fails if a folder of replicator/src uses another one that ARCHITECTURE.md does not allow it.

    scripts/arrows.py               check
    scripts/arrows.py --used        print what each folder uses now
    scripts/arrows.py --self-test   check that each kind of fault is found

The table of allowed arrows stands in ARCHITECTURE.md between the lines `<!-- arrows -->` and
`<!-- /arrows -->`, with the rows `| folder | what it does | may use |`. The third cell lists
folders, separated by commas; `-` is none. A folder is what stands at the top of replicator/src,
`clock.rs` as much as `store/`; lib.rs and main.rs join all of them and may use everything.

A use is a path in code that begins with `crate::` or `harmonylite::`, in a `use` or elsewhere.
`super` must not lead out of a folder: such a path has to begin with `crate`. Test modules
(`#[cfg(test)] mod`, files `*_tests.rs`) may use everything. Also a fault: a circle among the
allowed arrows, a folder that the table lacks, a row without its folder, and a circle among the
files of the folders in ACYCLIC.
"""

import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROOT_FILES = {"lib.rs", "main.rs"}
# Folders whose files must not use each other in a circle. Their mod.rs joins them.
ACYCLIC = {"inbound", "repair"}
BEGIN, END = "<!-- arrows -->", "<!-- /arrows -->"

# Comments, strings and characters: what looks like code and is none. A lifetime is no character.
NO_CODE = re.compile(
    r"""//[^\n]*
    | /\*
    | \b(?:b|c)?r(?P<hashes>\#*)".*?"(?P=hashes)
    | "(?:\\.|[^"\\])*"
    | '(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\\n])'
    """,
    re.X | re.S,
)
USE = re.compile(r"\buse\s+([^;]*);")
PATH = re.compile(r"(?<![\w:])(?:crate|harmonylite|super)(?:\s*::\s*\w+)+")
# `mod name {` and `mod name;`, with the attributes and the visibility before it.
MOD = re.compile(
    r"(?P<attributes>(?:#\[[^\]]*\]\s*)*)(?:\bpub(?:\([^)]*\))?\s+)?"
    r"\bmod\s+(?P<name>\w+)\s*(?P<end>[{;])"
)
TEST = re.compile(r"#\[cfg\(test\)\]")


def code_of(text):
    """The text with everything that is no code made blank, so that places stay the same."""
    out, at = [], 0

    def blank(piece):
        return re.sub(r"[^\n]", " ", piece)

    while found := NO_CODE.search(text, at):
        out.append(text[at : found.start()])
        end = found.end()
        if found.group() == "/*":
            depth = 1
            while depth and (mark := re.compile(r"/\*|\*/").search(text, end)):
                depth += 1 if mark.group() == "/*" else -1
                end = mark.end()
        out.append(blank(text[found.start() : end]))
        at = end
    return "".join(out) + text[at:]


def closing(code, at):
    """Where the block ends whose brace is just before `at`."""
    depth = 1
    for mark in re.compile(r"[{}]").finditer(code, at):
        depth += 1 if mark.group() == "{" else -1
        if depth == 0:
            return mark.end()
    return len(code)


def expand(tree):
    """The paths of a use tree: `a::{b, c::d}` is [a, b] and [a, c, d]."""
    tree = tree.strip()
    head, brace, rest = tree.partition("{")
    head = re.sub(r"\s+as\s+\w+", "", head.strip())
    steps = [step for step in re.split(r"\s*::\s*", head) if step]
    if not brace:
        return [steps]
    branches, depth, begin = [], 0, 0
    body = rest[: rest.rindex("}")]
    for place, sign in enumerate(body + ","):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if sign == "," and depth == 0:
            branches.append(body[begin:place])
            begin = place + 1
    return [steps + path for branch in branches if branch.strip() for path in expand(branch)]


class Tree:
    """The source files below one directory."""

    def __init__(self, src):
        self.src = src
        self.files = {
            path.relative_to(src): path
            for path in sorted(src.rglob("*.rs"))
            if not path.name.endswith("_tests.rs")
        }
        self.code = {name: code_of(path.read_text()) for name, path in self.files.items()}
        top = {name.parts[0] for name in self.files} - ROOT_FILES
        self.folders = {name.removesuffix(".rs") for name in top}
        self.test_files = self._test_files()
        # What lib.rs offers under another name: `crate::Node` is `node`.
        self.offered = {}
        lib = self.code.get(pathlib.Path("lib.rs"), "")
        for use in USE.finditer(lib):
            for path in expand(use.group(1)):
                path = path[1:] if path[0] in ("crate", "self") else path
                if path[0] in self.folders:
                    self.offered[path[-1]] = path[0]

    def _test_files(self):
        """The modules that a `#[cfg(test)] mod name;` declares."""
        found = set()
        for name, code in self.code.items():
            for mod in MOD.finditer(code):
                if mod["end"] == ";" and TEST.search(mod["attributes"]):
                    found.add((*module_of(name), mod["name"]))
        return found

    def is_test(self, module):
        return any(module[: len(test)] == test for test in self.test_files)

    def uses(self):
        """Each use as (file, line, folder, folder that it uses or None if it escapes, path)."""
        for name, code in self.code.items():
            module = module_of(name)
            if not module or self.is_test(module):
                continue
            for at, inside, path in self._paths(code, module):
                line = code.count("\n", 0, at) + 1
                shown = "::".join(path)
                if path[0] == "super":
                    ups = next((i for i, step in enumerate(path) if step != "super"), len(path))
                    if ups >= len(inside):
                        yield name, line, module[0], None, shown
                    continue
                step = path[1]
                yield name, line, module[0], self.offered.get(step, step), shown

    def file_arrows(self):
        """Which file of the folders in ACYCLIC uses which."""
        arrows = {}
        for name, code in self.code.items():
            module = module_of(name)
            if len(module) != 2 or module[0] not in ACYCLIC or self.is_test(module):
                continue
            used = arrows.setdefault("/".join(module), set())
            for _, inside, path in self._paths(code, module):
                ups = next((i for i, step in enumerate(path) if step != "super"), len(path))
                path = (*inside[:-ups], *path[ups:]) if ups else path[1:]
                other = pathlib.Path(*path[:2]).with_suffix(".rs")
                if other in self.files and path[0] in ACYCLIC and tuple(path[:2]) != module:
                    used.add("/".join(path[:2]))
        return arrows

    def _paths(self, code, module):
        """Each path with its place and the module that it stands in; test modules left out."""
        at = 0
        for mod in MOD.finditer(code):
            if mod["end"] == ";" or mod.start() < at:
                continue
            yield from self._plain(code, at, mod.start(), module)
            end = closing(code, mod.end())
            if not TEST.search(mod["attributes"]):
                inner = (*module, mod["name"])
                for place, inside, path in self._paths(code[mod.end() : end], inner):
                    yield mod.end() + place, inside, path
            at = end
        yield from self._plain(code, at, len(code), module)

    def _plain(self, code, begin, end, module):
        code = code[begin:end]
        trees = list(USE.finditer(code))
        for use in trees:
            for path in expand(use.group(1)):
                if len(path) > 1 and path[0] in ("crate", "harmonylite", "super"):
                    yield begin + use.start(), module, path
        for found in PATH.finditer(code):
            if not any(use.start() <= found.start() < use.end() for use in trees):
                yield begin + found.start(), module, re.split(r"\s*::\s*", found.group())


def module_of(name):
    """`inbound/gap.rs` is (inbound, gap), `inbound/mod.rs` is (inbound,), lib.rs is ()."""
    if str(name) in ROOT_FILES:
        return ()
    parts = name.with_suffix("").parts
    return parts[:-1] if parts[-1] == "mod" else parts


def table(text):
    """The allowed arrows: a folder and the set of those that it may use."""
    lines = text.split("\n")
    if BEGIN not in lines or END not in lines:
        raise ValueError(f"ARCHITECTURE.md lacks the lines {BEGIN} and {END}")
    rows = [line for line in lines[lines.index(BEGIN) : lines.index(END)] if line.startswith("|")]

    def names(cell):
        found = (name.strip(" `").removesuffix("/").removesuffix(".rs") for name in cell.split(","))
        return [name for name in found if name not in ("", "-")]

    allowed = {}
    # Two rows above: the columns' names, and the line below these.
    for row in rows[2:]:
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        if len(cells) != 3 or len(names(cells[0])) != 1:
            raise ValueError(f"not a row `folder | what it does | may use`: {row}")
        (folder,) = names(cells[0])
        if folder in allowed:
            raise ValueError(f"{folder} has two rows")
        allowed[folder] = set(names(cells[2]))
    return allowed


def circle(allowed):
    """A circle among the arrows, as a list that begins and ends with the same folder."""
    done = set()

    def walk(folder, way):
        if folder in way:
            return [*way[way.index(folder) :], folder]
        if folder in done:
            return None
        for next_one in sorted(allowed.get(folder, ())):
            if found := walk(next_one, [*way, folder]):
                return found
        done.add(folder)
        return None

    return next(filter(None, (walk(folder, []) for folder in sorted(allowed))), None)


def faults(src, text):
    """What is wrong, a line each."""
    tree = Tree(src)
    try:
        allowed = table(text)
    except ValueError as error:
        return [str(error)]
    found = []
    for folder in sorted(tree.folders - set(allowed)):
        found.append(f"ARCHITECTURE.md: {folder} exists and has no row")
    for folder in sorted(set(allowed) - tree.folders):
        found.append(f"ARCHITECTURE.md: {folder} has a row and does not exist")
    for folder, used in sorted(allowed.items()):
        for name in sorted(used - set(allowed)):
            found.append(f"ARCHITECTURE.md: {folder} may use {name}, which has no row")
    if way := circle(allowed):
        found.append(f"ARCHITECTURE.md: the allowed arrows have a circle: {' > '.join(way)}")
    if way := circle(tree.file_arrows()):
        found.append(f"files use each other in a circle: {' > '.join(way)}")
    for name, line, folder, used, path in tree.uses():
        where = f"{src.name}/{name}:{line}"
        if used is None:
            found.append(f"{where}: {path} leads out of {folder}/: begin with crate::")
        elif used not in tree.folders:
            found.append(f"{where}: {path} names no folder, nor what lib.rs has from one")
        elif used != folder and used not in allowed.get(folder, ()):
            found.append(f"{where}: {folder} may not use {used} ({path})")
    # A line with braces may name several things of one folder.
    return list({re.sub(r" \(.*", "", fault): fault for fault in reversed(found)}.values())[::-1]


def print_used(src):
    tree = Tree(src)
    used = {folder: {} for folder in sorted(tree.folders)}
    for _, _, folder, target, _ in tree.uses():
        if target not in (None, folder):
            used[folder][target] = used[folder].get(target, 0) + 1
    for folder, targets in used.items():
        print(f"{folder}: {', '.join(f'{name} {n}' for name, n in sorted(targets.items())) or '-'}")


GOOD_TABLE = """
<!-- arrows -->
| folder | what it does | may use |
|---|---|---|
| `low.rs` | values | - |
| `mid/` | stages | low |
| `high/` | actors | `mid`, low |
<!-- /arrows -->
"""
GOOD_TREE = {
    "lib.rs": "mod low; mod mid; mod high; pub use high::Node; use crate::mid::x;",
    "low.rs": "//! Not a use: crate::high::X.\npub fn f<'a>(x: &'a str) -> char { '\"' }",
    "mid/mod.rs": 'use crate::low::{self, f};\nconst T: &str = "crate::high::X";\nmod deep;',
    "mid/deep.rs": "use super::T; mod inner { use super::super::T; }",
    "high/mod.rs": "use crate::{low, mid::{deep::a, self as m}};\npub struct Node;\n"
    "#[cfg(test)]\nmod tests { use crate::high::Node; }\n#[cfg(test)]\nmod story;",
    "high/story.rs": "use super::super::nothing;",
}


def self_test():
    failed = 0

    def expect(what, words, files=None, text=GOOD_TABLE):
        """Faults with these words are found, one for each, and no others; none for no words."""
        nonlocal failed
        with tempfile.TemporaryDirectory() as root:
            src = pathlib.Path(root) / "src"
            for name, content in {**GOOD_TREE, **(files or {})}.items():
                (src / name).parent.mkdir(parents=True, exist_ok=True)
                (src / name).write_text(content)
            found = faults(src, text)
        pairs = zip(words, found, strict=False)
        if len(found) != len(words) or any(word not in fault for word, fault in pairs):
            failed += 1
            print(f"arrows.py: {what}: expected {words}, found {found}")

    row = "| `mid/` | stages | low |"
    expect("a good tree", [])
    # An arrow that runs up, in every way to write it.
    up = ["src/low.rs:1: low may not use high"]
    expect("use", up, {"low.rs": "use crate::high::X;"})
    expect("pub use", up, {"low.rs": "pub(crate) use crate::high::X;"})
    expect("whole folder", up, {"low.rs": "use crate::high;"})
    expect("braces", up, {"low.rs": "use crate::{low::f,\n  high::{X, Y}};"})
    expect("path in code", up, {"low.rs": "fn f() { crate::high::g() }"})
    expect("path of the crate by name", up, {"low.rs": "fn f() { harmonylite::high::g() }"})
    expect("by another name of lib.rs", up, {"low.rs": "use crate::Node;"})
    expect("after a string", up, {"low.rs": 'const A: &str = "\\""; use crate::high::X;'})
    expect("after a raw string", up, {"low.rs": 'const A: &str = r#"""#; use crate::high::X;'})
    expect("after a comment", up, {"low.rs": "/* a /* b */ c */ use crate::high::X;"})
    expect("in a module", up, {"low.rs": "mod a { fn f() { crate::high::g() } }"})
    expect("the line", ["src/low.rs:3: low"], {"low.rs": "\n/*\n*/use crate::high::X;"})
    expect("in a test of another name", [], {"low.rs": "#[cfg(test)]\nmod t { use crate::high; }"})
    with_attributes = "#[cfg(test)]\n#[allow(unused)]\npub(crate) mod t { use crate::high; }"
    expect("in a test with attributes", [], {"low.rs": with_attributes})
    expect("in a test", [], {"low.rs": "#[cfg(test)]\nmod tests { use super::super::high; }"})
    expect("in a file of tests", [], {"mid/deep_tests.rs": "use crate::high::X;"})
    after = "#[cfg(test)]\nmod tests { fn f() { if x { } } }\nuse crate::high::X;"
    expect("after a test", ["src/low.rs:3: low may not use high"], {"low.rs": after})
    deep = ["src/mid/deep.rs:1: mid may not use high"]
    expect("below", deep, {"mid/deep.rs": "use crate::high::X;"})
    # Files.
    files = {"inbound/mod.rs": "", "inbound/a.rs": "use super::b::B;", "inbound/c.rs": ""}
    row_of_inbound = GOOD_TABLE.replace(row, row + "\n| `inbound/` | x | low |")
    files["inbound/b.rs"] = "use super::{c::C}; #[cfg(test)] mod tests { use super::super::a; }"
    expect("files in a row", [], files, row_of_inbound)
    files["inbound/c.rs"] = "use crate::inbound::a::A;"
    expect("files in a circle", ["inbound/a > inbound/b > inbound/c"], files, row_of_inbound)
    # super.
    out = ["leads out of mid/"]
    expect("super", out, {"mid/deep.rs": "use super::super::low::f;"})
    expect("super in braces", out, {"mid/deep.rs": "use super::{T, super::low::f};"})
    expect("super in code", out, {"mid/deep.rs": "fn f() { super::super::low::f() }"})
    expect("super at the top", ["leads out of low/"], {"low.rs": "use super::mid::f;"})
    # What is no folder.
    expect("unknown", ["names no folder"], {"low.rs": "use crate::nowhere::X;"})
    # The table.
    loop = GOOD_TABLE.replace("| values | - |", "| values | mid |")
    expect("circle", ["a circle: low > mid > low"], text=loop)
    own = GOOD_TABLE.replace("| values | - |", "| values | low |")
    expect("circle of one", ["a circle: low > low"], text=own)
    missing = ["mid exists and has no row", "high may use mid, which has no row", "mid may not use"]
    expect("no row", missing, text=GOOD_TABLE.replace(row + "\n", ""))
    expect("new folder", ["extra exists and has no row"], {"extra/mod.rs": ""})
    gone = GOOD_TABLE.replace(row, row + "\n| `gone/` | nothing | - |")
    expect("no folder", ["gone has a row and does not exist"], text=gone)
    expect("two rows", ["mid has two rows"], text=GOOD_TABLE.replace(row, row + "\n" + row))
    expect("not a row", ["not a row"], text=GOOD_TABLE.replace(row, "| mid | low |"))
    expect("no table", ["lacks the lines"], text="")
    sys.exit(1 if failed else 0)


def main():
    src = ROOT / "replicator" / "src"
    if sys.argv[1:] == ["--self-test"]:
        self_test()
    elif sys.argv[1:] == ["--used"]:
        print_used(src)
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        found = faults(src, (ROOT / "ARCHITECTURE.md").read_text())
        print("\n".join(found), end="\n" if found else "")
        sys.exit(1 if found else 0)


main()
