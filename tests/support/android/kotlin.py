"""Compiling the Android app's Kotlin for this computer's Java, and running its JUnit tests.

Debian packages: default-jdk-headless (java, javac), npm, gcc; apt-get downloads JUnit without installing it.
"""

from __future__ import annotations

import re
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devices.fetch import (
    EXECUTORCH_ANDROID,
    ONNXRUNTIME_ANDROID,
    NpmPackage,
    android_archive,
    debian_package,
    npm_package,
    run,
)

ROOT = Path(__file__).parents[3]
MERGER, APP = ROOT / "android_demo" / "merger", ROOT / "android_demo" / "app"
SCHEMAS = (ROOT / "runtime_py" / "manifest.schema.json", ROOT / "benchmarks" / "record.schema.json")
KOTLIN = NpmPackage(
    "kotlin-compiler",
    "2.3.21",  # the pair of libs.versions.toml's Android plugin
    "yOZPv6Z6g4tcf0AL2FPid7DYvlJECq9GiuGKU8Qx+TzSOk6cytihMOPlyCIG52uAlC7BaEkn8SKm3JpoT/Dekg==",
)
QUICK_JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
JVM_TARGET = "11"  # what D8 of 2023 reads


@dataclass(frozen=True)
class Ran:
    """A JUnit run: how many tests it had, and for each failure its first line."""

    tests: int
    failures: tuple[str, ...]
    output: str


def compile_kotlin(sources: Sequence[Path], jar: Path, classpath: Sequence[Path], friend: Path | None = None) -> Path:
    """Compile Kotlin files into a jar without the standard library; they see what is internal in the jar `friend`.

    RuntimeError with the compiler's words.
    """
    home = npm_package(KOTLIN)
    # Compiled once and for all: the second compiler of Java's would take longer than it saves.
    compiler = ["java", "-Xmx1g", *QUICK_JAVA, "-cp", str(home / "lib" / "kotlin-compiler.jar")]
    options = ["-jvm-target", JVM_TARGET, "-no-reflect", "-no-stdlib", "-Werror", "-cp", joined([stdlib(), *classpath])]
    options += [f"-Xfriend-paths={friend}"] if friend else []
    files = [str(path) for given in sources for path in (sorted(given.rglob("*.kt")) if given.is_dir() else [given])]
    run(*compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", *options, "-d", str(jar), *files)
    return jar


def stdlib() -> Path:
    return npm_package(KOTLIN) / "lib" / "kotlin-stdlib.jar"


def build_merger(folder: Path, sources: Path = MERGER / "src" / "main" / "kotlin") -> Path:
    """The engine's jar, with the toolkit's schemas as its resources. No Android class is on its classpath."""
    jar = compile_kotlin([sources], folder / "merger.jar", [onnxruntime_classes()])
    with zipfile.ZipFile(jar, "a") as archive:
        for schema in SCHEMAS:
            archive.write(schema, schema.name)
    return jar


def build_tests(folder: Path, merger: Path) -> Path:
    """The engine's JUnit tests, and what the app's share with them."""
    sources = [MERGER / "src" / kind / "kotlin" for kind in ("testFixtures", "test")]
    classpath = [merger, onnxruntime_classes(), *junit()]
    return compile_kotlin(sources, folder / "merger-tests.jar", classpath, friend=merger)


def build_executorch(folder: Path, merger: Path, tests: Path) -> tuple[Path, Path]:
    """The app's part that calls ExecuTorch, and its tests, compiled with the classes that stand in for ExecuTorch's.

    The part alone is compiled with ExecuTorch's own classes. Those that stand in have the signatures of the version
    that the app names; the ones of the package may be older.
    """
    source = APP / "src" / "main" / "kotlin" / "org" / "lorarar" / "demo" / "ExecuTorchRuntime.kt"
    classpath = [merger, tests, executorch_classes(), *junit()]
    stood_in = compile_kotlin([source, APP / "src" / "test" / "kotlin"], folder / "app-tests.jar", classpath)
    return compile_kotlin([source], folder / "executorch.jar", classpath), stood_in


def junit_command(classes: Sequence[str], jars: Sequence[Path], properties: Mapping[str, object]) -> list[str]:
    """The command that runs test classes, by their full names. Should Java itself crash, its log is in the output."""
    classpath = joined([*jars, stdlib(), onnxruntime_classes(), *junit()])
    settings = [f"-D{name}={value}" for name, value in properties.items()]
    java = ["java", "-Xmx512m", "-XX:+ErrorFileToStdout", *settings, "-cp", classpath]
    return [*java, "org.junit.runner.JUnitCore", *classes]


def run_junit(
    classes: Sequence[str], jars: Sequence[Path], properties: Mapping[str, object], environment: Mapping[str, str]
) -> Ran:
    """Run test classes, by their full names, in a Java of their own."""
    command = junit_command(classes, [*jars, executorch_classes()], properties)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(environment), timeout=600)
    output = done.stdout + done.stderr
    if passed := re.search(r"^OK \((\d+) tests?\)", output, re.MULTILINE):
        return Ran(int(passed[1]), (), output)
    failed = re.search(r"^Tests run: (\d+),  Failures: \d+", output, re.MULTILINE)
    if failed is None:
        raise RuntimeError(f"JUnit gave no result, exit code {done.returncode}: {output[-2000:]}")
    failures = re.findall(r"^\d+\) (.+\n.*)", output, re.MULTILINE)
    return Ran(int(failed[1]), tuple(failures), output)


def junit() -> list[Path]:
    return [
        (debian_package("junit4") / "usr" / "share" / "java" / "junit4.jar"),
        (debian_package("libhamcrest-java") / "usr" / "share" / "java" / "hamcrest.jar"),
    ]


def onnxruntime_classes() -> Path:
    """ONNX Runtime's Java binding, from its Android archive."""
    return android_archive(ONNXRUNTIME_ANDROID) / "classes.jar"


def executorch_classes() -> Path:
    """ExecuTorch's Java binding, from its Android package."""
    return npm_package(EXECUTORCH_ANDROID) / "android" / "libs" / "classes.jar"


def joined(paths: Sequence[Path]) -> str:
    return ":".join(str(path) for path in paths)
