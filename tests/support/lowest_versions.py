"""Check the lowest versions that pyproject.toml allows: they resolve, everything imports, LoRA files are read as ever.

Run by `make test-lowest`. It installs a second set of every toolchain, 2 GB.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

from environments import ROOT, WORK, Environment, say
from source_tree import sources

LOWEST = WORK / "lowest.txt"
EXTRAS = ("all", "dev", "docs")


def resolve() -> None:
    """Write the lowest versions of what pyproject.toml names, with the newest of what those need."""
    assert find_spec("uv") is not None
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct"]
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    # --no-header: it would name the registry of this machine.
    subprocess.run([*command, *extras, "--no-header", "-o", str(LOWEST), str(ROOT / "pyproject.toml")], check=True)


def main() -> None:
    """Resolve, install, import, test; raises where something fails."""
    WORK.mkdir(exist_ok=True)
    resolve()
    say(f"{LOWEST.relative_to(ROOT)}: the lowest versions resolve")
    environment = Environment(WORK / "lowest")
    environment.install("-r", str(LOWEST))
    modules = [name for name in sources() if not name.endswith("__main__")]
    code = "\n".join(["import warnings", "warnings.simplefilter('ignore')", *(f"import {name}" for name in modules)])
    environment.run("python", "-c", code, cwd=ROOT)
    say(f"{len(modules)} modules import")
    # Old versions warn of each other, about which nobody can do anything.
    options = ("-p", "no:cacheprovider", "-o", "filterwarnings=default")
    said = environment.run("python", "-m", "pytest", "tests/lora", *options, cwd=ROOT)
    say(f"tests/lora: {said.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
