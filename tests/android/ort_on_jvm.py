"""ONNX Runtime's Android library, made loadable by this computer's Java: glibc stands in for Android's C library.

It is the library of the Java API that the app has, not a phone's C library or processor.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

from android.kotlin import onnxruntime_archive
from devices.build_runner import SHIM
from devices.fetch import run

LIBRARIES = ("libonnxruntime.so", "libonnxruntime4j_jni.so")
# Android's library → what has the functions here.
STAND_INS = {"libc.so": "-lc", "libm.so": "-lm", "libdl.so": "-ldl", "liblog.so": "-lc", "libandroid.so": "-lc"}

_PT_DYNAMIC = 2
_VERSIONS = {0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF}  # DT_VERSYM, DT_VERDEF(NUM), DT_VERNEED(NUM)
_IGNORED = 0x6000000E  # in the range of the operating system's own, where no loader looks


def prepare(folder: Path) -> tuple[dict[str, object], dict[str, str]]:
    """Make the libraries in `folder`; returns Java's properties and the environment to run it in."""
    for name in LIBRARIES:
        path = folder / name
        shutil.copy(onnxruntime_archive() / "jni" / "x86_64" / name, path)
        path.write_bytes(without_versions(path.read_bytes()))
    empty = folder / "empty.c"
    empty.write_text("")
    for name, library in STAND_INS.items():
        options = ["-shared", "-fPIC", "-Wl,--no-as-needed", f"-Wl,-soname,{name}"]
        run("gcc", *options, str(empty), library, "-o", str(folder / name))
    shim = folder / "libshim.so"
    run("gcc", "-shared", "-fPIC", "-O2", str(SHIM), "-ldl", "-o", str(shim))
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "LD_PRELOAD": str(shim)}
    return {"onnxruntime.native.path": folder}, environment


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
