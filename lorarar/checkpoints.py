"""Hypernetwork checkpoints: safetensors with the config in its metadata; the authors' published layout is read too."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorarar.cli import InputError, atomic_file, quiet_toolchains
from lorarar.hypernet import HypernetConfig, Hypernetwork

CONFIG_KEY = "lorarar_hypernet"
MAX_BYTES = 256 * 2**20  # a hypernetwork is 2 MB; far larger files are something else

# The state dict of the authors' released checkpoints (method facts, §1) → ours.
_AUTHORS_KEYS = {
    "input_1.weight": "inputs.640.weight",
    "input_1.bias": "inputs.640.bias",
    "input_2.weight": "inputs.1280.weight",
    "input_2.bias": "inputs.1280.bias",
    "output.1.weight": "output.weight",
    "output.1.bias": "output.bias",
}


@dataclass(frozen=True)
class LoadedHypernet:
    """A hypernetwork and where it came from."""

    hypernet: Hypernetwork
    source: str
    sha256: str
    trained: bool
    notes: tuple[str, ...] = ()


def save_hypernet(hypernet: Hypernetwork, path: Path, trained: bool = True) -> None:
    """Write weights and config as one safetensors file."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().float().contiguous() for name, tensor in hypernet.state_dict().items()}
    config = json.dumps(asdict(hypernet.config) | {"trained": trained}, sort_keys=True)
    with atomic_file(path) as temporary:
        save_file(weights, temporary, metadata={CONFIG_KEY: config})


def load_hypernet(path: Path) -> LoadedHypernet:
    """Read a checkpoint of ours (safetensors) or of the authors (torch file, `weights_only`).

    Raises InputError for a file that is neither, too large, of wrong shapes, or not finite.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; give a .safetensors file, or use --untrained")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size / 2**20:.0f} MB is too large for a hypernetwork checkpoint")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix == ".safetensors":
        weights, config, trained = _read_safetensors(path)
        notes: tuple[str, ...] = ()
    else:
        weights, config, trained = _read_authors(path)
        notes = ("the authors' checkpoint: k/v rule set to sum, as their released code does",)
    hypernet = Hypernetwork(config)
    _load_strictly(hypernet, weights, path)
    return LoadedHypernet(hypernet.eval(), path.name, digest, trained, notes)


def untrained_hypernet(config: HypernetConfig | None = None, seed: int = 0) -> LoadedHypernet:
    """Seeded random weights, described as such."""
    hypernet = Hypernetwork.untrained(config, seed).eval()
    digest = hashlib.sha256()
    for name, tensor in sorted(hypernet.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return LoadedHypernet(hypernet, f"untrained, seed {seed}", digest.hexdigest(), trained=False)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], HypernetConfig, bool]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator there)
        config = json.loads(metadata[CONFIG_KEY])
        return weights, HypernetConfig.from_json(config), bool(config["trained"])
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); download it again") from None
    except (KeyError, ValueError, TypeError):
        raise InputError(f"{path}: no hypernetwork config in its metadata; it was not saved by lorarar.train") from None


def _read_authors(path: Path) -> tuple[dict[str, Tensor], HypernetConfig, bool]:
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
    return weights, HypernetConfig(hidden=hidden, kv_rule="sum"), True


def _load_strictly(hypernet: Hypernetwork, weights: dict[str, Tensor], path: Path) -> None:
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
