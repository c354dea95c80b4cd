"""The iOS engine on this computer: built by Swift's package manager, with ONNX Runtime's headers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devices.fetch import ONNXRUNTIME_ANDROID, android_archive

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "ios_demo"
PACKAGE = DEMO / "Merger"
BUILDS = ROOT / "build" / "ios"
# Optimised, since hashing a bundle takes seconds otherwise, and still with the checks of sums and of ranges; the faster
# of Swift's two ways to build so.
OPTIMISED = ("--configuration", "release", "-Xswiftc", "-enable-testing", "-debug-info-format", "none")
SWIFT_PACKAGES = "swiftlang libstdc++-14-dev npm"  # Debian's


@dataclass(frozen=True)
class Ran:
    """How a program ended, and what it said."""

    code: int
    out: str
    err: str


def onnxruntime_library() -> Path:
    """ONNX Runtime's library of this environment."""
    import onnxruntime

    (found,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    return found


def build(package: Path = PACKAGE, scratch: Path = BUILDS / "package") -> Path:
    """Build the engine, its tool and its tests; the folder of the products. RuntimeError with the compiler's words."""
    ran = swift("build", "--build-tests", *OPTIMISED, package=package, scratch=scratch)
    if ran.code:
        raise RuntimeError(f"swift build failed: {(ran.out + ran.err)[-4000:]}")
    return scratch / "release"


def swift(
    command: str, *options: str, package: Path = PACKAGE, scratch: Path = BUILDS / "package", limit: float = 1800
) -> Ran:
    """One of Swift's package commands. RuntimeError where there is no Swift."""
    headers = android_archive(ONNXRUNTIME_ANDROID) / "headers"
    place = ["--package-path", str(package), "--scratch-path", str(scratch)]
    return execute("swift", command, *place, "-Xcc", f"-I{headers}", *options, limit=limit)


def execute(*command: str | Path, limit: float = 600, settings: Mapping[str, str] = {}) -> Ran:
    """Run a program, with more environment variables. RuntimeError where it is missing."""
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is missing: as root on Debian, apt-get install {SWIFT_PACKAGES}")
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        errors="replace",
        timeout=limit,
        env=os.environ | settings | {"LC_ALL": "C.UTF-8"},
    )
    return Ran(done.returncode, done.stdout, done.stderr)
