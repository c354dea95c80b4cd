"""The three exports, one call each: what `import export` offers.

Parameters that they share:

- `base`: a name (miniature, sdxl, koala-700m, koala-1b), a diffusers folder, or a loaded diffusers pipeline or UNet. A
  loaded network that is exported is used up: its weights are freed once they are written, since a copy of SDXL's UNet
  is 10 GB.
- `target`: a name of `export.targets.TARGETS`.
- `hypernet`: the file of a trained hypernetwork, or a loaded one. Default: the one shipped, for the miniature.
- `untrained`: take seeded random weights, which show sizes and speed alone.
- `rank`: the largest rank of one LoRA. Default: that of the LoRAs that are trained for the base.
- `precision`: of the artifact; of a pipeline, the UNet's: text encoders follow it down to w8, and the rest stays in
  fp32. Default: the target's own.
- `resolution`: pixels of the image's side. Default: the base's own.
- `batch`: of the UNet; 2 runs both prompts of guidance at once.
- `attention`: of the UNet: original, or split-einsum for Core ML on the Neural Engine.
- `out`: the bundle's folder. Default: one in build/, named by what it holds, the base, target and precision.
- `on_progress`: called with what is being done, in a few words.

Each returns a report of the bundle, which was checked against PyTorch. Each raises InputError for a parameter or a file
that can't be used, and FailedCheck when an artifact is not PyTorch's equal; `out` is then as it was. An export that was
stopped goes on where it was when the same one is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.options import (
    ATTENTION,
    PIPELINE_BATCH,
    STEPS,
    UNET_BATCH,
    HypernetOptions,
    OnProgress,
    PipelineOptions,
    Report,
    Source,
    UNetOptions,
    ignore_progress,
)
from export.source import (
    Base,
    base_layout,
    chosen_guidance,
    chosen_hypernet,
    chosen_lora,
    chosen_pipeline,
    chosen_rank,
    chosen_unet,
    is_loaded,
)
from export.targets import find_target
from export.write import write_hypernet, write_pipeline, write_unet
from lorarar.base.names import DEFAULT_BASE
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import LoadedHypernet
from lorarar.lora import LoRA

Hypernet = str | Path | LoadedHypernet


def hypernet(
    base: Base = DEFAULT_BASE,
    *,
    target: str,
    hypernet: Hypernet | None = None,
    untrained: bool = False,
    rank: int | None = None,
    precision: str | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Report:
    """Export the hypernetwork with the exact merge, as one artifact that a phone runs.

    A loaded `base` is left as it is: only its layout is read. The parameters are described in `export.api`.
    """
    found = find_target(target)
    precision = precision or found.default_precision
    found.require("merger", precision)
    rank = chosen_rank(base, rank)
    layout = base_layout(base)
    loaded = chosen_hypernet(base, layout, hypernet, untrained)
    options = HypernetOptions(found.name, precision, rank)
    place = _place(out, f"merger-{layout.base}", options)
    return write_hypernet(loaded, layout, options, place, on_progress or ignore_progress)


def unet(
    base: Base = DEFAULT_BASE,
    *,
    target: str,
    fused: str | Path | LoRA | Sequence[str | Path | LoRA] | None = None,
    hypernet: Hypernet | None = None,
    untrained: bool = False,
    rank: int | None = None,
    precision: str | None = None,
    resolution: int | None = None,
    batch: int = UNET_BATCH,
    attention: str = ATTENTION,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Report:
    """Export the UNet with adapter inputs, so that it takes any merged LoRA at run time.

    With `fused` it has none: that LoRA (a file or an object) is added into the weights, or a content and a style LoRA
    merged by `hypernet`. The other parameters are described in `export.api`.
    """
    found = find_target(target)
    precision = precision or found.default_precision
    found.require("unet", precision)
    found.require_attention(attention)
    if fused is not None and rank is not None:
        raise InputError("`rank` is that of adapter inputs, which a UNet with a fused LoRA does not have; leave it out")
    _refuse_untrained(base, untrained)
    rank = chosen_rank(base, rank)
    lora = chosen_lora(base, base_layout(base), fused, hypernet)
    opened = chosen_unet(base, precision, untrained, resolution, batch)
    options = UNetOptions(found.name, precision, rank, opened.size, lora, attention)
    place = _place(out, f"{'fused' if lora else 'unet'}-{opened.layout.base}", options)
    return write_unet(opened.unet, opened.layout, options, place, on_progress or ignore_progress)


def pipeline(
    base: Base = DEFAULT_BASE,
    *,
    target: str,
    hypernet: Hypernet | None = None,
    untrained: bool = False,
    rank: int | None = None,
    precision: str | None = None,
    resolution: int | None = None,
    batch: int = PIPELINE_BATCH,
    attention: str = ATTENTION,
    tiny_vae: str | Path | None = None,
    steps: int = STEPS,
    guidance: float | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Report:
    """Export everything that a phone needs to make an image with any two LoRAs, as one bundle.

    `tiny_vae` is the folder or hub id of an AutoencoderTiny, such as TAESDXL, to take instead of the base's VAE.
    `steps` and `guidance` are what apps start with; the default of the guidance is the base's own. The other parameters
    are described in `export.api`.
    """
    found = find_target(target)
    precision = precision or found.default_precision
    found.require("unet", precision)
    found.require_attention(attention)
    rank = chosen_rank(base, rank)
    loaded = chosen_hypernet(base, base_layout(base), hypernet, untrained)
    opened = chosen_unet(base, precision, untrained, resolution, batch)
    around = chosen_pipeline(base, opened, untrained, tiny_vae)
    options = PipelineOptions(
        found.name, precision, rank, opened.size, steps, chosen_guidance(base, guidance), attention
    )
    source = Source(around, opened.layout, loaded)
    return write_pipeline(source, options, _place(out, opened.layout.base, options), on_progress or ignore_progress)


def _place(out: str | Path | None, name: str, options: HypernetOptions | UNetOptions | PipelineOptions) -> Path:
    """Return the bundle's folder: the one given, or one in build/."""
    return Path("build") / f"{name}-{options.target}-{options.precision}" if out is None else Path(out)


def _refuse_untrained(base: Base, untrained: bool) -> None:
    if untrained and is_loaded(base):
        raise InputError("`untrained` makes a base of random weights, but `base` is loaded already; leave one out")
