"""The runtimes' Android libraries, made loadable by this computer's Java: glibc stands in for Android's C library.

They are the libraries of the Java APIs that the app has, not a phone's C library or processor.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from android.kotlin import executorch_classes
from devices.build_runner import SHIM
from devices.fetch import (
    EXECUTORCH_ANDROID,
    FBJNI_CLASSES,
    FBJNI_LIBRARY,
    ONNXRUNTIME_ANDROID,
    android_archive,
    npm_package,
    run,
)

ABI = "x86_64"
LOADERS = Path(__file__).with_name("java")
# Android's library → what has the functions here.
STAND_INS = {"libc.so": "-lc", "libm.so": "-lm", "libdl.so": "-ldl", "liblog.so": "-lc", "libandroid.so": "-lc"}

_PT_DYNAMIC = 2
_VERSIONS = {0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF}  # DT_VERSYM, DT_VERDEF(NUM), DT_VERNEED(NUM)
_IGNORED = 0x6000000E  # in the range of the operating system's own, where no loader looks


@dataclass(frozen=True)
class Native:
    """What a Java needs to use a runtime: properties, environment, and classes that go before all others."""

    properties: Mapping[str, object]
    environment: Mapping[str, str]
    classes: Sequence[Path] = ()


def onnxruntime(folder: Path) -> Native:
    """Make ONNX Runtime's libraries in `folder`."""
    libraries = android_archive(ONNXRUNTIME_ANDROID) / "jni" / ABI
    environment = make_loadable(folder, [libraries / "libonnxruntime.so", libraries / "libonnxruntime4j_jni.so"])
    return Native({"onnxruntime.native.path": folder}, environment)


def qnn() -> dict[str, Path]:
    """Return the properties that name Qualcomm's provider and its library for the NPU, which emulates it here."""
    import onnxruntime_qnn

    library, backend = onnxruntime_qnn.get_library_path(), onnxruntime_qnn.get_qnn_htp_path()
    return {"lorarar.qnn.library": Path(library), "lorarar.qnn.backend": Path(backend)}


def executorch(folder: Path) -> Native:
    """Make ExecuTorch's library in `folder`, and those that it needs.

    Android apps load them through Facebook's SoLoader, of which no package has classes for this computer: ours ask
    Java itself.
    """
    library = npm_package(EXECUTORCH_ANDROID) / "third-party" / "android" / "libs" / "executorch" / ABI
    helper = android_archive(FBJNI_LIBRARY) / "jni" / ABI
    needed = [library / "libexecutorch.so", helper / "libfbjni.so", helper / "libc++_shared.so"]
    environment = make_loadable(folder, needed)
    loaders = folder / "classes"
    run("javac", "-d", str(loaders), *map(str, sorted(LOADERS.rglob("*.java"))))
    classes = [loaders, executorch_classes(), android_archive(FBJNI_CLASSES) / "classes.jar"]
    return Native({"java.library.path": folder}, environment, classes)


def make_loadable(folder: Path, libraries: Sequence[Path]) -> dict[str, str]:
    """Copy Android's libraries into `folder` as ones that load here; returns the environment to run a program in."""
    for library in libraries:
        (folder / library.name).write_bytes(without_versions(library.read_bytes()))
    empty = folder / "empty.c"
    empty.write_text("")
    for name, library in STAND_INS.items():
        options = ["-shared", "-fPIC", "-Wl,--no-as-needed", f"-Wl,-soname,{name}"]
        run("gcc", *options, str(empty), library, "-o", str(folder / name))
    shim = folder / "libshim.so"
    run("gcc", "-shared", "-fPIC", "-O2", str(SHIM), "-ldl", "-o", str(shim))
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "LD_PRELOAD": str(shim)}


def without_versions(library: bytes) -> bytes:
    """A 64-bit ELF library that asks for no versions of symbols: Android's are LIBC, glibc's are not."""
    data = bytearray(library)
    (headers,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    for at in range(headers, headers + 56 * count, 56):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == _PT_DYNAMIC:
            for entry in range(offset, offset + size, 16):
                (tag,) = struct.unpack_from("<q", data, entry)
                if tag == 0:
                    break
                if tag in _VERSIONS:
                    struct.pack_into("<qQ", data, entry, _IGNORED, 0)
    return bytes(data)
