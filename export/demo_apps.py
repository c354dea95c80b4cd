"""The demo apps, and where each looks for its bundles (`--into android_demo`)."""

from __future__ import annotations

from pathlib import Path

from export.targets import TARGETS, Target
from lorarar.errors import InputError

BUNDLES: dict[str, str] = {
    "android_demo": "app/src/main/assets/bundles",
    "ios_demo": "App/Resources/bundles",
}
"""App's folder → the folder in it that holds its bundles, each in a folder named by its target."""


def bundle_folder(app: Path, target: Target) -> Path:
    """Return where the app in the folder `app` looks for the bundle of a target; InputError when it can't run that."""
    if app.name not in BUNDLES or not app.is_dir():
        raise InputError(f"{app}: no demo app is there; give the path of {' or '.join(BUNDLES)}")
    if app.name not in target.apps:
        runs = ", ".join(target_name for target_name, other in TARGETS.items() if app.name in other.apps)
        raise InputError(f"{app.name} runs {runs}, not {target.name}; give another `target`")
    return app / BUNDLES[app.name] / target.name
