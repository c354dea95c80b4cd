"""The targets: how a graph becomes an artifact. One file describes a target, without importing its toolchain.

To add one, describe it in a file beside these (`TARGET`), import that file below, and give it a backend in
`runtime_py/backends/`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from export.targets import coreai, coreml, executorch, onnx, qnn
from export.targets.target import Target as Target
from lorarar.errors import InputError
from runtime_py.backends import load_backend

TARGETS: dict[str, Target] = {module.TARGET.name: module.TARGET for module in (onnx, coreml, coreai, executorch, qnn)}
APPS = {"android_demo": "app/src/main/assets/bundles", "ios_demo": "App/Resources/bundles"}
"""A demo app's folder → the folder in it that holds its bundles, each in a folder named by its target."""


def find_target(name: str) -> Target:
    """Return the target of that name; InputError tells the names there are."""
    if not isinstance(name, str) or name not in TARGETS:
        raise InputError(f"unknown `target` {name!r}; valid are {', '.join(TARGETS)}")
    return TARGETS[name]


def require_toolchains(target: Target) -> None:
    """Refuse a target whose toolchain is missing, or its runtime: what can't be checked in the end is not begun."""
    target.load_converter()
    load_backend(target.name)


def find_offer(
    name: str, component: str, precision: str | None, soc: str | None = None, vae_precision: str | None = None
) -> tuple[Target, str]:
    """Return a target, for a chip where it is compiled for one, and the precision of a component (default: its own).

    Raises InputError for what the target does not offer, a `soc` and a `vae_precision` too.
    """
    target = find_target(name).compiled_for(soc)
    precision = target.default_precision if precision is None else precision
    target.require(component, precision)
    if vae_precision is not None:
        target.require("vae_decoder", vae_precision)
    return target, precision


def default_targets(app: Path) -> list[str]:
    """Return the targets that a demo app's bundles are made for, those whose toolchain is installed of several.

    Raises InputError where there is no demo app in the folder `app`.
    """
    _require_app(app)
    found = [target for target in TARGETS.values() if app.name in target.default_for]
    installed = [target for target in found if all(find_spec(package) is not None for package in target.packages)]
    return [target.name for target in installed or found]


def bundle_folder(app: Path, target: Target) -> Path:
    """Return where the app in the folder `app` looks for the bundle of a target; InputError when it can't run that."""
    _require_app(app)
    if app.name not in target.apps:
        runs = ", ".join(name for name, other in TARGETS.items() if app.name in other.apps)
        raise InputError(f"{app.name} runs {runs}, not {target.name}; give another `target`")
    return app / APPS[app.name] / target.name


def _require_app(app: Path) -> None:
    if app.name not in APPS or not app.is_dir():
        raise InputError(f"{app}: no demo app is there; give the path of {' or '.join(APPS)}")
