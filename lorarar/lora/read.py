"""Read a LoRA of any dialect, from a file or a state dict; refuse by name what can't be read exactly. Numpy only."""

from __future__ import annotations

import math
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lorarar.errors import InputError, describe_os_error, first_of
from lorarar.lora.codes import Factor, peak
from lorarar.lora.dialects import (
    DIALECTS,
    FACTOR,
    KNOWN,
    WRAPPED,
    AmbiguousName,
    Key,
    TensorRole,
    foreign_format,
    parse_key,
)
from lorarar.lora.layers import Blocks, StoredLayer
from lorarar.lora.names import is_convolution
from lorarar.lora.peft_config import PeftScaling, config_component, metadata_scalings, parse_config
from lorarar.lora.safetensors_file import open_safetensors, parse_json
from lorarar.lora.tensors import FLOATS, INTEGERS, Tensors, shorten, state_dict_tensors
from lorarar.lora.types import LoRA

if TYPE_CHECKING:
    from torch import Tensor

_CONFIG, _WEIGHTS, _PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_MAX_CONFIG_BYTES = 10_000_000
_CONFIGURED = ("peft", "diffusers")
"""The dialects whose files carry PEFT's configuration; diffusers and ComfyUI ignore it for kohya's names."""
LoraSource = LoRA | str | PathLike[str] | Mapping[str, Any]
"""A LoRA, its file or PEFT folder, or a state dict."""
_Roles = dict[TensorRole, tuple[str, Key]]
"""The tensors of a layer: role → (tensor's name, what it says)."""


class Opened(NamedTuple):
    """The named tensors of a file, PEFT folder or state dict, none of them read, and what PEFT's configuration says."""

    file: Tensors
    component: str  # of names that don't say theirs, or ""
    scalings: Mapping[str, PeftScaling]  # by component; the one configuration of a folder or state dict is under ""


def read_lora(
    source: str | PathLike[str] | Mapping[str, np.ndarray | Tensor],
    *,
    config: Mapping[str, Any] | None = None,
    name: str = "state dict",
) -> LoRA:
    """Read a LoRA of any dialect as float32 factors with alpha folded into `up`.

    `source` is a safetensors file, a PEFT folder (adapter_config.json beside the weights) or a state dict: tensors by
    name, torch's on any device or numpy's, in fp32, fp16, bf16, fp64 or fp8 (E4M3, E5M2). They are copied.

    ΔW = scale · up @ down, where scale is the layer's alpha/rank, or what PEFT's configuration says, else 1. A file or
    folder brings its configuration; that of a state dict, which PEFT keeps apart, is given as `config` (the fields of a
    LoraConfig, as its `to_dict()` gives them). `name` is what a state dict is called in messages and metadata.

    Raises InputError, one sentence that says what is wrong, for everything that can't be read exactly. Shapes are not
    compared with a base here (`lorarar.stack.stack` and merging do that).
    """
    lora = _open(open_source(source, config=config, name=name), {})
    if config is not None and not any(dialect in _CONFIGURED for dialect in lora.dialect.split(" + ")):
        raise InputError(
            f"{name}: `config` is for PEFT's and diffusers' names, and these are {lora.dialect}'s; leave it out"
        )
    return _loaded(lora)


def as_lora(source: LoraSource) -> LoRA:
    """Return the LoRA that is given, or read it as `read_lora` does. Raises InputError for what is neither."""
    if not isinstance(source, LoRA | str | PathLike | Mapping):
        raise InputError(f"{source!r} is no LoRA; give one, the path of a file or a PEFT folder, or a state dict")
    return source if isinstance(source, LoRA) else read_lora(source)


def open_lora(path: str | PathLike[str]) -> LoRA:
    """Open a LoRA's file or PEFT folder as `read_lora` does, but read each layer only when it is asked for.

    The files must stay as they are meanwhile. Raises InputError as `read_lora`, for NaN and overflows when a layer is
    asked for.
    """
    return _open(open_source(path), {})


def open_source(
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    config: Mapping[str, Any] | None = None,
    name: str = "state dict",
    plain: bool = True,
) -> Opened:
    """Open what `read_lora` takes and read PEFT's configuration, but no tensor.

    PEFT's weights alone are opened with the configuration that lies beside them. With `plain` False a configuration of
    a DoRA, LoHa or LoKr is taken too. Raises InputError as `read_lora`.
    """
    if not isinstance(source, str | PathLike | Mapping):
        raise InputError(f"{source!r} is no LoRA to read; give the path of a file or a PEFT folder, or a state dict")
    if not isinstance(config, Mapping | None):
        raise InputError(f"`config` is {config!r:.100}; give a PEFT configuration as a dict, such as its to_dict()")
    if isinstance(source, Mapping):
        scalings = {} if config is None else {"": parse_config(config, f"{name}: its configuration", plain)}
        return Opened(state_dict_tensors(source, name), config_component(config or {}), scalings)
    if config is not None:
        raise InputError("`config` belongs to a state dict; a file or folder brings its own, so leave it out")
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, plain)
    if path.name == _WEIGHTS and (path.parent / _CONFIG).is_file():
        return _open_folder(path.parent, plain)
    file = open_safetensors(path)
    return Opened(file, "", metadata_scalings(file.metadata, file.source, plain))


def _loaded(lora: LoRA) -> LoRA:
    """Return a LoRA whose factors are all in memory."""
    return replace(lora, layers={name: layer.load() for name, layer in lora.layers.items()})


def _open_folder(folder: Path, plain: bool) -> Opened:
    config_path, weights_path = folder / _CONFIG, folder / _WEIGHTS
    if not config_path.is_file():
        raise InputError(f"{folder} is a folder without {_CONFIG}; give a .safetensors file or a PEFT folder")
    if not weights_path.exists() and (folder / _PICKLE).exists():
        raise InputError(f"{folder / _PICKLE} is a Python pickle, which may run code; save it as safetensors first")
    try:
        if config_path.stat().st_size > _MAX_CONFIG_BYTES:
            raise InputError(f"{config_path} is too large to be a PEFT configuration; get the folder again")
        config = parse_json(config_path.read_bytes().removeprefix(BOM_UTF8), str(config_path))
    except OSError as error:
        raise InputError(describe_os_error(error)) from error
    scaling = parse_config(config, str(config_path), plain)
    return Opened(open_safetensors(weights_path), config_component(config), {"": scaling})


def plain_layers(opened: Opened, others: Mapping[str, bool]) -> LoRA:
    """Read the plain layers of a file, which may have none where it has `others`, of other kinds.

    Those are given by module, with whether they lack an alpha.
    """
    return _loaded(_open(opened, others))


def _open(opened: Opened, others: Mapping[str, bool]) -> LoRA:
    file = opened.file
    groups, extra = _group(opened, others)
    layers = {module: _layer(opened, module, tensors) for module, tensors in groups.items()}
    warnings = (*_unread(file.source, extra), *_unscaled(opened, groups))
    return LoRA(layers, _dialect(groups), file.source, file.metadata, warnings)


def _group(opened: Opened, others: Mapping[str, bool]) -> tuple[dict[str, _Roles], list[str]]:
    """Put every tensor under its module and role, and list those of no layer: alphas alone, and what is no factor.

    Refuses foreign formats, factors of unknown modules and layers that occur twice.
    """
    file = opened.file
    for name in file.entries:
        if foreign := foreign_format(name):
            raise InputError(
                f"{file.source} is no plain LoRA but holds a {foreign.name} layer ('{shorten(name)}'); {foreign.advice}"
            )
    groups: dict[str, _Roles] = {}
    extra: list[str] = []
    for name in file.entries:
        key = parse_name(opened, name)
        if key is None:
            extra.append(name)
            continue
        tensors = groups.setdefault(key.module, {})
        if key.role in tensors:
            raise named_twice(file.source, tensors[key.role][0], name)
        tensors[key.role] = (name, key)
    whole = {module: tensors for module, tensors in groups.items() if tensors.keys() != {TensorRole.ALPHA}}
    extra[:0] = [tensors[TensorRole.ALPHA][0] for module, tensors in groups.items() if module not in whole]
    _check_extra(file, whole, extra, others)
    return whole, extra


def named_twice(source: str, first: str, second: str) -> InputError:
    """Make the error for two tensors that are the same part of the same layer."""
    return InputError(
        f"{source}: '{shorten(first)}' and '{shorten(second)}' are the same layer named in two ways; remove one of them"
    )


def _check_extra(file: Tensors, groups: Mapping[str, _Roles], extra: Sequence[str], others: Mapping[str, bool]) -> None:
    """Refuse tensors of no layer where there is no layer, where they are factors, and where one may be an alpha."""
    unknown = next((name for name in extra if FACTOR.search(name)), None)
    found = others or any(len(tensors) > 1 for tensors in groups.values())
    if not found and (extra or not groups):
        first = f" (its first key is '{shorten(unknown or next(iter(file.entries)))}')" if file.entries else ""
        raise InputError(
            f"{file.source} has no LoRA keys{first}; it may be a full checkpoint or a LoRA for another kind of model, "
            f"known dialects: {KNOWN}"
        )
    if unknown is not None:
        raise InputError(
            f"{file.source}: the key '{shorten(unknown)}' belongs to no known dialect ({KNOWN}) "
            "of a LoRA for SDXL; remove it or use another file"
        )
    lack = {**others, **{module: TensorRole.ALPHA not in tensors for module, tensors in groups.items()}}
    bare = [module for module, lacks in lack.items() if lacks]
    if extra and 0 < len(bare) < len(lack):
        raise InputError(
            f"{file.source}: '{shorten(bare[0])}' has no alpha, as other layers have, and '{shorten(extra[0])}' "
            "belongs to no layer; a name is damaged, get the file again"
        )


def parse_name(opened: Opened, name: str, shown: str = "") -> Key | None:
    """Understand a tensor's name as `parse_key`; InputError where it doesn't say which text encoder it is for.

    `shown` is the name as the file has it, where that is another.
    """
    try:
        return parse_key(name, opened.component)
    except AmbiguousName as error:
        raise InputError(
            f"{opened.file.source}: '{shorten(shown or name)}' doesn't say which text encoder it is for; "
            "put text_encoder. or text_encoder_2. before its keys"
        ) from error


def _layer(opened: Opened, module: str, tensors: _Roles) -> StoredLayer:
    """Open one layer, which is read in float32, with its scale in `up`; shapes are checked before a tensor is read."""
    file = opened.file
    for role, other in ((TensorRole.DOWN, TensorRole.UP), (TensorRole.UP, TensorRole.DOWN)):
        if role not in tensors:
            present, _ = tensors[other]
            raise InputError(
                f"{file.source}: '{shorten(present)}' has no matching {role.value} tensor; "
                "a layer needs both, get the file again"
            )
    (down_name, down_key), (up_name, up_key) = tensors[TensorRole.DOWN], tensors[TensorRole.UP]
    if down_key.dialect != up_key.dialect:
        raise InputError(
            f"{file.source}: '{shorten(module)}' is in two dialects at once ({down_key.dialect} and "
            f"{up_key.dialect}); save the file in one"
        )
    rank = _check_shapes(file, module, down_name, up_name)
    alpha = tensors.get(TensorRole.ALPHA)
    scale = configured_scale(opened, down_key, rank) if alpha is None else read_alpha(file, alpha[0]) / rank
    down_shape, up_shape = _shapes(module, file.entries[down_name].shape, file.entries[up_name].shape)

    def blocks() -> Blocks:
        return ((file.factor(down_name).reshape(down_shape), _scaled(file, up_name, scale).reshape(up_shape)),)

    return StoredLayer((down_shape, up_shape), blocks)


def _shapes(module: str, down: tuple[int, ...], up: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of factors that may be stored in others: a linear as a 1×1 convolution, or (DyLoRA) the up of a
    convolution as a matrix.
    """
    if len(down) == 4 and not is_convolution(module):
        down, up = down[:2], up[:2]
    return down, (*up[:2], *(1,) * (len(down) - 2))


def configured_scale(opened: Opened, key: Key, rank: int | None) -> float:
    """Return the factor of a layer's ΔW whose file has no alpha for it; `rank` is None where its factors have none."""
    component = key.module.partition(".")[0]
    scaling = opened.scalings.get(component) or opened.scalings.get("")
    if scaling is None or key.dialect not in _CONFIGURED:
        return 1.0
    name = key.raw.removeprefix(WRAPPED)
    while name.startswith(f"{component}."):
        name = name.removeprefix(f"{component}.")
    return scaling.scale(name, rank)


def _scaled(file: Tensors, name: str, scale: float) -> Factor:
    up = file.factor(name)
    if scale == 1:
        return up
    with np.errstate(over="ignore", invalid="ignore"):
        up = up * np.float32(scale)
    if abs(scale) > 1 and not math.isfinite(peak(up)):
        raise InputError(
            f"{file.source}: '{shorten(name)}' times its alpha/rank {scale:g} is over float32; "
            "the file is damaged, get it again"
        )
    return up


def _check_shapes(file: Tensors, module: str, down_name: str, up_name: str) -> int:
    """Return the rank of a layer, from the shapes alone; refuse factors that don't fit together."""
    down, up = file.entries[down_name].shape, file.entries[up_name].shape
    both = f"{file.source}: '{shorten(down_name)}' {list(down)} and '{shorten(up_name)}' {list(up)}"
    if len(down) not in (2, 4) or len(up) not in (2, len(down)):
        raise InputError(f"{both} must both have 2 dimensions, or 4 for a convolution; get the file again")
    if 0 in down or 0 in up:
        raise InputError(f"{both} have a size of 0; a layer needs a rank of at least 1, get the file again")
    if down[0] != up[1]:
        if down[1] == up[0]:
            raise InputError(f"{both} look swapped: down must be (rank, in) and up (out, rank); swap their names")
        raise InputError(f"{both} have ranks {down[0]} and {up[1]}, which must be equal; get the file again")
    if any(size != 1 for size in up[2:]):
        raise InputError(f"{both} look swapped or damaged: up's kernel must be 1×1; get the file again")
    if any(size != 1 for size in down[2:]) and not is_convolution(module):
        raise InputError(f"{both} are a convolution's, but the module is linear; the LoRA is for another base model")
    return down[0]


def read_alpha(file: Tensors, name: str) -> float:
    """Return an alpha, a float or a whole number; InputError when it is not one number."""
    shape = file.entries[name].shape
    if math.prod(shape) != 1:
        raise InputError(f"{file.source}: '{shorten(name)}' has shape {list(shape)}; an alpha must be one number")
    return float(file.tensor(name, (*FLOATS, *INTEGERS)).reshape(()))


def _dialect(groups: Mapping[str, _Roles]) -> str:
    """Name the dialects of the tensors, in the table's order; text encoders are named alike in both of kohya's."""
    found = {tensors[TensorRole.DOWN][1].dialect for tensors in groups.values()}
    if found & {"kohya-sgm", "kohya-diffusers"}:
        found.discard("kohya-text")
    return " + ".join(dialect.name for dialect in DIALECTS if dialect.name in found)


def _unscaled(opened: Opened, groups: Mapping[str, _Roles]) -> tuple[str, ...]:
    """Tell of PEFT's own weights without their configuration: they hold no alpha, which other dialects' files do."""
    keys = [key for tensors in groups.values() for _, key in tensors.values()]
    own = all(key.role != TensorRole.ALPHA and key.raw.startswith(WRAPPED) for key in keys)
    if opened.scalings or not own or not keys:
        return ()
    return (unscaled(opened.file.source),)


def unscaled(source: str) -> str:
    """Return the warning of PEFT's weights whose configuration is not there."""
    return f"{source}: its scale (alpha / rank) is in PEFT's {_CONFIG}, which is not beside it; 1 is taken"


def _unread(source: str, extra: Sequence[str]) -> tuple[str, ...]:
    """Name the tensors that belong to no layer."""
    if not extra:
        return ()
    shown = first_of([f"'{shorten(name)}'" for name in extra])
    return (f"{source}: {len(extra)} of its tensors belong to no layer of the LoRA and are left out ({shown})",)
