"""Building the native runner for tests: on this machine's processor, and for an arm64 device."""

from __future__ import annotations

import zipfile
from pathlib import Path

from devices.fetch import ONNXRUNTIME_ANDROID, Wheel, cached, debian_package, npm_package, run, wheel

SOURCES = Path(__file__).parents[2] / "benchmarks" / "runner"
ARM64_ROOT = Path("/usr/aarch64-linux-gnu")  # the cross compiler's libraries, for qemu
COMPILERS = {"x86-64": "x86_64-linux-gnu-g++", "arm64": "aarch64-linux-gnu-g++"}
PROCESSORS = {"x86-64": "x86_64", "arm64": "aarch64"}
ONNXRUNTIME_ARM64 = Wheel("onnxruntime", "1.32.0", "manylinux_2_28_aarch64", "3.11", "")


def build(kind: str, folder: Path, *definitions: str) -> Path:
    """Build lorarar-runner for a key of COMPILERS in `folder` and return the program; `definitions` go to CMake."""
    configure = [
        f"-DCMAKE_CXX_COMPILER={COMPILERS[kind]}",
        "-DCMAKE_SYSTEM_NAME=Linux",
        f"-DCMAKE_SYSTEM_PROCESSOR={PROCESSORS[kind]}",
        f"-DLORARAR_ONNXRUNTIME_INCLUDE={onnxruntime_headers()}",
        # Unpacked apart: a cross compiler must not be given /usr/include, where the installed package lies.
        f"-DCMAKE_PREFIX_PATH={debian_package('nlohmann-json3-dev') / 'usr'}",
        *definitions,
    ]
    run("cmake", "-S", str(SOURCES), "-B", str(folder), *configure)
    run("cmake", "--build", str(folder))
    return folder / "lorarar-runner"


def onnxruntime_headers() -> Path:
    """The folder of onnxruntime_c_api.h."""

    def make(folder: Path) -> None:
        (archive,) = npm_package(ONNXRUNTIME_ANDROID).rglob("*.aar")
        with zipfile.ZipFile(archive) as unzip:
            unzip.extractall(folder, [name for name in unzip.namelist() if name.startswith("headers/")])

    return cached("onnxruntime-headers", make) / "headers"


def onnxruntime_arm64() -> Path:
    """ONNX Runtime's library for Linux on arm64."""
    (library,) = (wheel(ONNXRUNTIME_ARM64) / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
    return library
