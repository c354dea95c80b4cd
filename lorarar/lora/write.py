"""Write a LoRA as a file that diffusers and PEFT apply exactly, and ComfyUI. Numpy only, but for `as_tensors`.

One uniform rank a component (zero-padded, which is exact) and no alpha (kohya: the constant alpha = rank), because
readers differ in how they scale mixed ranks and alphas. Of the `peft` dialect ComfyUI and the WebUIs read the layers of
the attention alone; the `kohya` dialect goes anywhere.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import ml_dtypes
import numpy as np

from lorarar.errors import InputError
from lorarar.files import atomic_file, in_utf8
from lorarar.lora.layers import COMPONENTS, LoraLayer, fill
from lorarar.lora.names import is_of_sdxl, kohya_names
from lorarar.lora.safetensors_file import METADATA_KEY
from lorarar.lora.tensors import shorten
from lorarar.settings import check_choice
from lorarar.toolchains import TRAINING, named_if_missing

if TYPE_CHECKING:
    from torch import Tensor

    from lorarar.lora.types import LoRA

DTYPES: dict[str, tuple[str, np.dtype]] = {
    "fp32": ("F32", np.dtype(np.float32)),
    "fp16": ("F16", np.dtype(np.float16)),
    "bf16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}
"""The number formats of a LoRA file: name → (safetensors' name, numpy dtype)."""

MADE_FOR = "lorarar_architecture"
"""Where a merge's metadata have the architecture of its base, which its layers may not tell: `sdxl` or `koala`."""

MAX_THREADS = 4
MAX_RANK = 4096  # of a layer that is no wider; all layers get the largest rank, and a hostile one fills the disk
# Metadata that describes the factors as they were, which the written ones are not.
_STALE = ("lora_adapter_metadata", "ss_network_", "sshs_", "modelspec.hash_", "format")


@dataclass(frozen=True)
class _Entry:
    """One tensor to write: its name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of its numbers."""
        sizes = {name: kind.itemsize for name, kind in DTYPES.values()}
        return math.prod(self.shape) * sizes[self.dtype]


@dataclass(frozen=True)
class _Layer:
    """Tensors that are made together, and a function that makes their numbers."""

    entries: tuple[_Entry, ...]
    arrays: Callable[[], tuple[np.ndarray, ...]]


def write_lora(lora: LoRA, path: str | os.PathLike[str], dialect: str = "peft", dtype: str = "fp32") -> None:
    """Write `lora` so that its readers get its ΔW, but for those of `partly_read`; the same LoRA gives the same bytes.

    `peft`: `unet.….lora_A.weight`, without alpha. `kohya`: `lora_unet_….lora_down.weight` and alpha = rank, with SGM's
    block names for SDXL and diffusers' for KOALA. In half precision each layer's factors are first balanced by a power
    of two. Raises InputError for an unknown dialect or dtype, an empty LoRA, a name that the dialect lacks, a rank of 0
    or beyond both 4096 and the layer's sizes, and values that are not finite or overflow in `dtype`.
    """
    layers = _layers(lora, dialect, dtype)
    metadata = {key: text for key, text in lora.metadata.items() if not key.startswith(_STALE)} | {"format": "pt"}
    if dialect == "kohya":
        metadata |= {"ss_network_module": "networks.lora", "ss_network_dim": str(lora.max_rank)}
        metadata |= {"ss_network_alpha": str(lora.max_rank)}
    header, places = _header(_in_order(layers), metadata)
    with atomic_file(Path(path)) as temporary, temporary.open("wb", buffering=0) as file:
        _write_at(file, header, 0)

        def write(layer: _Layer) -> None:
            for entry, array in zip(layer.entries, layer.arrays(), strict=True):
                numbers = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                _write_at(file, numbers.data, len(header) + places[entry.name])

        # Numpy converts without the interpreter's lock. Each thread holds one layer.
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            for _ in pool.map(write, layers):
                pass


def partly_read(lora: LoRA, dialect: str) -> tuple[str, ...]:
    """Return one sentence about programs that would read a file of this dialect in part, where there are any."""
    beyond = [name for name in lora.layers if name.startswith("unet.") and ".attn" not in name]
    if dialect != "peft" or not beyond:
        return ()
    return (
        f"{len(beyond)} of the file's {len(lora.layers)} layers are beyond the attention, which ComfyUI and Forge "
        "leave out in silence of a peft file; for them, write the kohya dialect",
    )


def as_tensors(lora: LoRA, dialect: str, dtype: str) -> dict[str, Tensor]:
    """Return what `write_lora` would write as torch tensors by name, in the file's order."""
    layers = _layers(lora, dialect, dtype)
    with named_if_missing(TRAINING, "train"):
        import torch
    found = {}
    for layer in layers:
        for entry, made in zip(layer.entries, layer.arrays(), strict=True):
            # Of its own memory: an unpadded fp32 factor is the LoRA's array itself.
            array = np.array(made, order="C")
            if entry.dtype == "BF16":  # torch.from_numpy does not know it
                found[entry.name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            else:
                found[entry.name] = torch.from_numpy(array)
    return {entry.name: found[entry.name] for entry in _in_order(layers)}


def _layers(lora: LoRA, dialect: str, dtype: str) -> list[_Layer]:
    """Return what is written of every layer."""
    check_choice(WRITERS, dialect=dialect)
    check_choice(DTYPES, dtype=dtype)
    if not lora.layers:
        raise InputError(f"{lora.source} has no layers, so there is nothing to write")
    ranks = _uniform_ranks(lora)
    naming, down_end, up_end = WRITERS[dialect]
    names, kind = naming(lora), DTYPES[dtype][0]
    found = []
    for module, layer in lora.layers.items():
        name, rank = names[module], ranks[module.partition(".")[0]]
        (_, *inp), (out, _, *ones) = layer.shapes
        entries = [_Entry(name + down_end, kind, (rank, *inp)), _Entry(name + up_end, kind, (out, rank, *ones))]
        where = f"{lora.source}: '{shorten(module)}'"
        found.append(_Layer(tuple(entries), partial(_encoded, layer, rank, dtype, where)))
        if dialect == "kohya":
            alpha = (np.array(rank, np.float32),)
            found.append(_Layer((_Entry(f"{name}.alpha", "F32", ()),), partial(tuple, alpha)))
    return found


def _in_order(layers: list[_Layer]) -> list[_Entry]:
    """Return every tensor in the file's order: alphas first (float32, so what follows stays aligned), then by name."""
    entries = [entry for layer in layers for entry in layer.entries]
    return sorted(entries, key=lambda entry: (bool(entry.shape), entry.name))


def _uniform_ranks(lora: LoRA) -> dict[str, int]:
    """Return the largest rank of each component; diffusers configures each component on its own."""
    ranks: dict[str, int] = {}
    for module, layer in lora.layers.items():
        component = module.partition(".")[0]
        if component not in COMPONENTS:
            raise InputError(f"'{shorten(module)}' is in no component; a layer's name starts with {COMPONENTS}")
        most = max(MAX_RANK, layer.out_features, math.prod(layer.weight_shape[1:]))
        if not 1 <= layer.rank <= most:
            raise InputError(
                f"{lora.source}: '{shorten(module)}' has rank {layer.rank:,}, which no LoRA of its size needs; it may "
                f"have 1 to {most:,}: cut it, as `lorarar convert` or lr.resize do"
            )
        ranks[component] = max(layer.rank, ranks.get(component, 0))
    return ranks


def _encoded(layer: LoraLayer, rank: int, dtype: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors in `dtype`, padded to a rank; half precision balances them first."""
    kind = DTYPES[dtype][1]
    (_, *inp), (out, _, *ones) = layer.shapes
    made = np.zeros((rank, *inp), kind), np.zeros((out, rank, *ones), kind)
    down, up = fill(layer, *made)
    if not np.isfinite(down + up):
        raise InputError(f"{where} holds NaN or infinity; fix the LoRA")
    if max(down, up) > float(ml_dtypes.finfo(kind).max):
        raise InputError(f"{where} holds values too large for {dtype}; write fp32")
    return made


def _header(entries: list[_Entry], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """Return the start of a safetensors file, and where after it each tensor begins.

    It is the header's length and the header, padded to a multiple of 8 bytes as the format advises.
    """
    # safetensors reads no lone surrogates.
    told = {in_utf8(key): in_utf8(text) for key, text in sorted(metadata.items())}
    header: dict[str, object] = {METADATA_KEY: told}
    places: dict[str, int] = {}
    position = 0
    for entry in entries:
        end = position + entry.nbytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [position, end]}
        places[entry.name] = position
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places


def _write_at(file: BinaryIO, data: bytes | memoryview, position: int) -> None:
    """Write every byte; an unbuffered file may take fewer than asked (at most 2 GB a call on Linux)."""
    view = memoryview(data)
    while view:
        count = os.pwrite(file.fileno(), view, position)
        view, position = view[count:], position + count


def _kohya(lora: LoRA) -> dict[str, str]:
    # A merge for KOALA may hold an SDXL LoRA's layers, too many for KOALA: it is no LoRA of SDXL.
    made_for = lora.metadata.get(MADE_FOR)
    names = kohya_names(made_for == "sdxl" if made_for in ("sdxl", "koala") else is_of_sdxl(lora.layers))
    strange = next((module for module in lora.layers if module not in names), None)
    if strange is not None:
        raise InputError(
            f"{lora.source}: '{shorten(strange)}' is no module of SDXL or KOALA, so kohya has no name for it; "
            "write the peft dialect"
        )
    return {module: names[module] for module in lora.layers}


WRITERS: dict[str, tuple[Callable[[LoRA], dict[str, str]], str, str]] = {
    "peft": (lambda lora: {module: module for module in lora.layers}, ".lora_A.weight", ".lora_B.weight"),
    "kohya": (_kohya, ".lora_down.weight", ".lora_up.weight"),
}
"""The dialects that are written: name → (function that names a LoRA's modules, ends of down's and up's names)."""
