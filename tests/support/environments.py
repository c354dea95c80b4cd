"""Python environments of their own, for checks that must not see this one."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build"


class Environment:
    """A virtual environment, made anew, and what runs in it: nothing of the repository is on its path."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, clear=True, with_pip=True)
        self.bin = folder / "bin"

    def install(self, *what: str) -> None:
        """Install packages by pip."""
        self.run("python", "-m", "pip", "install", "--quiet", *what, cwd=WORK)

    def run(self, program: str, *arguments: str | Path, cwd: Path, code: int = 0) -> str:
        """Run a program of the environment and return its output; RuntimeError where it ends with another code."""
        command = [str(self.bin / program), *map(str, arguments)]
        # Without the caller's PYTHONPATH, which could bring the repository back.
        ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=_environment())
        if ran.returncode != code:
            said = f"{ran.stdout}\n{ran.stderr}"[-4000:]
            raise RuntimeError(f"{' '.join(command)[:200]}: exit code {ran.returncode}, not {code}\n{said}")
        return ran.stdout + ran.stderr


def say(text: str) -> None:
    """Print what has been checked, at once."""
    print(text, flush=True)


def build_wheel(folder: Path) -> Path:
    """Build the repository's wheel, without its dependencies, into a folder."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("lorarar_toolkit-*.whl")
    return wheel


def _environment() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
