"""Where the demo apps look for a bundle (`--into android_demo`)."""

from __future__ import annotations

from pathlib import Path

from lorarar.errors import InputError

APPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "android_demo": ("app/src/main/assets/bundles", ("onnx", "executorch")),
    "ios_demo": ("App/Resources/bundles", ("coreml", "onnx", "executorch")),
}
"""App's folder → its bundles' folder, each bundle in one named by its target; the targets that it can run."""


def bundle_place(app: Path, target: str) -> Path:
    """Where the app in the folder `app` expects the bundle of a target. InputError when it can't run that."""
    if app.name not in APPS or not app.is_dir():
        raise InputError(f"--into {app}: no demo app is there; give the path of {' or '.join(APPS)}")
    place, targets = APPS[app.name]
    if target not in targets:
        raise InputError(f"{app.name} runs {', '.join(targets)}, not {target}; give --target {targets[0]}")
    return app / place / target
