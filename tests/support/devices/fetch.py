"""What tests build and run against, from packages: pinned by hash, kept in build/devices/cache, never committed."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lorarar.files import atomic_folder

CACHE = Path(__file__).parents[3] / "build" / "devices" / "cache"


@dataclass(frozen=True)
class NpmPackage:
    """A package of npm, and the SHA-512 of its archive as npm writes it."""

    name: str
    version: str
    integrity: str


@dataclass(frozen=True)
class Wheel:
    """A wheel for another machine than this one, and its SHA-256."""

    name: str
    version: str
    platform: str
    python: str
    sha256: str


# ONNX Runtime 1.29.0 as Android's archive with its C headers; ExecuTorch's Android library with its Java classes.
ONNXRUNTIME_ANDROID = NpmPackage(
    "com.github.asus4.onnxruntime",
    "0.4.9",
    "BkzxduSZ9IkeDP6Q8lz2TFU2ie7hSSvS7ZIfzMooExoq0CNzJnuuGaUJ7IsojBgqO4ouD1jXah8OYyJbCN29Fg==",
)
EXECUTORCH_ANDROID = NpmPackage(
    "react-native-executorch",
    "0.9.3",
    "eanpDe8sFFxbKfCh0lqrSVyU4/deiF1pZWtZOjZSV+w+qfuNsdrkQkoscxvhMwJOnvXNkBt4BXAr8pAlGOXStA==",
)
# The native runner is built on an older one: the newer one's headers include one that it does not have.
EXECUTORCH_ANDROID_NATIVE = NpmPackage(
    "react-native-executorch",
    "0.8.5",
    "MnJed2mO0Up8+iznsI9mAhmS1ZOTLeCoSRbemETGU1aPq3veib55inm1N1eCr1ktklKK25KeU8Hww177JNDcZg==",
)
# Facebook's JNI helper, which ExecuTorch's Android library is written with: its library, and its Java classes, which a
# later archive no longer has.
FBJNI_LIBRARY = NpmPackage(
    "react-native",
    "0.68.7",
    "t7XvcwKyXhN9vR8GfgLUyEYYccwI390pG7debFSGns/5Vb0+/ZiGuSmVZGLNt1NVc3UH2zI2GGkDdSJR8Locig==",
)
FBJNI_CLASSES = NpmPackage(
    "react-native",
    "0.61.5",
    "MXqE3NoGO0T3dUKIKkIppijBhRRMpfN6ANbhMXHDuyfA+fSilRWgCwYgR/YNCC7ntECoJYikKaNTUBB0DeQy6Q==",
)


def npm_package(package: NpmPackage) -> Path:
    """The unpacked package."""

    def make(folder: Path) -> None:
        target = f"{package.name}@{package.version}"
        run("npm", "pack", "--silent", "--pack-destination", str(folder), target)
        (archive,) = folder.glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != package.integrity:
            raise RuntimeError(f"{target}: its archive is not the pinned one, but sha512-{digest}")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        archive.unlink()

    return cached(f"{package.name}-{package.version}", make) / "package"


def android_archive(package: NpmPackage) -> Path:
    """The unpacked Android archive of a package: classes.jar, jni/ABI and, in some, headers."""

    def make(folder: Path) -> None:
        (archive,) = npm_package(package).rglob("*.aar")
        with zipfile.ZipFile(archive) as unzip:
            unzip.extractall(folder)

    return cached(f"{package.name}-{package.version}-android", make)


def wheel(pinned: Wheel) -> Path:
    """The unpacked wheel."""

    def make(folder: Path) -> None:
        requirement = f"{pinned.name}=={pinned.version} --hash=sha256:{pinned.sha256}"
        (folder / "requirements.txt").write_text(requirement + "\n")
        options = ["--platform", pinned.platform, "--python-version", pinned.python, "--only-binary=:all:"]
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *options]
        run(*download, "--dest", str(folder), "--requirement", str(folder / "requirements.txt"))
        (archive,) = folder.glob("*.whl")
        with zipfile.ZipFile(archive) as unzip:
            unzip.extractall(folder)
        archive.unlink()

    return cached(f"{pinned.name}-{pinned.version}-{pinned.platform}", make)


def debian_package(name: str, architecture: str | None = None) -> Path:
    """A Debian package's files, unpacked and not installed; apt checks its signature."""

    def make(folder: Path) -> None:
        wanted = f"{name}:{architecture}" if architecture else name
        run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", wanted, cwd=folder)
        (archive,) = folder.glob("*.deb")
        run("dpkg-deb", "--extract", str(archive), str(folder))
        archive.unlink()

    return cached(f"{name}-{architecture or 'any'}", make)


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of this name in the cache; `make` fills it where there is none yet."""
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):  # two workers of pytest may want it at once
        if not folder.exists():
            with atomic_folder(folder) as unfinished:
                make(unfinished)
    return folder


def run(*command: str, cwd: Path | None = None, **environment: str) -> str:
    """A program's standard output. RuntimeError with its last words where it is missing or fails."""
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is missing; make test-devices needs it")
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, errors="replace"
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
