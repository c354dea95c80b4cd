"""The files of what predicts coefficients: safetensors with the config in the metadata, or the authors' torch file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor, nn

from lorarar.errors import InputError, said_by
from lorarar.files import atomic_file, file_digest, write_tensors
from lorarar.toolchains import quiet_toolchains

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
CONFIG_KEY = "lorarar_hypernet"
MAX_BYTES = 256 * 2**20  # a hypernetwork is 2 MB; far larger files are something else
HYPERNETWORK, CONSTANT = "hypernetwork", "constant"
_ARCHIVE = b"PK\x03\x04"  # how a zip file begins

# The state dict of the authors' released checkpoints → ours.
_AUTHORS_LAYERS = {"input_1": "inputs.640", "input_2": "inputs.1280", "output.1": "output"}
_AUTHORS_KEYS = {
    f"{theirs}.{part}": f"{ours}.{part}" for theirs, ours in _AUTHORS_LAYERS.items() for part in ("weight", "bias")
}

Config = TypeVar("Config")
Module = TypeVar("Module", bound=nn.Module)


_UNTRAINED = "the hypernetwork is untrained (random weights): this merge shows the mechanics, not the method"


@dataclass(frozen=True)
class Provenance:
    """Where weights come from: a file or a seed, and how they were trained."""

    source: str  # the file's name without its folder, or how the weights were made
    sha256: str  # of the file, or by `network_digest`
    trained: bool
    notes: tuple[str, ...] = ()  # what a user should know about them
    training: Mapping[str, Any] = field(default_factory=dict)  # the options of the training, where they are known

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before anything is merged: the notes, and that nothing was trained."""
        return self.notes if self.trained else (*self.notes, _UNTRAINED)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file: what kind of predictor it is, its weights, and its config as JSON."""

    path: Path
    kind: str  # HYPERNETWORK or CONSTANT
    weights: Mapping[str, Tensor] = field(repr=False)
    config: Mapping[str, Any]
    provenance: Provenance

    def parse_config(self, parse: Callable[[Mapping[str, Any]], Config]) -> Config:
        """Return the config that `parse` makes of the JSON; InputError when that is of another program."""
        try:
            return parse(self.config)
        except InputError as error:  # what the config states is impossible
            raise InputError(f"{self.path}: {error}") from None
        except (KeyError, ValueError, TypeError, OverflowError):  # JSON has infinity, which is no whole number
            raise _not_ours(self.path) from None

    def fill(self, make: Callable[[], Module]) -> Module:
        """Make a module and put the weights into it.

        Raises InputError for sizes that nothing can have, and for weights that are missing, odd, not finite, or
        unknown. Nothing of the config's sizes is allocated before the file is known to hold it.
        """
        try:
            with torch.device("meta"):
                module = make()
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None
        except (RuntimeError, TypeError, OverflowError):  # a size that overflows
            raise _not_ours(self.path) from None
        for name, parameter in module.state_dict().items():
            have = self.weights.get(name)
            if have is None or have.shape != parameter.shape or have.dtype not in _FLOATS:
                found = "missing" if have is None else f"{str(have.dtype).removeprefix('torch.')} {tuple(have.shape)}"
                raise InputError(f"{self.path}: {name} is {found}, its config needs float {tuple(parameter.shape)}")
            if not torch.isfinite(have.float()).all():
                raise InputError(f"{self.path}: {name} holds NaN or infinity; train or download it again")
        extra = sorted(set(self.weights) - set(module.state_dict()))
        if extra:
            raise InputError(f"{self.path}: unknown tensor {extra[0]}; this checkpoint is of another architecture")
        module.load_state_dict({name: tensor.float() for name, tensor in self.weights.items()}, assign=True)
        return module.eval()


def write_checkpoint(
    path: Path, kind: str, weights: Mapping[str, Tensor], config: Mapping[str, Any], made: Provenance
) -> None:
    """Write weights (as fp32), config and the training's options as one safetensors file."""
    about = {**config, "trained": made.trained, "predictor": kind}
    if made.training:
        about["training"] = dict(made.training)
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}
    with atomic_file(path) as temporary:
        write_tensors(tensors, temporary, {CONFIG_KEY: json.dumps(about, sort_keys=True)})


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours (safetensors) or of the authors (torch file, `weights_only`).

    Raises InputError for a file that is neither, or is too large.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; give the .safetensors file of a hypernetwork")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size / 2**20:.0f} MB is too large for a hypernetwork checkpoint")
    digest = file_digest(path)
    read = _read_ours if path.suffix == ".safetensors" else _read_authors
    return read(path, digest)


def network_digest(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a network that is in no file: of its config, its weights' names and their bytes in fp32."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _read_ours(path: Path, digest: str) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator there)
        about = json.loads(metadata[CONFIG_KEY])
        kind, training, trained = about.get("predictor", HYPERNETWORK), about.get("training", {}), about["trained"]
        if kind not in (HYPERNETWORK, CONSTANT) or not isinstance(training, dict):
            raise ValueError(kind)
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({said_by(error)}); download it again") from None
    except (AttributeError, KeyError, ValueError, TypeError, RecursionError):
        raise _not_ours(path) from None
    return Checkpoint(path, kind, weights, about, Provenance(path.name, digest, bool(trained), training=training))


def _read_authors(path: Path, digest: str) -> Checkpoint:
    _require_stored(path)
    try:
        with quiet_toolchains():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:  # torch and its zip reader raise whatever a damaged file makes of them, OSError among it
        raise _not_tensors(path) from None
    if not isinstance(state, dict) or set(state) != set(_AUTHORS_KEYS):
        raise InputError(f"{path}: its keys are not those of the authors' hypernetwork ({', '.join(_AUTHORS_KEYS)})")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: its values are not all tensors; give a .safetensors file")
    size = path.stat().st_size
    # One number may be stored for a tensor of any shape.
    if not all(v.layout == torch.strided and v.device.type == "cpu" and v.nbytes <= size for v in state.values()):
        raise InputError(f"{path}: its tensors are not all in the file; give a .safetensors file")
    weights = {_AUTHORS_KEYS[name]: value for name, value in state.items()}
    output = weights["output.weight"]
    if output.ndim != 2:
        raise InputError(f"{path}: output.1.weight has {output.ndim} dimensions, it needs 2; download it again")
    hidden = int(output.shape[-1])
    notes = ("the authors' checkpoint: k/v rule set to sum, as their released code does",)
    config = {"widths": (640, 1280), "hidden": hidden, "kv_rule": "sum"}
    return Checkpoint(path, HYPERNETWORK, weights, config, Provenance(path.name, digest, True, notes))


def _require_stored(path: Path) -> None:
    """Refuse an archive that is larger when it is read; torch.save packs nothing, and torch.load unpacks any amount."""
    with path.open("rb") as file:
        if file.read(4) != _ARCHIVE:  # torch's older format, which unpacks nothing
            return
    try:
        with ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # zipfile too raises whatever a damaged file makes of it
        raise _not_tensors(path) from None
    stored = all(entry.compress_type == ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise InputError(
            f"{path}: it unpacks to more than it holds, as torch.save never does; give a .safetensors file"
        )


def _not_tensors(path: Path) -> InputError:
    return InputError(f"{path}: not a checkpoint of plain tensors, so it was not opened; give a .safetensors file")


def _not_ours(path: Path) -> InputError:
    return InputError(f"{path}: no hypernetwork config in its metadata; it was not saved by lorarar train")
