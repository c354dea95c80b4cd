"""The iOS app's sources on this computer: type-checked against the stand-in modules of `stubs`, in Swift 6 mode."""

from __future__ import annotations

from pathlib import Path

from ios.swift import BUILDS, DEMO, PACKAGE, Ran, execute

STUBS = Path(__file__).with_name("stubs")
SOURCES = DEMO / "App" / "Sources"
# In the order in which they need each other.
MODULES = ("CoreGraphics", "UniformTypeIdentifiers", "UIKit", "SwiftUI", "Charts")


def compile_modules(package_products: Path) -> Path:
    """Compile the stand-in modules; the folder of them and of the engine's. RuntimeError with the compiler's words."""
    folder = BUILDS / "modules"
    folder.mkdir(parents=True, exist_ok=True)
    header = PACKAGE / "Sources" / "COnnxRuntime" / "include" / "lorarar_ort.h"
    (folder / "module.modulemap").write_text(f'module COnnxRuntime {{ header "{header}" export * }}\n')
    for name in MODULES:
        sources = sorted((STUBS / name).glob("*.swift"))
        made = ["-emit-module", "-module-name", name, "-o", str(folder / f"{name}.swiftmodule")]
        ran = _compile(folder, package_products, *made, *map(str, sources))
        if ran.code:
            raise RuntimeError(f"the stand-in for {name} can't be compiled: {ran.err[-3000:]}")
    return folder


def type_check(modules: Path, package_products: Path, sources: list[Path]) -> Ran:
    """Check the app's sources; warnings are errors."""
    options = ["-typecheck", "-module-name", "LoraRarDemo", "-warnings-as-errors"]
    return _compile(modules, package_products, *options, *map(str, sources))


def _compile(modules: Path, package_products: Path, *arguments: str) -> Ran:
    places = ["-I", str(modules), "-I", str(package_products / "Modules")]
    headers = ["-Xcc", f"-fmodule-map-file={modules / 'module.modulemap'}"]
    return execute("swiftc", "-swift-version", "6", "-parse-as-library", *places, *headers, *arguments)


def type_check_engine(modules: Path, package_products: Path, sources: list[Path]) -> Ran:
    """Check the engine as Apple's systems compile it: with Darwin and CryptoKit, of which Linux has neither."""
    folder = modules.with_name("modules-darwin")
    folder.mkdir(exist_ok=True)
    (folder / "module.modulemap").write_text((modules / "module.modulemap").read_text())
    for name in ("Darwin", "CryptoKit"):
        made = ["-emit-module", "-module-name", name, "-o", str(folder / f"{name}.swiftmodule")]
        ran = _compile(folder, package_products, *made, *map(str, sorted((STUBS / name).glob("*.swift"))))
        if ran.code:
            raise RuntimeError(f"the stand-in for {name} can't be compiled: {ran.err[-3000:]}")
    return _compile(folder, package_products, "-typecheck", "-module-name", "Merger", *map(str, sources))
