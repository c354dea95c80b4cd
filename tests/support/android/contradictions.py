"""Manifests whose layout and text encoders contradict each other: both engines must say the same of each."""

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


def write_contradictions(folder: Path, bundle: Bundle) -> None:
    """Write the manifests, of a bundle whose text encoders take LoRAs, and what Python says of each after its path."""
    said = {}
    for name, edit in CONTRADICTIONS.items():
        manifest = json.loads((bundle.path / "manifest.json").read_text())
        edit(manifest)
        place = folder / name
        place.mkdir(parents=True)
        (place / "manifest.json").write_text(json.dumps(manifest))
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


CONTRADICTIONS: dict[str, Callable[[Manifest], None]] = {
    "a text encoder without coefficients": _without_inputs(SECOND, COEFFICIENTS),
    "a text encoder that takes no LoRA of its groups": _without_inputs(FIRST, ROLES, ADAPTER, COEFFICIENTS),
    "a text encoder that takes LoRAs of no group": _no_group,
    "a text encoder that takes roles of no LoRA": _roles_alone,
    "a text encoder for two prompts at once": _two_rows,
    "a text encoder with the inputs of the other": _the_others_inputs,
    "a layer twice in a text encoder": _a_layer_twice,
}
