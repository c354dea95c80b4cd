"""A whole pipeline bundle made without any toolchain, and a backend of a few lines of numpy that runs it.

The layout, the hypernetwork and its golden files are those of tests/golden/hypernet. What its networks compute means
nothing; it only depends on every input, so that a test sees what they were given.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lorarar.layout import adapter_shapes, coefficient_shapes, fixed, roles_shape
from runtime_py.backends import Backend, Way, checked_inputs
from runtime_py.bundle import Bundle
from runtime_py.component import Component
from runtime_py.golden import WITHOUT, sample, summarise
from runtime_py.hashes import tree_sha256
from runtime_py.manifest import MANIFEST
from runtime_py.noise import NOISE, NOISE_TEXT

ROOT = Path(__file__).parents[2]
HYPERNET = ROOT / "tests" / "golden" / "hypernet"
TOKENIZER = ROOT / "models" / "miniature" / "tokenizer" / "tokenizer.json"
WIDTH, SIDE = 4, 2  # of the text embeddings, and of the latents
Shapes = dict[str, tuple[Any, ...]]


class StandIn:
    """What runs a component: numbers in the outputs' shapes that depend on every input."""

    version, note = "1", "a stand-in ran"

    def __init__(self, component: Component) -> None:
        self.component, self.runtime = component, f"stand-in for {component.name}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = checked_inputs(self.component, inputs)
        named = [
            pair for spec in self.component.inputs for pair in zip(spec.shape, given[spec.name].shape, strict=True)
        ]
        sizes = {want: have for want, have in named if isinstance(want, str)}
        total = sum(float(np.sum(np.asarray(value, np.float64) * (n + 1))) for n, value in enumerate(given.values()))
        wave = np.sin(total)
        return {
            spec.name: (wave + np.arange(np.prod(shape)).reshape(shape) % 7 / 7).astype(spec.dtype)
            for spec in self.component.outputs
            for shape in [fixed(spec.shape, sizes)]
        }


def stand_in_backend(*runners: Any) -> Backend:
    """Make a backend of these stand-ins, each a way to run a component; of StandIn alone by default."""

    def ways(component: Component, threads: int | None) -> list[Way]:
        del threads
        return [partial(runner, component) for runner in runners or (StandIn,)]

    return Backend(("numpy",), "base", lambda: None, ways)


def make_bundle(folder: Path) -> Path:
    """Write the bundle: text encoders, UNet and decoder of a few bytes each beside the golden hypernetwork."""
    shutil.copytree(HYPERNET / "bundle", folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    bundle = Bundle.open(folder)
    groups, stack = bundle.layout.groups, bundle.stack
    shapes = roles_shape(stack.loras) | adapter_shapes(groups) | coefficient_shapes(groups, stack.loras, 2)
    adapters = {name: fixed(shape, stack.named) for name, shape in shapes.items()}
    text: Shapes = {"hidden_states": (1, 77, WIDTH), "text_embeds": (1, WIDTH)}
    unet: Shapes = {
        "sample": (2, 4, SIDE, SIDE),
        "timestep_sinusoids": (2, 4),
        "encoder_hidden_states": (2, 77, WIDTH),
        "text_embeds": (2, WIDTH),
        "size_sinusoids": (2, 12),
    }
    components = manifest["components"]
    components["text_encoder"] = _component(folder, "text_encoder", {"input_ids": (1, 77)}, text)
    components["unet"] = _component(folder, "unet", unet | adapters, {"noise_pred": (2, 4, SIDE, SIDE)})
    decoder: Shapes = {"latents": (1, 4, SIDE, SIDE)}
    components["vae_decoder"] = _component(folder, "vae_decoder", decoder, {"image": (1, 3, 8, 8)})
    manifest["pipeline"] = _pipeline(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def _component(folder: Path, name: str, inputs: Shapes, outputs: Shapes) -> dict[str, Any]:
    (folder / f"{name}.onnx").write_bytes(name.encode())
    golden = {key: {"shape": list(shape), "value": 1} for key, shape in inputs.items()}
    values = {key: np.ones(shape, np.float32) for key, shape in outputs.items()}
    types = {"input_ids": "int32"}
    return {
        **_file(folder, f"{name}.onnx"),
        "inputs": [{"name": key, "dtype": types.get(key, "float32"), "shape": shape} for key, shape in inputs.items()],
        "outputs": [{"name": key, "dtype": "float32", "shape": shape} for key, shape in outputs.items()],
        "golden": {**_golden(folder, name, values), "inputs": golden},
        "tolerance": {"psnr_db": 100, "max_error": 1e-4},
        "parity": _parity(),
    }


def _pipeline(folder: Path) -> dict[str, Any]:
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    numbers = {"length": 77, "start": 923, "end": 924, "pad": 924}
    scheduler = {"kind": "euler", "train_steps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
    scheduler |= {"beta_schedule": "scaled_linear", "prediction": "epsilon", "spacing": "trailing", "steps_offset": 0}
    scheduler |= {"zero_terminal_snr": False, "final_alpha_one": True}
    golden = _golden(folder, "image", {"image": np.ones((1, 3, 8, 8), np.float32)})
    request = {"prompt": "a", "seed": 0, "steps": 2, "guidance": 2.0}
    return {
        "pixels": 8,
        "steps": 5,
        "guidance": 3.0,
        "negative": "zeros",
        "scheduler": scheduler,
        "noise": {"name": NOISE, "text": NOISE_TEXT},
        "tokenizers": {"text_encoder": {**_file(folder, "tokenizer.json"), **numbers}},
        "golden": {**golden, **request, "tolerance": {"psnr_db": 60, "max_error": 0.01}, "parity": _parity()},
    }


def _golden(folder: Path, name: str, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    path = f"golden/{name}.safetensors"
    kept = {f"{key}.{what}": part for key, value in outputs.items() for what, part in summarise(value).items()}
    if name == "unet":
        kept |= {f"{key}.{WITHOUT}": 0 * sample(value) for key, value in outputs.items()}
    save_file(kept, folder / path)
    return _file(folder, path)


def _file(folder: Path, path: str) -> dict[str, Any]:
    size, sha256 = tree_sha256(folder / path)
    return {"file": path, "bytes": size, "sha256": sha256}


def _parity() -> dict[str, Any]:
    empty = dict.fromkeys(("runtime", "runtime_version", "host"), "")
    return {"status": "not_run", "reason": "made by hand", "psnr_db": None, "max_abs": None, "delta": None, **empty}
