"""Building the native runner for tests: on this machine's processor, and for an arm64 device."""

from __future__ import annotations

import shutil
from pathlib import Path

from devices.fetch import (
    CACHE,
    EXECUTORCH_ANDROID_NATIVE,
    ONNXRUNTIME_ANDROID,
    Wheel,
    android_archive,
    debian_package,
    npm_package,
    run,
    wheel,
)

SOURCES = Path(__file__).parents[3] / "benchmarks" / "runner"
SHIM = Path(__file__).with_name("bionic_shim.c")
ARM64_ROOT = Path("/usr/aarch64-linux-gnu")  # the cross compiler's libraries, for qemu
COMPILERS = {"x86-64": "x86_64-linux-gnu-g++", "arm64": "aarch64-linux-gnu-g++"}
PROCESSORS = {"x86-64": "x86_64", "arm64": "aarch64"}
ONNXRUNTIME_ARM64 = Wheel(
    "onnxruntime",
    "1.32.0",
    "manylinux_2_28_aarch64",
    "3.11",
    "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
)
EXECUTORCH_ARM64 = Wheel(
    "executorch",
    "1.5.1",
    "manylinux_2_28_aarch64",
    "3.11",
    "8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a",
)


# Its C++ library is of the age of the one in EXECUTORCH_ANDROID_NATIVE: newer headers ask for functions that it lacks.
ZIG = Wheel(
    "ziglang",
    "0.13.0.post1",
    "manylinux_2_12_x86_64",
    "3.11",
    "5ff0f2cb0d583b4f94820909612043f62e4d1d9a8bed77ceec088a01fc2ef015",
)
# Memory errors and undefined behaviour end such a runner with a code that no test expects.
SANITIZED = ("-DLORARAR_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug")
ANDROID_ABIS = {"x86-64": "x86_64", "arm64": "arm64-v8a"}


def build(kind: str, folder: Path, *definitions: str) -> Path:
    """Build lorarar-runner for a key of COMPILERS in `folder` and return the program; `definitions` go to CMake."""
    return _build(kind, folder, f"-DCMAKE_CXX_COMPILER={COMPILERS[kind]}", *definitions)


def build_with_executorch(kind: str, folder: Path, *definitions: str) -> Path:
    """Build lorarar-runner with the C++ libraries of ExecuTorch's wheel, and return the program."""
    return build(kind, folder, f"-DLORARAR_EXECUTORCH_ROOT={_executorch_wheel(kind)}", *definitions)


def _executorch_wheel(kind: str) -> Path:
    """The package that is installed here, or the one for arm64."""
    if kind == "arm64":
        return wheel(EXECUTORCH_ARM64) / "executorch"
    import executorch

    (folder,) = executorch.__path__
    return Path(folder)


def build_for_android(kind: str, folder: Path) -> Path:
    """Build lorarar-runner with the ExecuTorch of an Android package, and return the program.

    It runs on Linux with musl's loader (/lib/ld-musl-*.so.1), not on a phone: the library is Android's, the C library
    below it is not. The libraries that it needs lie beside it, and those that ONNX Runtime's Android library needs.
    """
    package = npm_package(EXECUTORCH_ANDROID_NATIVE) / "third-party"
    library = package / "android" / "libs" / "executorch" / ANDROID_ABIS[kind] / "libexecutorch.so"
    root = folder / "executorch"
    (root / "lib").mkdir(parents=True)
    (root / "include").symlink_to(package / "include")
    shutil.copy(library, root / "lib" / "libexecutorch.so")
    shutil.copy(library, folder / "libexecutorch_jni.so")  # its own name, which the loader looks for
    zig, target = _zig(), f"-target {PROCESSORS[kind]}-linux-musl"
    shim = folder / "bionic_shim.o"
    compile_c = [zig, "cc", *target.split(), "-O2", "-fPIC"]
    _compile(*compile_c, "-c", str(SHIM), "-o", str(shim))
    for name, symbols in (("liblog.so", []), ("libandroid.so", []), ("libfbjni.so", _java_symbols(library))):
        source = folder / f"{name}.c"
        source.write_text("".join(f"void {symbol}(void) {{ __builtin_trap(); }}\n" for symbol in symbols))
        _compile(*compile_c, "-nostdlib", "-shared", str(source), "-o", str(folder / name))
    return _build(
        kind,
        folder,
        f"-DCMAKE_CXX_COMPILER={_compiler(folder, zig, target)}",
        "-DCMAKE_CXX_FLAGS=-D_LIBCPP_ABI_NAMESPACE=__ndk1 -Wno-macro-redefined",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -UNDEBUG",  # with NDEBUG the package's headers declare glibc's __assert_fail
        f"-DCMAKE_EXE_LINKER_FLAGS={shim} -Wl,--export-dynamic -Wl,--allow-shlib-undefined",
        f"-DLORARAR_EXECUTORCH_ROOT={root}",
        f"-DLORARAR_EXECUTORCH_VERSION={EXECUTORCH_ANDROID_NATIVE.name} {EXECUTORCH_ANDROID_NATIVE.version}",
    )


def _compiler(folder: Path, zig: str, target: str) -> Path:
    """Write a C++ compiler that links no C++ library: what the package's own library has of it is used.

    CMake links before it has read a flag for that, for which zig would compile two libraries, for minutes.
    """
    program = folder / "c++"
    program.write_text(f"""#!/bin/sh
case " $* " in *" -c "* | *" -E "*) ;; *) set -- "$@" -dynamic -nostdlib++ -lunwind ;; esac
exec {zig} c++ {target} "$@"
""")
    program.chmod(0o755)
    return program


def _build(kind: str, folder: Path, *definitions: str) -> Path:
    configure = [
        "-DCMAKE_SYSTEM_NAME=Linux",
        f"-DCMAKE_SYSTEM_PROCESSOR={PROCESSORS[kind]}",
        "-DLORARAR_STRICT=ON",
        f"-DLORARAR_ONNXRUNTIME_INCLUDE={android_archive(ONNXRUNTIME_ANDROID) / 'headers'}",
        # Unpacked apart: a cross compiler must not be given /usr/include, where the installed package lies.
        f"-DCMAKE_PREFIX_PATH={debian_package('nlohmann-json3-dev') / 'usr'}",
        *definitions,
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _compile("cmake", "-S", str(SOURCES), "-B", str(folder), *configure, cwd=folder)
    _compile("cmake", "--build", str(folder), "--parallel", "2", cwd=folder)
    return folder / "lorarar-runner"


def _zig() -> str:
    program = wheel(ZIG) / "ziglang" / "zig"
    program.chmod(0o755)  # unpacking a wheel loses it
    return str(program)


def _compile(*command: str, cwd: Path | None = None) -> None:
    """Run a compiler; zig keeps what it has compiled of its own libraries in the cache, and leaves a file `-` in `cwd`
    where CMake means its standard output.
    """
    run(*command, cwd=cwd, ZIG_GLOBAL_CACHE_DIR=str(CACHE / "zig"), ZIG_LOCAL_CACHE_DIR=str(CACHE / "zig"))


def _java_symbols(library: Path) -> list[str]:
    """The functions of Facebook's JNI library that a library wants: none is called without Java."""
    wanted = run("nm", "-D", "--undefined-only", str(library)).split()
    return sorted({name for name in wanted if name.startswith(("_ZN8facebook", "_ZNK8facebook"))})


def onnxruntime_arm64() -> Path:
    """ONNX Runtime's library for Linux on arm64."""
    (library,) = (wheel(ONNXRUNTIME_ARM64) / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
    return library
