"""The app's APK, built from its sources without Gradle and the Android SDK, neither of which can be installed here.

What Gradle does, by the tools it uses: aapt2, kotlinc, D8, zipalign, apksigner. The framework is the stubs of
framework.py and Debian's resources of Android 14. Debian packages: aapt, zipalign, apksigner, android-framework-res,
dexdump, default-jdk-headless, npm. The native libraries are the runtimes' for arm64 phones.
"""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from android import framework
from android.kotlin import (
    QUICK_JAVA,
    ROOT,
    compile_kotlin,
    executorch_classes,
    onnxruntime_classes,
    stdlib,
)
from android.libraries import ANDROID, strip_tools
from devices.fetch import EXECUTORCH_ANDROID, ONNXRUNTIME_ANDROID, Wheel, android_archive, npm_package, run, wheel

APP = ROOT / "android_demo" / "app"
MAIN = APP / "src" / "main"
SAMPLES = ROOT / "android_demo" / "samples.properties"
DATASET = ROOT / "models" / "miniature" / "dataset"
FRAMEWORK_RESOURCES = Path("/usr/share/android-framework-res/framework-res.apk")
# Its D8 is the one of Android's build tools: none is to be had on its own.
BUNDLETOOL = Wheel("mobsf", "4.4.0", "any", "3.11", "74329efc7eee885ca6b9448726ca448c6f5c7ca80ec3dc9a98ee11fb7cd7c0d4")
ABI = "arm64-v8a"
MIN_SDK, TARGET_SDK = 26, 36
PAGE = 16384  # of memory, on new phones


@dataclass(frozen=True)
class Built:
    """The signed APK, and the classes that it was made from."""

    apk: Path
    app: Path
    stubs: Path


def build(folder: Path, merger: Path, bundle: Path) -> Built:
    """Build the APK with a bundle in its assets. RuntimeError with a tool's words."""
    if not FRAMEWORK_RESOURCES.exists():
        raise RuntimeError("android-framework-res is missing: make test-apps installs it")
    stubs = framework.build(folder / "framework")
    assets = make_assets(folder / "assets", bundle)
    unaligned, generated = _link(folder, assets)
    resources = _compile_java(generated, folder / "resources")
    classpath = [stubs, resources, merger, onnxruntime_classes(), executorch_classes()]  # ExecuTorch's may be older
    app = compile_kotlin([MAIN / "kotlin"], folder / "app.jar", classpath)
    dex = _dex([app, resources, merger, stdlib(), onnxruntime_classes(), executorch_classes()], stubs, folder / "dex")
    _add(unaligned, dex, merger)
    return Built(_sign(unaligned, folder), app, stubs)


def make_assets(folder: Path, bundle: Path) -> Path:
    """The bundle where `export.pipeline --into android_demo` puts it, and the samples that Gradle copies."""
    shutil.copytree(bundle, folder / "bundles" / "onnx")
    for role, names in sample_names().items():
        (folder / "samples" / role).mkdir(parents=True)
        for name in names:
            place = folder / "samples" / role
            shutil.copy(DATASET / "loras" / role / f"{name}.safetensors", place)
            picture = f"{name}_0.png" if role == "contents" else f"{name}.png"
            shutil.copy(DATASET / "images" / role / picture, place / f"{name}.png")
    return folder


def sample_names() -> dict[str, list[str]]:
    """samples.properties, which Gradle reads too: role → names."""
    lines = [line for line in SAMPLES.read_text(encoding="utf-8").splitlines() if "=" in line and line[0] != "#"]
    pairs = [line.split("=", 1) for line in lines]
    return {role.strip(): names.split() for role, names in pairs}


def _link(folder: Path, assets: Path) -> tuple[Path, Path]:
    """aapt2: an APK without code, and the Java source of R."""
    compiled, apk, generated = folder / "resources.zip", folder / "unaligned.apk", folder / "generated"
    run("aapt2", "compile", "--dir", str(MAIN / "res"), "-o", str(compiled))
    manifest = folder / "AndroidManifest.xml"
    # Gradle adds the package to the manifest from its `namespace`, and makes a debug build debuggable.
    tree = ElementTree.parse(MAIN / "AndroidManifest.xml").getroot()
    strip_tools(tree)
    tree.set("package", "org.lorarar.demo")
    application = tree.find("application")
    assert application is not None
    application.set(f"{ANDROID}debuggable", "true")
    ElementTree.register_namespace("android", ANDROID.strip("{}"))
    ElementTree.ElementTree(tree).write(manifest, encoding="utf-8")
    versions = ["--min-sdk-version", str(MIN_SDK), "--target-sdk-version", str(TARGET_SDK)]
    versions += ["--version-code", "1", "--version-name", "0.1.0"]
    options = ["--manifest", str(manifest), "-I", str(FRAMEWORK_RESOURCES), "-A", str(assets), "--java", str(generated)]
    # What is mapped from the APK is not compressed, as in build.gradle.kts.
    options += [word for kind in ("onnx", "bin", "safetensors") for word in ("-0", kind)]
    run("aapt2", "link", *options, *versions, "--no-version-vectors", "-o", str(apk), str(compiled))
    return apk, generated


def _compile_java(sources: Path, classes: Path) -> Path:
    run("javac", "--release", "11", "-d", str(classes), *map(str, sources.rglob("*.java")))
    return classes


def _dex(jars: Iterable[Path], stubs: Path, folder: Path) -> list[Path]:
    """D8: Java's classes as Android's, for the oldest Android that the app is for."""
    folder.mkdir()
    tools = wheel(BUNDLETOOL) / "mobsf" / "StaticAnalyzer" / "tools" / "bundletool-all-1.17.2.jar"
    inputs = [str(path) for jar in jars for path in (jar.rglob("*.class") if jar.is_dir() else [jar])]
    library = folder.parent / "framework.jar"
    run("jar", "--create", "--file", str(library), "-C", str(stubs), ".")
    home = Path(shutil.which("java") or "java").resolve().parents[1]
    options = ["--min-api", str(MIN_SDK), "--lib", str(library), "--lib", str(home), "--output", str(folder)]
    run("java", "-Xmx1g", *QUICK_JAVA, "-cp", str(tools), "com.android.tools.r8.D8", *options, *inputs)
    return sorted(folder.glob("*.dex"))


def _add(apk: Path, dex: Iterable[Path], merger: Path) -> None:
    """Code, the engine's resources, and the native libraries, which are mapped from the APK and so not compressed."""
    with zipfile.ZipFile(apk, "a", zipfile.ZIP_DEFLATED) as archive, zipfile.ZipFile(merger) as classes:
        for path in dex:
            archive.write(path, path.name)
        for name in classes.namelist():
            if name.endswith(".schema.json"):
                archive.writestr(name, classes.read(name))
        for path in native_libraries():
            archive.write(path, f"lib/{ABI}/{path.name}", zipfile.ZIP_STORED)


def native_libraries() -> list[Path]:
    """ONNX Runtime's and ExecuTorch's for arm64 phones. fbjni's, which ExecuTorch's needs, is left to Gradle."""
    executorch = npm_package(EXECUTORCH_ANDROID) / "third-party" / "android" / "libs" / "executorch" / ABI
    return sorted([*(android_archive(ONNXRUNTIME_ANDROID) / "jni" / ABI).glob("*.so"), *executorch.glob("*.so")])


def _align(unaligned: Path, aligned: Path) -> None:
    """As `zipalign -P 16`, which Debian's has not: stored entries begin where they can be mapped."""
    with zipfile.ZipFile(unaligned) as source, zipfile.ZipFile(aligned, "w") as target:
        for entry in source.infolist():
            written = zipfile.ZipInfo(entry.filename, entry.date_time)
            written.compress_type, written.external_attr = entry.compress_type, entry.external_attr
            if entry.compress_type == zipfile.ZIP_STORED:
                unit = PAGE if entry.filename.endswith(".so") else 4
                start = target.start_dir + 30 + len(entry.filename.encode())  # of the data, without padding
                padding = -(start + 6) % unit
                # A field that apksigner knows and keeps to: its number, its size, the unit, zeros.
                written.extra = struct.pack("<HHH", 0xD935, padding + 2, unit) + bytes(padding)
            target.writestr(written, source.read(entry))


def _sign(unaligned: Path, folder: Path) -> Path:
    """Align libraries for pages of 16 KB, all else that is stored to 4 bytes, and sign with a key of this build."""
    aligned, key = folder / "lorarar.apk", folder / "test.keystore"
    _align(unaligned, aligned)
    name = ["-alias", "test", "-dname", "CN=LoRA.rar test"]
    secret = ["-storepass", "android", "-keypass", "android"]
    kind = ["-keyalg", "RSA", "-keysize", "2048", "-validity", "10000", "-storetype", "PKCS12"]
    run("keytool", "-genkeypair", "-keystore", str(key), *name, *secret, *kind)
    options = ["--ks", str(key), "--ks-pass", "pass:android", "--min-sdk-version", str(MIN_SDK)]
    run("apksigner", "sign", *options, str(aligned), JAVA_TOOL_OPTIONS=os.environ.get("JAVA_TOOL_OPTIONS", ""))
    return aligned
