"""The bases by name: the shipped miniature, UNet configs of SDXL and KOALA, and the layout of any diffusers folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lorarar.errors import InputError, said_by
from lorarar.files import read_json, whole
from lorarar.layout import TEXT_KINDS, TEXT_PARTS, Layout, part_of
from lorarar.toolchains import TRAINING, named_if_missing

if TYPE_CHECKING:
    from torch import nn

MINIATURE = "miniature"
DEFAULT_BASE = MINIATURE
_PARTS = ("model_index.json", "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
MINIATURE_FOLDER = Path(__file__).resolve().parents[2] / "models" / MINIATURE
HYPERNET_FILE, DATASET_FOLDER, JUDGE_FOLDER = "hypernet.safetensors", "dataset", "judge"
"""What `models/miniature` holds beside the pipeline."""

_SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

# KOALA (arXiv 2312.04005) is SDXL with fewer layers. Its configs are rebuilt from the published sizes: 0.78B, 1.16B.
CONFIGS: dict[str, dict[str, Any]] = {
    "sdxl": _SDXL,
    "koala-1b": _SDXL | {"layers_per_block": 1, "transformer_layers_per_block": [0, 2, 6]},
    "koala-700m": _SDXL | {"layers_per_block": 1, "transformer_layers_per_block": [0, 2, 5], "mid_block_type": None},
}

TIME_IDS = 6  # numbers that SDXL's UNet is told of an image's size


class UsualSampling(NamedTuple):
    """How images of a base are drawn unless something else is asked for; the defaults are the paper's, for SDXL."""

    steps: int = 50
    guidance: float = 5.0
    guidance_rescale: float = 0.0  # the share of what guidance adds to the spread that is taken off

    def guided(self, guidance: float | None, rescale: float | None) -> tuple[float, float]:
        """Return the guidance and how much of it is rescaled, the base's own where they are None."""
        return self.guidance if guidance is None else guidance, self.guidance_rescale if rescale is None else rescale


PAPER_SAMPLING = UsualSampling()
# Under more guidance than 2 its colours burn out, unless that is rescaled.
MINIATURE_SAMPLING = UsualSampling(25, 2.5, 0.7)


def usual_sampling(base: str) -> UsualSampling:
    """Return how a base is drawn by its name; any but the miniature has the paper's."""
    return MINIATURE_SAMPLING if base == MINIATURE else PAPER_SAMPLING


DTYPES = {"no": "float32", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""A number format's name, or that of a mixed precision (`no`: none), → torch's name of weights frozen in it."""

BASES_HELP = f"{', '.join([MINIATURE, *CONFIGS])}, or a diffusers folder (default {DEFAULT_BASE})"
"""The help of `--base` for commands that need a base's layout only."""


def base_files(base: str, parts: Sequence[str] = _PARTS) -> list[Path]:
    """List the files of a base that is a file here, or a folder with these parts; none of a hub's."""
    place = MINIATURE_FOLDER if base == MINIATURE else Path(base)
    return [path for path in [place, *whole(*(place / part for part in parts))] if path.is_file()]


def base_path(base: object) -> str:
    """Return a base's name or folder as text. Raises InputError for what is neither."""
    if not isinstance(base, (str, PathLike)):
        raise InputError(f"`base` is {base!r}; give its name or its folder")
    return os.fspath(base)


def miniature_folder(instead: str = "give another `base`") -> Path:
    """Return the shipped small base, `models/miniature` beside this package.

    Raises InputError when it is not there, as in a package that was installed from a wheel; `instead` says what else a
    user can do.
    """
    if not (MINIATURE_FOLDER / "model_index.json").is_file():
        raise InputError(
            f"the miniature is not in {MINIATURE_FOLDER}: it comes with this toolkit's repository, not with a package; "
            f"clone the repository and run there, make it with  lorarar miniature build,  or {instead}"
        )
    return MINIATURE_FOLDER


def name_of(base: str) -> str:
    """Return a base's name; of a folder or file its last part, since a path says nothing on another machine."""
    path = Path(base)
    return path.resolve().name if path.exists() else base


def shipped_dataset() -> Path:
    """Return the miniature's subjects, styles and their LoRAs, a folder of `lorarar.training.dataset`."""
    return miniature_folder("give a `dataset`") / DATASET_FOLDER


def shipped_hypernet() -> Path:
    """Return the file of the hypernetwork that was trained on the miniature. InputError when it is not there."""
    path = miniature_folder("give a `hypernet`") / HYPERNET_FILE
    if not path.is_file():
        raise InputError(f"{path} is not there; make it with  lorarar miniature build,  or give a `hypernet`")
    return path


def choose_checkpoint(base: str, given: Path | None, instead: str = "") -> Path:
    """Return the checkpoint given or, for the miniature, the shipped one; InputError for another base without one.

    `base` is the base's name as the user gave it; `instead` is what else may be given.
    """
    if given is None and base != MINIATURE:
        raise InputError(f"a hypernetwork for {base} is needed: give `hypernet`, the file of a trained one{instead}")
    return shipped_hypernet() if given is None else given


def choose_dataset(base: str, given: Path | None) -> Path:
    """Return the dataset given or, for the miniature, the shipped one; InputError for another base without one."""
    if given is None and base != MINIATURE:
        raise InputError(f"a dataset for {base} is needed: give `dataset`; the shipped LoRAs are the miniature's")
    return shipped_dataset() if given is None else given


def unet_config(base: str) -> dict[str, Any]:
    """Return the UNet config of a named base or of a diffusers folder (or of its `unet` folder)."""
    if base in CONFIGS:
        return CONFIGS[base]
    folder = miniature_folder() if base == MINIATURE else Path(base)
    for path in (folder / "unet" / "config.json", folder / "config.json"):
        if path.is_file():
            config = read_json(path, what="a UNet's config", mend="download the folder again")
            if isinstance(config, dict) and config.get("_class_name", "UNet2DConditionModel") == "UNet2DConditionModel":
                return config
            raise InputError(f"{path}: not the config of a UNet2DConditionModel; give an SDXL-like pipeline's folder")
    raise InputError(
        f"unknown base {base!r}; valid are {', '.join([MINIATURE, *CONFIGS])} or a folder in diffusers format with "
        "unet/config.json"
    )


def pooled_width(config: Any) -> int:
    """Return the width of the pooled prompt that an SDXL-like UNet is told, by its config."""
    return int(config.projection_class_embeddings_input_dim - TIME_IDS * config.addition_time_embed_dim)


def meta_unet(base: str) -> nn.Module:
    """Build the base's UNet on the meta device: names and shapes without weights."""
    config = unet_config(base)
    with named_if_missing(TRAINING, "train"):
        import torch
        from diffusers import UNet2DConditionModel
    try:
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(config)
    # What diffusers' and torch's modules raise for numbers that they can't have.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{base}: its UNet config can't be built by diffusers ({said_by(error)})") from None


def load_layout(base: str | PathLike[str], adapt: str = "attention") -> Layout:
    """Return the layout of a base: its linears that take LoRAs in `named_modules()` order, grouped by part and shape.

    `base` is `miniature`, `koala-700m`, `koala-1b`, `sdxl`, or a folder in diffusers' format. `adapt` is `attention`,
    for which learned merging is made, or `transformer`, with feed-forward and projections too. No weights are read.
    Raises InputError for a base that is unknown or has no UNet that diffusers can build.
    """
    base = base_path(base)
    if base in (MINIATURE, *CONFIGS):
        return Layout.from_linears(base, _linears(unet_config(base)), adapt)
    return unet_layout(meta_unet(base), name_of(base), adapt)


def unet_layout(unet: nn.Module, base: str, adapt: str = "attention") -> Layout:
    """Return the layout of a UNet at hand, under the name `base`; `adapt` is that of `load_layout`."""
    from torch import nn

    linears = [
        (name, module.in_features, module.out_features)
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and part_of(name)
    ]
    return Layout.from_linears(base, linears, adapt)


def with_text_encoders(layout: Layout, encoders: Mapping[str, Any]) -> Layout:
    """Return a layout with the linears of CLIP's text encoders too: q, k, v, out, fc1 and fc2 of their layers.

    `encoders` are transformers' models by their names in a pipeline. The last layer of an encoder without a projection
    is left out: SDXL takes the states before it.
    """
    for part, component in TEXT_PARTS.items():
        layout = layout.with_text_encoder(part, _text_linears(encoders[component]))
    return layout


def _text_linears(model: Any) -> Iterator[tuple[str, int, int]]:
    """Yield (module, in, out) of a text encoder's linears, by the names that LoRAs have for them."""
    for index, layer in enumerate(_used_text_layers(model)):
        for name, module in layer.named_modules():
            if f".{name}".endswith(TEXT_KINDS):
                yield f"text_model.encoder.layers.{index}.{name}", module.in_features, module.out_features


def _used_text_layers(model: Any) -> list[Any]:
    """Return the layers of a CLIP text encoder that SDXL uses: all, or without a projection all but the last one."""
    layers = list(getattr(model, "text_model", model).encoder.layers)
    return layers if getattr(model, "text_projection", None) is not None else layers[:-1]


def _linears(config: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield (module, in, out) of the linears of a named base's transformers, in diffusers' order.

    It does without diffusers, whose import takes seconds. A test compares this with the UNet that diffusers builds.
    """
    widths, depths, layers = (
        config[key] for key in ("block_out_channels", "transformer_layers_per_block", "layers_per_block")
    )
    kinds = [*zip(config["down_block_types"], widths, depths, strict=True)]
    blocks = [(f"down_blocks.{i}", *kind, layers) for i, kind in enumerate(kinds)]
    # The up path has one more layer a block, and its blocks come in reverse.
    ups = zip(config["up_block_types"], reversed(widths), reversed(depths), strict=True)
    blocks += [(f"up_blocks.{i}", *kind, layers + 1) for i, kind in enumerate(ups)]
    if config.get("mid_block_type"):
        blocks.append(("mid_block", config["mid_block_type"], widths[-1], depths[-1], 1))
    for block, kind, width, depth, count in blocks:
        if "CrossAttn" not in kind:
            continue
        for attention in range(count):
            prefix = f"{block}.attentions.{attention}"
            yield f"{prefix}.proj_in", width, width
            for transformer in range(depth):
                inside = f"{prefix}.transformer_blocks.{transformer}"
                yield from _transformer_linears(inside, width, config["cross_attention_dim"])
            yield f"{prefix}.proj_out", width, width


def _transformer_linears(prefix: str, width: int, states: int) -> Iterator[tuple[str, int, int]]:
    """Yield (module, in, out) of one transformer block; `states` is the width of what the UNet is told."""
    for name, key_width in (("attn1", width), ("attn2", states)):
        for linear, inp in (("to_q", width), ("to_k", key_width), ("to_v", key_width), ("to_out.0", width)):
            yield f"{prefix}.{name}.{linear}", inp, width
    # GEGLU: the first linear makes values and gates, four times as wide each.
    yield f"{prefix}.ff.net.0.proj", width, 8 * width
    yield f"{prefix}.ff.net.2", 4 * width, width
