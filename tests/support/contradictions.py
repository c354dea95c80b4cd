"""Manifests whose layout and text encoders contradict each other: Python and both engines must say the same of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorarar.errors import InputError
from lorarar.layout import ADAPTER, COEFFICIENTS, ROLES
from runtime_py.bundle import Bundle
from runtime_py.manifest import read_manifest

Manifest = dict[str, Any]
FIRST, SECOND = "text_encoder", "text_encoder_2"


def write_contradiction(name: str, bundle: Path, folder: Path) -> None:
    """Write the manifest of a bundle whose text encoders take LoRAs, contradicting itself."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    CONTRADICTIONS[name][0](manifest)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_contradictions(folder: Path, bundle: Bundle) -> None:
    """Write all of them, and what Python says of each after its path."""
    said = {}
    for name in CONTRADICTIONS:
        place = folder / name
        write_contradiction(name, bundle.path, place)
        try:
            read_manifest(place)
        except InputError as error:
            said[name] = str(error).removeprefix(str(place))
        else:
            raise AssertionError(f"Python takes a bundle with {name}")
    (folder / "index.json").write_text(json.dumps(said))


def _without_inputs(component: str, *starts: str) -> Callable[[Manifest], None]:
    """A component that lacks the inputs whose names start so."""

    def edit(manifest: Manifest) -> None:
        entry = manifest["components"][component]
        entry["inputs"] = [spec for spec in entry["inputs"] if not spec["name"].startswith(starts)]
        given = entry["golden"]["inputs"]
        entry["golden"]["inputs"] = {name: spec for name, spec in given.items() if not name.startswith(starts)}

    return edit


def _no_group(manifest: Manifest) -> None:
    layout = manifest["layout"]
    layout["groups"] = [group for group in layout["groups"] if not group["name"].startswith("te1_")]


def _roles_alone(manifest: Manifest) -> None:
    _no_group(manifest)
    _without_inputs(FIRST, ADAPTER, COEFFICIENTS)(manifest)


def _two_rows(manifest: Manifest) -> None:
    entry = manifest["components"][FIRST]
    spec = next(spec for spec in entry["inputs"] if spec["name"].startswith(COEFFICIENTS))
    spec["shape"][0] = entry["golden"]["inputs"][spec["name"]]["shape"][0] = 2


def _the_others_inputs(manifest: Manifest) -> None:
    components = manifest["components"]
    components[FIRST] |= {key: components[SECOND][key] for key in ("inputs", "golden")}


def _a_layer_twice(manifest: Manifest) -> None:
    modules = manifest["layout"]["groups"][-1]["modules"]
    modules[-1] = modules[0]


def _a_layer_less(manifest: Manifest) -> None:
    next(group for group in manifest["layout"]["groups"] if group["name"].startswith("te2_"))["modules"].pop()


_FIRST, _SECOND = (f"the {name}'s inputs for LoRAs are not its layout's" for name in (FIRST, SECOND))
CONTRADICTIONS: dict[str, tuple[Callable[[Manifest], None], str]] = {
    "a text encoder without coefficients": (_without_inputs(SECOND, COEFFICIENTS), _SECOND),
    "a text encoder that takes no LoRA of its groups": (_without_inputs(FIRST, ROLES, ADAPTER, COEFFICIENTS), _FIRST),
    "a text encoder that takes LoRAs of no group": (_no_group, _FIRST),
    "a text encoder that takes roles of no LoRA": (_roles_alone, _FIRST),
    "a text encoder for two prompts at once": (_two_rows, _FIRST),
    "a text encoder with the inputs of the other": (_the_others_inputs, _FIRST),
    "a layer less in a text encoder": (_a_layer_less, _SECOND),
    "a layer twice in a text encoder": (_a_layer_twice, "layout repeats a name"),
}
"""What is done to the manifest, and what is said of it."""
