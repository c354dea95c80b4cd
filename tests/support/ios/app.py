"""The iOS app's sources on this computer: type-checked against the stand-in modules of `stubs`, in Swift 6 mode."""

from __future__ import annotations

from collections.abc import Sequence
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
        _compile_module(name, folder, package_products)
    return folder


def type_check(modules: Path, package_products: Path, sources: list[Path]) -> Ran:
    """Check the app's sources; warnings are errors."""
    options = ["-typecheck", "-module-name", "LoraRarDemo", "-warnings-as-errors"]
    return _compile(modules, package_products, *options, *map(str, sources))


def darwin_modules(modules: Path, package_products: Path) -> Path:
    """Compile what Apple's systems have and Linux has not, Darwin and CryptoKit; the folder of them."""
    folder = modules.with_name("modules-darwin")
    folder.mkdir(exist_ok=True)
    (folder / "module.modulemap").write_text((modules / "module.modulemap").read_text())
    for name in ("Darwin", "CryptoKit"):
        _compile_module(name, folder, package_products)
    return folder


def type_check_engine(modules: Path, package_products: Path, sources: list[Path], only: str | None = None) -> Ran:
    """Check the engine as Apple's systems compile it, by `darwin_modules`: all of it, or the file of one name."""
    if only is None:
        return _compile(modules, package_products, "-typecheck", "-module-name", "Merger", *map(str, sources))
    files = [word for path in sources for word in (["-primary-file"] if path.name == only else []) + [str(path)]]
    return _compile(modules, package_products, "-typecheck", "-module-name", "Merger", *files, mode=["-frontend"])


def _compile_module(name: str, folder: Path, package_products: Path) -> None:
    made = ["-emit-module", "-module-name", name, "-o", str(folder / f"{name}.swiftmodule")]
    ran = _compile(folder, package_products, *made, *map(str, sorted((STUBS / name).glob("*.swift"))))
    if ran.code:
        raise RuntimeError(f"the stand-in for {name} can't be compiled: {ran.err[-3000:]}")


def _compile(modules: Path, package_products: Path, *arguments: str, mode: Sequence[str] = ()) -> Ran:
    places = ["-I", str(modules), "-I", str(package_products / "Modules")]
    headers = ["-Xcc", f"-fmodule-map-file={modules / 'module.modulemap'}"]
    return execute("swiftc", *mode, "-swift-version", "6", "-parse-as-library", *places, *headers, *arguments)
