"""The three exports, one call each: what `import export` offers.

Parameters that they share:

- `base`: a name (miniature, sdxl, koala-700m, koala-1b), a diffusers folder, a hub id, a checkpoint in one .safetensors
  file, or a loaded diffusers pipeline or UNet. A loaded network that is exported is used up: its weights are freed once
  they are written, since a copy of SDXL's UNet is 10 GB.
- `target`: a name of `export.targets.TARGETS`.
- `hypernet`: the file of a trained hypernetwork or of constant coefficients, or a loaded `Hypernetwork`. Default: the
  one that is shipped, for the miniature.
- `untrained`: take seeded random weights, which show sizes and speed alone.
- `rank`: of one LoRA: all that are loaded together may have `loras` times as many; onnx takes any, up to 1,024
  together. Default: that of the LoRAs that are trained for the base.
- `loras`: how many LoRAs can be loaded together: a content, a style, and others beside them.
- `adapt`: what the UNet's adapter holds: `transformer`, or the `attention` alone, which takes less of many LoRAs.
- `text_adapters`: give the text encoders inputs for LoRAs too, for those that were trained with them.
- `precision`: of the artifact; of a pipeline, the UNet's: text encoders follow it down to w8, the hypernetwork's inputs
  are fp16 where the UNet's are, and the VAE's decoder is in fp32 unless `vae_precision` says otherwise (qnn: fp16).
  Default: the target's own.
- `soc`: the Snapdragon that qnn compiles for, such as sm8650; other targets take none.
- `unchecked`: write the bundle without running it, where a check takes hours: QNN's emulator on a full-size UNet. The
  manifest says so.
- `resolution`: pixels of the image's side. Default: the base's own.
- `batch`: of the UNet; 2 runs both prompts of guidance at once.
- `out`: the bundle's folder. Default: one in build/, named by what it holds, the base, target and precision.
- `on_progress`: called with what is being done, in a few words.

Each returns a report of the bundle, which was checked against PyTorch. Each raises InputError for a parameter or a file
that can't be used, and FailedCheck when an artifact is not PyTorch's equal; `out` is then as it was. An export that was
stopped goes on where it was when the same one is made again.
"""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path

from export.options import (
    ADAPTED,
    LORAS,
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
    require_start,
)
from export.resume import require_replaceable
from export.source import (
    Base,
    Fused,
    Hypernet,
    base_layout,
    base_name,
    chosen_hypernet,
    chosen_lora,
    chosen_pipeline,
    chosen_rank,
    chosen_unet,
    is_loaded,
)
from export.targets import find_offer, require_toolchains
from export.write import write_hypernet, write_pipeline, write_unet
from lorarar.base.names import DEFAULT_BASE, usual_sampling, with_text_encoders
from lorarar.base.sources import open_tiny_vae
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import fit_predictor
from lorarar.layout import TEXT_PARTS


def hypernet(
    base: Base = DEFAULT_BASE,
    *,
    target: str,
    hypernet: Hypernet = None,
    untrained: bool = False,
    rank: int | None = None,
    loras: int = LORAS,
    precision: str | None = None,
    soc: str | None = None,
    unchecked: bool = False,
    out: str | Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Report:
    """Export the hypernetwork as one artifact that a phone runs: stacked LoRAs in, the coefficients of a merge out.

    A loaded `base` is left as it is: only its layout is read. The parameters are described in `export.api`.
    """
    precision = _offered(out, target, "hypernet", precision, soc)
    options = HypernetOptions(
        target, precision, chosen_rank(base, rank, loras), loras=loras, soc=soc, unchecked=unchecked
    )
    found = chosen_hypernet(base, hypernet, untrained)  # before the base, which may have to be downloaded
    layout = base_layout(base)
    return write_hypernet(
        fit_predictor(found, layout), layout, options, _folder(out, f"hypernet-{layout.base}", options), on_progress
    )


def unet(
    base: Base = DEFAULT_BASE,
    *,
    target: str,
    fused: Fused = None,
    hypernet: Hypernet = None,
    untrained: bool = False,
    rank: int | None = None,
    loras: int | None = None,
    adapt: str | None = None,
    precision: str | None = None,
    soc: str | None = None,
    unchecked: bool = False,
    resolution: int | None = None,
    batch: int = UNET_BATCH,
    out: str | Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Report:
    """Export the UNet with adapter inputs, so that it takes any LoRAs and any merge of them at run time.

    With `fused` it has none: that LoRA (a file or an object) is added into the weights, or a content and a style LoRA
    merged by `hypernet`. The other parameters are described in `export.api`.
    """
    precision = _offered(out, target, "unet", precision, soc)
    if fused is not None:
        _require_no_adapters(rank=rank, loras=loras, adapt=adapt)
    if untrained and is_loaded(base):
        raise InputError("`untrained` makes a base of random weights, but `base` is loaded already; leave one out")
    loras = LORAS if loras is None else loras
    rank = chosen_rank(base, rank, loras)
    layout = base_layout(base, ADAPTED if adapt is None else adapt)
    lora = chosen_lora(base, layout, fused, hypernet, untrained)
    network, size = chosen_unet(base, precision, untrained, resolution, batch)
    options = UNetOptions(target, precision, rank, size, lora, loras=loras, soc=soc, unchecked=unchecked)
    folder = _folder(out, f"{'fused' if lora else 'unet'}-{layout.base}", options)
    return write_unet(network, layout, options, folder, on_progress)


def pipeline(
    base: Base = DEFAULT_BASE,
    *,
    target: str,
    hypernet: Hypernet = None,
    untrained: bool = False,
    rank: int | None = None,
    loras: int = LORAS,
    adapt: str = ADAPTED,
    precision: str | None = None,
    soc: str | None = None,
    unchecked: bool = False,
    resolution: int | None = None,
    batch: int = PIPELINE_BATCH,
    text_adapters: bool = False,
    tiny_vae: str | Path | None = None,
    vae_precision: str | None = None,
    vae_tile: int | None = None,
    steps: int = STEPS,
    guidance: float | None = None,
    guidance_rescale: float | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Report:
    """Export everything that a phone needs to make an image with any two LoRAs, as one bundle.

    `tiny_vae` is the folder or hub id of an AutoencoderTiny, such as TAESDXL, to take instead of the base's VAE.
    `vae_precision` is fp32, the default where a target has it, or fp16, for a VAE that was made for it: SDXL's own
    overflows. `vae_tile` is the side in pixels of what the decoder takes at once, for images in tiles: less memory, and
    faint seams. `steps`, `guidance` and `guidance_rescale` are what apps start with; the defaults of the last two are
    the base's own. The other parameters are described in `export.api`.
    """
    precision = _offered(out, target, "unet", precision, soc, vae_precision)
    guidance, rescale = usual_sampling(base_name(base)).guided(guidance, guidance_rescale)
    require_start(steps, guidance, rescale)
    tiny = None if tiny_vae is None else open_tiny_vae(str(tiny_vae))
    rank = chosen_rank(base, rank, loras)
    predictor = chosen_hypernet(base, hypernet, untrained, alone=False)
    layout = base_layout(base, adapt)
    loaded = fit_predictor(predictor, layout)
    network, size = chosen_unet(base, precision, untrained, resolution, batch)
    found = chosen_pipeline(base, network, size, untrained, tiny)
    if text_adapters:
        layout = with_text_encoders(layout, {name: getattr(found, name) for name in TEXT_PARTS.values()})
    source = Source(found, layout, loaded)
    options = PipelineOptions(target, precision, rank, size, steps, guidance, loras=loras, soc=soc, unchecked=unchecked)
    options = replace(options, guidance_rescale=rescale, vae_precision=vae_precision, vae_tile=vae_tile)
    return write_pipeline(source, options, _folder(out, layout.base, options), on_progress)


def _offered(
    out: str | Path | None,
    target: str,
    component: str,
    precision: str | None,
    soc: str | None,
    vae_precision: str | None = None,
) -> str:
    """Return the precision of a component (default: the target's own).

    Raises InputError as `find_offer`, and at once for what a base, which may be many GB, would be loaded in vain for:
    an `out` that is no bundle, and a toolchain or runtime that is missing.
    """
    found, precision = find_offer(target, component, precision, soc, vae_precision)
    if out is not None:
        if not isinstance(out, str | PathLike):
            raise InputError(f"`out` is {out!r}; give the path of a folder")
        require_replaceable(Path(out))
    require_toolchains(found)
    return precision


def _require_no_adapters(**given: object) -> None:
    """Refuse options of adapter inputs for a UNet that has none."""
    for name, value in given.items():
        if value is not None:
            raise InputError(
                f"`{name}` is that of adapter inputs, which a UNet with a fused LoRA does not have; leave it out"
            )


def _folder(out: str | Path | None, name: str, options: HypernetOptions) -> Path:
    """Return the bundle's folder: the one given, or one in build/."""
    parts = [name.replace("/", "-"), options.target, options.precision, *([options.soc] if options.soc else [])]
    return Path("build") / "-".join(parts) if out is None else Path(out)
