"""Checkpoints of what predicts coefficients: safetensors with the config in the metadata.

The authors' published layout is read too. Constant coefficients, an ablation, are kept in the same way.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorarar.base.names import MINIATURE, shipped_hypernet
from lorarar.errors import InputError
from lorarar.files import atomic_file
from lorarar.hypernet.constant import ConstantCoefficients, ConstantConfig
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import Layout
from lorarar.toolchains import quiet_toolchains

CONFIG_KEY = "lorarar_hypernet"
MAX_BYTES = 256 * 2**20  # a hypernetwork is 2 MB; far larger files are something else

# The state dict of the authors' released checkpoints → ours.
_AUTHORS_KEYS = {
    "input_1.weight": "inputs.640.weight",
    "input_1.bias": "inputs.640.bias",
    "input_2.weight": "inputs.1280.weight",
    "input_2.bias": "inputs.1280.bias",
    "output.1.weight": "output.weight",
    "output.1.bias": "output.bias",
}


Predictor = Hypernetwork | ConstantCoefficients
"""What a checkpoint holds."""

_HYPERNETWORK, _CONSTANT = "hypernetwork", "constant"
Config = HypernetConfig | ConstantConfig


@dataclass(frozen=True)
class LoadedPredictor:
    """What predicts coefficients, and where it came from. `training` holds the options it was trained with, where
    they are known.
    """

    predictor: Predictor
    source: str
    sha256: str
    trained: bool
    notes: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedHypernet(LoadedPredictor):
    """One whose predictor is a hypernetwork."""

    predictor: Hypernetwork

    @property
    def hypernet(self) -> Hypernetwork:
        return self.predictor


def save_hypernet(
    hypernet: Predictor, path: Path, trained: bool = True, training: Mapping[str, Any] | None = None
) -> None:
    """Write weights, config and the training's options as one safetensors file."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().float().cpu().contiguous() for name, tensor in hypernet.state_dict().items()}
    kind = _HYPERNETWORK if isinstance(hypernet, Hypernetwork) else _CONSTANT
    config = asdict(hypernet.config) | {"trained": trained, "predictor": kind}
    if training is not None:
        config["training"] = dict(training)
    with atomic_file(path) as temporary:
        save_file(weights, temporary, metadata={CONFIG_KEY: json.dumps(config, sort_keys=True)})


def load_hypernet(path: Path) -> LoadedHypernet:
    """Read a hypernetwork. Raises InputError as `load_predictor`, and for constant coefficients."""
    return _require_hypernet(load_predictor(path))


def _require_hypernet(loaded: LoadedPredictor) -> LoadedHypernet:
    if isinstance(loaded, LoadedHypernet):
        return loaded
    if not isinstance(loaded.predictor, Hypernetwork):
        source = loaded.source
        raise InputError(f"{source}: it holds constant coefficients, not a hypernetwork; lorarar merge can use them")
    return LoadedHypernet(loaded.predictor, loaded.source, loaded.sha256, loaded.trained, loaded.notes, loaded.training)


def load_predictor(path: Path) -> LoadedPredictor:
    """Read a checkpoint of ours (safetensors) or of the authors (torch file, `weights_only`).

    Raises InputError for a file that is neither, too large, of wrong shapes, or not finite.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; give a .safetensors file, or `untrained`")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size / 2**20:.0f} MB is too large for a hypernetwork checkpoint")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    config: Config
    if path.suffix == ".safetensors":
        weights, config, about = _read_safetensors(path)
        notes: tuple[str, ...] = ()
    else:
        weights, config = _read_authors(path)
        about = {"trained": True}
        notes = ("the authors' checkpoint: k/v rule set to sum, as their released code does",)
    predictor = ConstantCoefficients(config) if isinstance(config, ConstantConfig) else Hypernetwork(config)
    _load_strictly(predictor, weights, path)
    training = about.get("training", {})
    return LoadedPredictor(predictor.eval(), path.name, digest, about["trained"], notes, training)


def open_predictor(base: str, layout: Layout, given: Path | None = None, untrained: bool = False) -> LoadedPredictor:
    """Load what predicts coefficients for a base: the checkpoint given, random weights, or the one that is shipped.

    `base` is the base's name as the user gave it, `layout` its layout. An `untrained` hypernetwork has the input layers
    that the layout needs. With neither, the miniature gets the hypernetwork that is shipped with it. Raises InputError
    when both or, for another base, none are given, and as `load_predictor`.
    """
    if given is not None and untrained:
        raise InputError("`hypernet` and `untrained` exclude each other; give one of them")
    if untrained:
        widths = tuple(sorted({group.out_features for group in layout.part("qo")}))
        return untrained_hypernet(HypernetConfig(widths=widths))
    if given is None and base != MINIATURE:
        raise InputError(
            f"a hypernetwork for {base} is needed: give `hypernet` (the file of a trained one), or `untrained` to try "
            "it out with random weights"
        )
    return load_predictor(shipped_hypernet() if given is None else given)


def open_hypernet(base: str, layout: Layout, given: Path | None = None, untrained: bool = False) -> LoadedHypernet:
    """Load the hypernetwork for a base as `open_predictor` does; InputError for constant coefficients too."""
    return _require_hypernet(open_predictor(base, layout, given, untrained))


def untrained_hypernet(config: HypernetConfig | None = None, seed: int = 0) -> LoadedHypernet:
    """Seeded random weights, described as such."""
    hypernet = Hypernetwork.untrained(config, seed).eval()
    digest = hashlib.sha256()
    for name, tensor in sorted(hypernet.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return LoadedHypernet(hypernet, f"untrained, seed {seed}", digest.hexdigest(), trained=False)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Config, dict[str, Any]]:
    """Weights, config, and what else the metadata says (`trained`, `training`)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator there)
        about = json.loads(metadata[CONFIG_KEY])
        kind = about.get("predictor", _HYPERNETWORK)
        if kind not in (_HYPERNETWORK, _CONSTANT) or not isinstance(about.get("training", {}), dict):
            raise ValueError(kind)
        config = ConstantConfig.from_json(about) if kind == _CONSTANT else HypernetConfig.from_json(about)
        about["trained"] = bool(about["trained"])
        return weights, config, about
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); download it again") from None
    except InputError as error:  # what the config states is impossible
        raise InputError(f"{path}: {error}") from None
    except (KeyError, ValueError, TypeError):
        raise InputError(
            f"{path}: no hypernetwork config in its metadata; it was not saved by `lorarar train`"
        ) from None


def _read_authors(path: Path) -> tuple[dict[str, Tensor], HypernetConfig]:
    try:
        with quiet_toolchains():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise InputError(
            f"{path}: not a checkpoint of plain tensors, so it was not opened; give a .safetensors file"
        ) from None
    if not isinstance(state, dict) or set(state) != set(_AUTHORS_KEYS):
        raise InputError(f"{path}: its keys are not those of the authors' hypernetwork ({', '.join(_AUTHORS_KEYS)})")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: its values are not all tensors; give a .safetensors file")
    weights = {_AUTHORS_KEYS[name]: value for name, value in state.items()}
    hidden = int(weights["output.weight"].shape[-1])
    return weights, HypernetConfig(hidden=hidden, kv_rule="sum")


def _load_strictly(hypernet: Predictor, weights: dict[str, Tensor], path: Path) -> None:
    for name, parameter in hypernet.state_dict().items():
        have = weights.get(name)
        if have is None or have.shape != parameter.shape or not have.is_floating_point():
            found = "missing" if have is None else f"{str(have.dtype).removeprefix('torch.')} {tuple(have.shape)}"
            raise InputError(f"{path}: {name} is {found}, its config needs float {tuple(parameter.shape)}")
        if not torch.isfinite(have.float()).all():
            raise InputError(f"{path}: {name} holds NaN or infinity; train or download it again")
    extra = sorted(set(weights) - set(hypernet.state_dict()))
    if extra:
        raise InputError(f"{path}: unknown tensor {extra[0]}; this checkpoint is of another architecture")
    hypernet.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
