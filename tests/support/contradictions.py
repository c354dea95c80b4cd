"""Manifests of whole pipelines that contradict themselves: Python and both engines must say the same of each."""

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
    """Write a contradicting manifest of a bundle whose two text encoders take LoRAs."""
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


def _reshaped(component: str, **shapes: list[int]) -> Callable[[Manifest], None]:
    """Tensors of a component with other shapes, the golden inputs of the same shapes."""

    def edit(manifest: Manifest) -> None:
        entry = manifest["components"][component]
        for spec in (*entry["inputs"], *entry["outputs"]):
            spec["shape"] = shapes.get(spec["name"], spec["shape"])
        for name, spec in entry["golden"]["inputs"].items():
            spec["shape"] = shapes.get(name, spec["shape"])

    return edit


def _one_more_input(component: str) -> Callable[[Manifest], None]:
    """An input that nothing fills."""

    def edit(manifest: Manifest) -> None:
        entry = manifest["components"][component]
        entry["inputs"].append({"name": "depth", "dtype": "float32", "shape": [1]})
        entry["golden"]["inputs"]["depth"] = {"shape": [1], "value": 1}

    return edit


def _no_output(component: str, name: str) -> Callable[[Manifest], None]:
    """An output of another name."""

    def edit(manifest: Manifest) -> None:
        next(spec for spec in manifest["components"][component]["outputs"] if spec["name"] == name)["name"] = "other"

    return edit


def _no_states(manifest: Manifest) -> None:
    """The first encoder embeds in the place of giving states, which the UNet doesn't miss."""
    (states,) = manifest["components"][FIRST]["outputs"]
    states["name"] = "text_embeds"
    (width,) = (s["shape"][-1] for s in manifest["components"][SECOND]["outputs"] if s["name"] == "hidden_states")
    _reshaped("unet", encoder_hidden_states=[2, 77, width])(manifest)


def _two_embed(manifest: Manifest) -> None:
    manifest["components"][FIRST]["outputs"].append({"name": "text_embeds", "dtype": "float32", "shape": [1, 48]})


def _other_lengths(manifest: Manifest) -> None:
    manifest["pipeline"]["tokenizers"][SECOND]["length"] = 76


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
    "a sample that is no square": (_reshaped("unet", sample=[2, 4, 6, 8], noise_pred=[2, 4, 6, 8]), "unet's sample"),
    "a sample of one axis": (_reshaped("unet", sample=[2], noise_pred=[2]), "unet's sample"),
    "a sample of three axes": (_reshaped("unet", sample=[2, 4, 8], noise_pred=[2, 4, 8]), "unet's sample"),
    "an odd width of timesteps": (_reshaped("unet", timestep_sinusoids=[2, 15]), "unet's timestep_sinusoids"),
    "no timesteps": (_without_inputs("unet", "timestep_sinusoids"), "unet's timestep_sinusoids"),
    "no noise": (_no_output("unet", "noise_pred"), "unet's noise_pred"),
    "a tile of one latent": (
        _reshaped("vae_decoder", latents=[1, 4, 1, 1], image=[1, 3, 4, 4]),
        "vae_decoder's latents",
    ),
    "states of two axes": (_reshaped(FIRST, hidden_states=[77, 32]), "text_encoder's hidden_states"),
    "states of two prompts": (_reshaped(FIRST, hidden_states=[2, 77, 32]), "text_encoder's hidden_states"),
    "states of fewer tokens": (_reshaped(SECOND, hidden_states=[1, 76, 48]), "text_encoder_2's hidden_states"),
    "an encoder without states": (_no_states, "text_encoder's hidden_states"),
    "no embeddings": (_no_output(SECOND, "text_embeds"), "unet's text_embeds"),
    "embeddings of two prompts": (_reshaped(SECOND, text_embeds=[2, 48]), "text_encoder_2's text_embeds"),
    "two encoders that embed": (_two_embed, "text_encoder's text_embeds"),
    "tokenizers of two lengths": (_other_lengths, "text_encoder_2's input_ids"),
    "a text encoder that takes more": (_one_more_input(FIRST), "text_encoder's depth"),
    "a UNet that takes more": (_one_more_input("unet"), "unet's depth"),
    "a decoder that takes more": (_one_more_input("vae_decoder"), "vae_decoder's depth"),
}
"""What is done to the manifest, and what is said of it."""
